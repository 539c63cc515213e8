"""Every registered network, by name: exported, checked against PyTorch, quantised, built, and run everywhere."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from fer_edge.backends import BACKENDS, SessionOptions, available_backends, load_session
from fer_edge.builder import BuildOptions, build
from fer_edge.bundle import Bundle
from fer_edge.calibration.placement.families import placement_of
from fer_edge.calibration.placement.graph import Graph
from fer_edge.calibration.placement.rules import DEFAULT_RULES, FLOAT_RULES
from fer_edge.calibration.qdq.dialects import DIALECTS
from fer_edge.export.checkpoints import random_network
from fer_edge.export.networks import NETWORKS
from fer_edge.export.networks.tolerance import DEFAULT_TOLERANCE, Discontinuous
from fer_edge.export.weights import TrainedNetwork
from fer_edge.models.catalogue import CATALOGUE
from fer_edge.preprocess import prepare_batch
from fer_edge.synthetic.drawn import generate_faces

#: The ensemble is as large as all others of its paper together: one file of 1.5 GB, near ONNX's limit.
LARGE = pytest.mark.skipif(
    "FER_EDGE_LARGE_TESTS" not in os.environ,
    reason="takes minutes and 10 GB of memory: set FER_EDGE_LARGE_TESTS=1",
)
#: Small ones: a network of ours with attention, and residual blocks with normalisation.
QUICK = ("visual-attention", "resnet18")
NAMES = [
    pytest.param(
        name,
        marks=[
            *([LARGE] if name == "resmasking-ensemble" else []),
            *([pytest.mark.slow] if name not in QUICK else []),
        ],
    )
    for name in NETWORKS
]
ONE_THREAD = SessionOptions(threads=1)


@pytest.fixture(scope="module", autouse=True)
def cost(request: pytest.FixtureRequest) -> Iterator[None]:
    """Print the total time of all networks and the peak memory of the process."""
    started, used = time.perf_counter(), time.process_time()
    yield
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # the kernel counts KiB
    text = (
        f"\nevery network: {time.perf_counter() - started:.0f} s, {time.process_time() - used:.0f} s of CPU, "
        f"peak memory of the process {peak_gib:.1f} GiB"
    )
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(text, file=sys.stderr)  # the one stream that reaches the terminal from a worker too


@pytest.mark.parametrize("name", NAMES)
def test_build_by_name(name: str, tmp_path: Path) -> None:
    report = build(
        BuildOptions(
            model=name,
            weights="random",
            backend="onnxruntime",
            calibration_images=4,
            comparison_images=4,
            output=tmp_path / "built.fer",
        )
    )
    bundle = report.bundle
    assert bundle.manifest.timing_only
    assert bundle.spec == NETWORKS[name].spec
    assert bundle.manifest.metrics["export"]["differences"].keys() == set(bundle.spec.outputs)

    check_graph(bundle)

    trained = random_network(name)
    batch = comparable_faces(trained, 3)
    with torch.inference_mode():
        outputs = trained.module(torch.from_numpy(batch))
    values = [outputs] if isinstance(outputs, torch.Tensor) else outputs
    expected = {key: value.numpy() for key, value in zip(bundle.spec.outputs, values, strict=True)}
    del trained, outputs, values
    for backend in available_backends("cpu"):
        check_numbers(bundle, backend, batch, expected)
    for dialect in DIALECTS:
        check_int8(bundle, dialect, batch, expected)


def check_graph(bundle: Bundle) -> None:
    """Standard operators, and one number per parameter: normalisations are folded, no weight is stored twice."""
    model = onnx.load(bundle.model_path("fp32", "cpu"))
    assert {node.op_type for node in model.graph.node if node.domain} <= {"SelfAttention"}
    stored = sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer)
    parameters = CATALOGUE[bundle.spec.network].parameters
    # EmotionalDAN stores its mean image, Sun et al. the bases of the illumination's diffusion.
    assert 0.98 * parameters < stored < 1.01 * parameters + 200_000
    graph = Graph(model)
    in_use = {name for name in DEFAULT_RULES if FLOAT_RULES[name].find(graph)}
    assert in_use == set(placement_of(bundle.spec.network).rules) - {"stem"}


def comparable_faces(trained: TrainedNetwork, count: int) -> np.ndarray:
    """Return faces away from discontinuities, where rounding would decide the outputs."""
    kept: list[np.ndarray] = []
    for seed in range(20):
        batch = prepare_batch(list(generate_faces(count, seed)), trained.spec)
        if isinstance(trained.module, Discontinuous):
            with torch.inference_mode():
                batch = batch[trained.module.is_steady(torch.from_numpy(batch)).numpy()]
        kept += list(batch)
        if len(kept) >= count:
            break
    return np.stack(kept[:count])


def check_numbers(
    bundle: Bundle, backend: str, batch: np.ndarray, expected: Mapping[str, np.ndarray]
) -> None:
    """FP32 gives PyTorch's numbers, for one face and for several."""
    session = load_session(bundle, BACKENDS[backend], "fp32", ONE_THREAD)
    for size in (1, len(batch)):
        found = session.run(batch[:size])
        assert found.keys() == expected.keys()
        for key, reference in expected.items():
            tolerance = NETWORKS[bundle.spec.network].tolerances.get(key, DEFAULT_TOLERANCE)
            np.testing.assert_allclose(
                found[key],
                reference[:size],
                rtol=0,
                atol=tolerance.at(float(np.abs(reference).max())),
                err_msg=f"{backend} {key}",
            )
    session.close()


def check_int8(bundle: Bundle, dialect: str, batch: np.ndarray, expected: Mapping[str, np.ndarray]) -> None:
    """The Q/DQ file of ``dialect`` holds integers and approximates the network.

    :func:`build` has checked that it is valid ONNX.
    """
    path = bundle.model_path("int8", dialect)
    # The cpu dialect leaves FERAtt's 4×4 transposed convolutions in floating point: ONNX Runtime has no kernel.
    assert path.stat().st_size < 0.4 * bundle.model_path("fp32", dialect).stat().st_size + (1 << 18)
    session = BACKENDS["onnxruntime"].open(path, ONE_THREAD)
    found = session.run(batch)
    session.close()
    assert found.keys() == expected.keys()
    for key, reference in expected.items():
        assert found[key].shape == reference.shape
        assert np.isfinite(found[key]).all(), key
        a, b = found[key].ravel().astype(np.float64), reference.ravel().astype(np.float64)
        assert a @ b / np.sqrt((a @ a) * (b @ b)) > 0.98, f"{dialect} {key}"

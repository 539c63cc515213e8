"""Every network in every precision: the engine computes what ONNX Runtime computes on the CPU."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from fer_edge.backends import BACKENDS, SessionOptions, load_session
from fer_edge.backends.tensorrt import TensorRtBackend
from fer_edge.builder import BuildOptions, build
from fer_edge.bundle import PRECISIONS, Bundle
from fer_edge.export.networks import NETWORKS
from fer_edge.preprocess import prepare_batch
from fer_edge.synthetic.drawn import generate_faces

LARGE = pytest.mark.skipif(
    "FER_EDGE_LARGE_TESTS" not in os.environ,
    reason="takes minutes and 10 GB of memory: set FER_EDGE_LARGE_TESTS=1",
)
NAMES = [pytest.param(name, marks=[LARGE] if name == "resmasking-ensemble" else []) for name in NETWORKS]
GPU_BACKENDS = ("tensorrt", "tensorrt-rtx", "onnxruntime-tensorrt", "onnxruntime-cuda")
#: Of the largest output. FP32 sums are added in another order, and the engine's build has TF32 switched off.
TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2}
#: ONNX Runtime's TensorRT provider computes FP32 in TF32, of 10 bits, and has no option against it.
TOLERANCE_WITH_TF32 = {**TOLERANCE, "fp32": 5e-3}
MIN_COSINE = 0.98  # of INT8, whose roundings fall otherwise where sums are added in another order
BATCHES = (1, 3, 16, 21)


@pytest.fixture(scope="module", params=NAMES)
def network(request: pytest.FixtureRequest) -> str:
    """The name of a network."""
    return request.param


@pytest.fixture(scope="module", params=PRECISIONS)
def precision(request: pytest.FixtureRequest) -> str:
    """Precision of the bundle."""
    return request.param


@pytest.fixture(scope="module")
def bundle(network: str, precision: str, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with random weights; built only where a backend of a GPU will run it."""
    if not any(BACKENDS[name].available().ok for name in GPU_BACKENDS):
        pytest.skip(BACKENDS["tensorrt"].available().reason)
    options = BuildOptions(
        model=network,
        weights="random",
        precision=precision,
        backend="onnxruntime",
        calibration_images=16,
        comparison_images=4,
        output=tmp_path_factory.mktemp("bundle") / f"{network}.fer",
    )
    return build(options).bundle


def run_on_cpu(bundle: Bundle, precision: str, dialect: str, batch: np.ndarray) -> Mapping[str, np.ndarray]:
    """Return the outputs of ONNX Runtime for the FP32 file, or for the same Q/DQ."""
    path = bundle.model_path("int8" if precision == "int8" else "fp32", dialect)
    session = BACKENDS["onnxruntime"].open(path, SessionOptions())
    try:
        return session.run(batch)
    finally:
        session.close()


def test_the_engine_agrees_with_onnx_runtime(
    bundle: Bundle, precision: str, backend: TensorRtBackend
) -> None:
    batch = prepare_batch(list(generate_faces(max(BATCHES), seed=3)), bundle.spec)
    expected = run_on_cpu(bundle, precision, backend.dialect, batch)
    session = load_session(bundle, backend, precision)
    try:
        for rows in BATCHES:
            found = session.run(batch[:rows])
            assert found.keys() == expected.keys()
            for name, values in found.items():
                compare(name, values, expected[name][:rows], precision)
    finally:
        session.close()


def compare(
    name: str,
    found: np.ndarray,
    expected: np.ndarray,
    precision: str,
    tolerance: Mapping[str, float] = TOLERANCE,
) -> None:
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    assert np.isfinite(found).all(), name
    if precision in tolerance:
        bound = tolerance[precision] * max(float(np.abs(expected).max()), 1.0)
        np.testing.assert_allclose(found, expected, rtol=0, atol=bound, err_msg=name)
    else:
        a, b = found.ravel().astype(np.float64), expected.ravel().astype(np.float64)
        assert a @ b >= MIN_COSINE * np.sqrt((a @ a) * (b @ b)), name


@pytest.mark.parametrize("name", GPU_BACKENDS[2:])
def test_onnx_runtime_on_the_gpu_agrees_with_itself_on_the_cpu(
    bundle: Bundle, precision: str, name: str
) -> None:
    backend = BACKENDS[name]
    if not backend.available().ok:
        pytest.skip(f"{backend.available().reason}. Fix: {backend.available().fix}")
    batch = prepare_batch(list(generate_faces(5, seed=4)), bundle.spec)
    expected = run_on_cpu(bundle, precision, backend.dialect, batch)
    tolerance = TOLERANCE_WITH_TF32 if name == "onnxruntime-tensorrt" else TOLERANCE
    session = load_session(bundle, backend, precision)
    for output, values in session.run(batch).items():
        compare(output, values, expected[output], precision, tolerance)
    session.close()


def test_the_shipped_bundle_on_a_photograph(backend: TensorRtBackend, astronaut_file: Path) -> None:
    import cv2

    from fer_edge import Runtime

    frame = cv2.imread(str(astronaut_file))
    with (
        Runtime(backend="onnxruntime", precision="fp32") as cpu,
        Runtime(backend=backend.name, precision="fp32") as gpu,
    ):
        (expected,), (found,) = cpu(frame).faces, gpu(frame).faces
    assert found.label == expected.label
    for name, probability in expected.probabilities.items():
        assert found.probabilities[name] == pytest.approx(probability, abs=0.01)

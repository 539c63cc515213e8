"""The comparison of FP32 with INT8 on real models, against an independent implementation."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from fer_edge.backends import BACKENDS, SessionOptions, available_backends
from fer_edge.backends.onnxruntime import OnnxRuntimeBackend
from fer_edge.bundle import Bundle, open_bundle
from fer_edge.calibration.comparison import peak_memory
from fer_edge.calibration.comparison.compare import Comparison, compare
from fer_edge.calibration.comparison.fidelity import measure_fidelity
from fer_edge.calibration.comparison.peak_memory import peak_memory_bytes
from fer_edge.calibration.qdq.writer import quantise
from fer_edge.calibration.ranges.ranges import load_ranges
from fer_edge.datasets import FaceDataset
from fer_edge.errors import BackendError, CalibrationError
from fer_edge.evaluation.evaluate import session_logits
from fer_edge.labels import FERPLUS
from fer_edge.models.catalogue import shipped_bundle
from fer_edge.synthetic.drawn import generate_faces

FACES = 120
ORT = BACKENDS["onnxruntime"]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return open_bundle(shipped_bundle())


@pytest.fixture(scope="module")
def fp32(bundle: Bundle) -> Path:
    return bundle.model_path("fp32", "cpu")


@pytest.fixture(scope="module")
def int8(bundle: Bundle, fp32: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("int8") / "model.onnx"
    onnx.save(quantise(onnx.load(fp32), load_ranges(bundle.path / "ranges.json", fp32), "cpu"), path)
    return path


@pytest.fixture(scope="module")
def faces(bundle: Bundle, fp32: Path) -> FaceDataset:
    """Generated faces, two thirds of them labelled by the FP32 prediction."""
    crops = np.stack(list(generate_faces(FACES, seed=3)))[..., 0]
    session = ORT.open(fp32, SessionOptions())
    seen = session_logits(session, list(crops), bundle.spec).argmax(axis=1)
    session.close()
    rng = np.random.default_rng(0)
    labels = np.where(rng.random(FACES) < 0.67, seen, rng.integers(0, 8, FACES))
    return FaceDataset("faces", crops, np.eye(8, dtype=np.float32)[labels], bundle.spec.class_names, True)


@pytest.fixture(scope="module")
def comparison(bundle: Bundle, fp32: Path, int8: Path, faces: FaceDataset) -> Comparison:
    return compare(fp32, int8, ORT, bundle.spec, faces)


def test_labels_give_metrics_temperatures_and_paired_changes(comparison: Comparison) -> None:
    assert comparison.fp32_metrics is not None
    assert comparison.int8_metrics is not None
    assert comparison.paired is not None
    assert comparison.faces == comparison.paired.faces == comparison.fp32_metrics.count == FACES
    assert comparison.paired.change_pp == pytest.approx(
        100 * (comparison.int8_metrics.accuracy - comparison.fp32_metrics.accuracy)
    )
    assert tuple(c.int8_f1 for c in comparison.paired.classes) == pytest.approx(comparison.int8_metrics.f1)
    assert comparison.fp32_temperature is not None
    assert comparison.temperature is not None
    for fitted, metrics in (
        (comparison.fp32_temperature, comparison.fp32_metrics),
        (comparison.temperature, comparison.int8_metrics),
    ):
        assert fitted.faces == FACES
        assert fitted.ece_before == pytest.approx(metrics.ece)
    assert 20 < comparison.snr_db < 60  # type: ignore[operator]


def test_sizes_times_and_memory_are_those_of_the_files(
    comparison: Comparison, fp32: Path, int8: Path
) -> None:
    assert (comparison.fp32_bytes, comparison.int8_bytes) == (fp32.stat().st_size, int8.stat().st_size)
    assert comparison.fp32_latency.n == comparison.int8_latency.n >= 5
    latency = comparison.latency
    assert latency.speedup == comparison.fp32_latency.p50_ms / comparison.int8_latency.p50_ms
    assert 0 < latency.low <= latency.high
    assert latency.load is None or 0 <= latency.load <= 1
    for peak, size in (
        (comparison.fp32_peak_bytes, comparison.fp32_bytes),
        (comparison.int8_peak_bytes, comparison.int8_bytes),
    ):
        assert peak is not None
        assert size + 10e6 < peak < 2e9


def test_to_dict_is_json(comparison: Comparison) -> None:
    value = json.loads(json.dumps(comparison.to_dict(), allow_nan=False))
    assert value["speedup"] == comparison.latency.speedup
    assert (value["speedup_low"], value["speedup_high"]) == (comparison.latency.low, comparison.latency.high)
    assert value["fp32_latency"]["n"] == comparison.latency.n
    assert value["paired"]["classes"][0]["name"] == "neutral"
    assert {"count", "confidence", "accuracy", "weight"} == set(value["int8_metrics"]["reliability"][0])


def test_without_labels_there_is_no_accuracy(bundle: Bundle, fp32: Path, faces: FaceDataset) -> None:
    unlabelled = FaceDataset("plain", faces.images[:4], None, (), True)
    found = compare(fp32, fp32, ORT, bundle.spec, unlabelled)
    assert found.fp32_metrics is found.int8_metrics is found.paired is None
    assert found.fp32_temperature is found.temperature is None
    assert (found.agreement, found.snr_db) == (1, None)
    assert found.logit_cosine == pytest.approx(1)
    json.dumps(found.to_dict(), allow_nan=False)


def test_logits_of_fp32_that_are_known_are_not_computed_again(
    bundle: Bundle, fp32: Path, faces: FaceDataset
) -> None:
    few, counted = faces.first(4), []
    session = ORT.open(fp32, SessionOptions())
    logits = session_logits(session, few, bundle.spec)
    session.close()
    found = compare(fp32, fp32, ORT, bundle.spec, few, on_faces=counted.append, fp32_logits=-logits)
    assert found.logit_cosine == pytest.approx(-1)
    assert sum(counted) == 4


def test_labels_that_the_network_lacks_count_for_agreement_only(faces: FaceDataset) -> None:
    seven = open_bundle(shipped_bundle("conv-attention-fer2013"))
    labels = np.eye(8, dtype=np.float32)[[FERPLUS.index("contempt")] * 10 + [FERPLUS.index("happiness")] * 10]
    some = dataclasses.replace(faces.subset(range(20)), labels=labels)
    model = seven.model_path("fp32", "cpu")
    found = compare(model, model, ORT, seven.spec, some)
    assert found.faces == 20
    assert found.paired is not None
    assert found.paired.faces == 10
    assert {c.name: c.faces for c in found.paired.classes if c.faces} == {"happy": 10}
    assert found.temperature is None  # too few faces to fit one


@pytest.mark.parametrize("scale", [0.0, 0.001, 0.1])
def test_fidelity_is_that_of_pytorch(scale: float) -> None:
    rng = np.random.default_rng(0)
    fp32 = rng.normal(0, 3, (50, 8)).astype(np.float32)
    int8 = fp32 + rng.normal(0, scale, (50, 8)).astype(np.float32) + rng.normal(0, 5, (50, 1))
    int8 = int8.astype(np.float32)
    found = measure_fidelity(fp32, int8)
    a, b = (t - t.mean(1, keepdim=True) for t in (torch.from_numpy(v).double() for v in (fp32, int8)))
    assert found.logit_cosine == pytest.approx(torch.cosine_similarity(a, b).mean().item())
    assert found.snr_db == pytest.approx(10 * torch.log10(a.square().sum() / (a - b).square().sum()).item())
    assert found.agreement == (a.argmax(1) == b.argmax(1)).double().mean().item()


def test_identical_or_empty_logits_have_no_noise_ratio() -> None:
    logits = np.random.default_rng(0).normal(size=(5, 3))
    assert measure_fidelity(logits, logits).to_dict()["snr_db"] is None
    assert measure_fidelity(np.zeros((5, 3)), logits).snr_db is None


@pytest.mark.parametrize(
    ("fp32", "int8", "message"),
    [
        (
            np.zeros((2, 3)),
            np.full((2, 3), np.nan),
            "INT8 logits are not finite. Fix: calibrate with other faces",
        ),
        (
            np.full((2, 3), np.inf),
            np.zeros((2, 3)),
            "FP32 logits are not finite. Fix: give other weights or faces",
        ),
        (np.zeros((0, 3)), np.zeros((0, 3)), "expected logits of the same faces"),
        (np.zeros((2, 3)), np.zeros((2, 4)), r"\[2, 3\] and \[2, 4\]"),
    ],
)
def test_logits_that_cannot_be_compared(fp32: np.ndarray, int8: np.ndarray, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        measure_fidelity(fp32, int8)


def weights_model(path: Path, megabytes: int) -> Path:
    """A network of one input value with ``megabytes`` of weights."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(4, megabytes * 65536)).astype(np.float32)
    node = onnx.helper.make_node("MatMul", ["flat", "weights"], ["logits"])
    flatten = onnx.helper.make_node("Flatten", ["input"], ["flat"])
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [flatten, node],
        "g",
        [value("input", 1, ["n", 1, 2, 2])],
        [value("logits", 1, ["n", weights.shape[1]])],
        [onnx.numpy_helper.from_array(weights, "weights")],
    )
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9), path
    )
    return path


@pytest.mark.parametrize("name", available_backends("cpu"))
def test_peak_memory_grows_with_the_weights(bundle: Bundle, tmp_path: Path, name: str) -> None:
    backend = BACKENDS[name]
    spec = dataclasses.replace(bundle.spec, input_height=2, input_width=2)
    small, large = (
        peak_memory_bytes(weights_model(tmp_path / f"{mb}.onnx", mb), backend, spec, SessionOptions(1))
        for mb in (1, 100)
    )
    assert small is not None
    assert large is not None
    assert large - small > 90e6


def test_a_process_that_fails_says_why(bundle: Bundle, tmp_path: Path) -> None:
    damaged = tmp_path / "a; echo $(id) 'b.onnx"
    damaged.write_bytes(b"\x08\x07 not a model")
    with pytest.raises(BackendError, match="measuring the memory of .* failed: onnxruntime cannot load"):
        peak_memory_bytes(damaged, ORT, bundle.spec)


def test_memory_is_not_guessed(bundle: Bundle, fp32: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak_memory, "run_worker", lambda *_, **__: pytest.fail("a process was started"))
    assert peak_memory_bytes(fp32, OnnxRuntimeBackend(), bundle.spec) is None  # not a registered backend
    monkeypatch.setattr(peak_memory, "own_peak_bytes", lambda: None)
    assert peak_memory_bytes(fp32, ORT, bundle.spec) is None

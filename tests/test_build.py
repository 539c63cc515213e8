"""Building bundles: what ships, random weights, trained weights, both dialects, comparison."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from fer_edge._files import sha256_of
from fer_edge.backends import BACKENDS, load_session
from fer_edge.build import BuildOptions, build
from fer_edge.bundle import open_bundle
from fer_edge.catalogue import CATALOGUE, shipped_bundle
from fer_edge.errors import DataError, UsageError, WeightsError
from fer_edge.evaluation import session_logits
from fer_edge.export.networks import NETWORKS
from fer_edge.synthetic_faces import generate_faces


@pytest.fixture(scope="module")
def int8_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("build") / "default.fer"
    build(BuildOptions(backend="onnxruntime", output=output))
    return output


def test_the_default_bundle_holds_both_dialects_and_a_report(int8_bundle: Path) -> None:
    bundle = open_bundle(int8_bundle)
    assert bundle.manifest.precision == "int8"
    assert set(bundle.manifest.files) == {
        "model.onnx", "ranges.json", "model.int8.cpu.onnx", "model.int8.tensorrt.onnx", "report.json",
    }  # fmt: skip
    report = json.loads((int8_bundle / "report.json").read_text())
    assert report["agreement"] > 0.97
    assert report["int8_bytes"] < 0.4 * report["fp32_bytes"]
    assert report["record"]["versions"]["onnxruntime"]
    assert {"n", "p50_ms", "p90_ms", "p99_ms"} <= set(report["int8_latency"])


@pytest.mark.parametrize("dialect", ["cpu", "tensorrt"])
def test_int8_models_hold_integer_weights(int8_bundle: Path, dialect: str) -> None:
    model = onnx.load(int8_bundle / f"model.int8.{dialect}.onnx")
    integers = sum(
        int(np.prod(t.dims)) for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT8
    )
    floats = sum(
        int(np.prod(t.dims)) for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT
    )
    assert integers > 50 * floats


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_every_backend_and_precision_agrees_with_fp32(
    int8_bundle: Path, backend: str, precision: str
) -> None:
    bundle = open_bundle(int8_bundle)
    faces = list(generate_faces(24, seed=5))
    reference = session_logits(load_session(bundle, BACKENDS["onnxruntime"], "fp32"), faces, bundle.spec)
    found = session_logits(load_session(bundle, BACKENDS[backend], precision), faces, bundle.spec)
    tolerance = 1e-4 if precision == "fp32" else 0.12 * np.abs(reference).max()
    assert np.abs(found - reference).max() < tolerance
    assert (found.argmax(1) == reference.argmax(1)).mean() >= 0.95


def test_the_shipped_bundle_is_small_trained_and_calibrated_on_real_faces() -> None:
    path = shipped_bundle()
    bundle = open_bundle(path)
    assert sum(record.size for record in bundle.manifest.files.values()) < 10e6
    assert not bundle.manifest.timing_only
    assert bundle.manifest.provenance["licence"] == "Apache-2.0"
    weights = path.parent / "conv-attention.safetensors"
    assert bundle.manifest.provenance["weights_sha256"] == sha256_of(weights)
    ranges = json.loads((path / "ranges.json").read_text())
    assert ranges["data"]["name"] == "FER+ Training"
    assert (path.parent / "MODEL_CARD.md").is_file()


def test_the_shipped_weights_are_those_of_the_shipped_bundle(tmp_path: Path) -> None:
    weights = shipped_bundle().parent / "conv-attention.safetensors"
    bundle = build(BuildOptions(weights=str(weights), precision="fp32", output=tmp_path / "w.fer")).bundle
    faces = list(generate_faces(8))
    logits = [
        session_logits(load_session(b, BACKENDS["onnxruntime"]), faces, b.spec)
        for b in (bundle, open_bundle(shipped_bundle()))
    ]
    assert np.abs(logits[0] - logits[1]).max() < 1e-4


def test_calibration_and_evaluation_on_a_class_folder(tmp_path: Path) -> None:
    for name in ("happy", "sad"):
        (tmp_path / "faces" / name).mkdir(parents=True)
        for i, face in enumerate(generate_faces(4, seed=len(name))):
            cv2.imwrite(str(tmp_path / "faces" / name / f"{i}.png"), face)
    data = tmp_path / "faces"
    report = build(
        BuildOptions(
            backend="onnxruntime",
            calibration_data=data,
            eval_data=data,
            method="entropy",
            output=tmp_path / "b.fer",
        )
    )
    assert report.calibration == "entropy on 8 faces of faces"
    assert report.comparison is not None
    assert report.comparison.fp32_metrics is not None
    assert report.comparison.fp32_metrics.count == 8
    ranges = json.loads((tmp_path / "b.fer" / "ranges.json").read_text())
    assert ranges["method"] == "entropy"
    assert len(ranges["data"]["fingerprint"]) == 64


def test_random_weights_calibrate_on_generated_images(tmp_path: Path) -> None:
    report = build(
        BuildOptions(weights="random", backend="onnxruntime", calibration_images=8, output=tmp_path / "r.fer")
    )
    assert report.bundle.manifest.timing_only
    assert report.calibration == "minmax on 8 faces of generated images"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"model": "conv-atention"},
            UsageError,
            "unknown model 'conv-atention'.*did you mean 'conv-attention'",
        ),
        ({"model": "resmasking"}, WeightsError, "no trained weights of resmasking ship.*--weights FILE"),
        ({"weights": "none.safetensors"}, WeightsError, "none.safetensors does not exist"),
        ({"precision": "int4"}, UsageError, "unknown precision 'int4'"),
        ({"comparison_images": 0}, UsageError, "comparison_images must be at least 1, found 0"),
        ({"backend": "tensorflow"}, UsageError, "unknown backend 'tensorflow'"),
        ({"method": "minmx", "weights": "random"}, UsageError, "unknown calibration method 'minmx'"),
        ({"calibration_data": Path("nowhere")}, DataError, "nowhere does not exist"),
        ({"eval_data": Path("nowhere")}, DataError, "nowhere does not exist"),
    ],
)
def test_what_cannot_be_built_leaves_nothing(
    tmp_path: Path, options: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        build(BuildOptions(**{"backend": "onnxruntime", "output": tmp_path / "x.fer", **options}))
    assert list(tmp_path.iterdir()) == []


def test_the_catalogue_and_the_networks_are_the_same_list() -> None:
    assert set(CATALOGUE) == set(NETWORKS)

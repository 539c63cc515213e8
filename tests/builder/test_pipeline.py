"""Building bundles: shipped, random and trained weights, both dialects, comparison."""

from __future__ import annotations

import dataclasses
import gzip
import itertools
import json
import re
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from fer_edge._utils.files import sha256_of
from fer_edge.backends import BACKENDS, available_backends, load_session
from fer_edge.builder import BuildOptions, build
from fer_edge.bundle import open_bundle
from fer_edge.datasets import load_dataset
from fer_edge.errors import DataError, GateError, UsageError, WeightsError
from fer_edge.evaluation.evaluate import evaluate, session_logits
from fer_edge.evaluation.metrics import expected_calibration_error
from fer_edge.evaluation.temperature import fit_temperature
from fer_edge.export.networks import NETWORKS
from fer_edge.models.catalogue import CATALOGUE, SHIPPED, shipped_bundle, shipped_figures
from fer_edge.probabilities import softmax
from fer_edge.synthetic import render_faces
from fer_edge.synthetic.drawn import generate_faces
from fer_edge.system.provenance import device_name, processor_features


def test_the_default_bundle_holds_both_dialects_and_a_report(int8_bundle: Path) -> None:
    bundle = open_bundle(int8_bundle)
    assert bundle.manifest.precision == "int8"
    assert set(bundle.manifest.files) == {
        "model.onnx", "ranges.json", "model.int8.cpu.onnx", "model.int8.tensorrt.onnx", "report.json",
        "report.html", "calibration.tensorrt10.cache", "self_test.npz",
    }  # fmt: skip
    report = json.loads((int8_bundle / "report.json").read_text())
    comparison = report["comparison"]
    assert comparison["agreement"] > 0.95  # 99 % on real faces, which give more confident predictions
    assert comparison["logit_cosine"] > 0.999
    assert comparison["int8_bytes"] < 0.4 * comparison["fp32_bytes"]
    assert report["record"]["versions"]["onnxruntime"]
    assert {"n", "p50_ms", "p90_ms", "p99_ms"} <= set(comparison["int8_latency"])
    assert report["gate"]["passed"]
    assert report["simulated"]["tensorrt"]["logit_cosine"] > 0.999
    assert "integer multiply-adds" in (int8_bundle / "report.html").read_text()


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


@pytest.mark.parametrize("backend", available_backends("cpu"))
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


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_bundles_are_small_trained_and_calibrated_on_real_faces(name: str) -> None:
    path, model = shipped_bundle(name), SHIPPED[name]
    bundle = open_bundle(path)
    provenance = bundle.manifest.provenance
    assert sum(record.size for record in bundle.manifest.files.values()) < 10e6
    assert not bundle.manifest.timing_only
    assert bundle.spec.network == model.network
    assert "attention" in bundle.spec.outputs
    assert provenance["licence"] == "Apache-2.0"
    assert provenance["recipe"]["network"] == model.network
    assert provenance["weights_sha256"] == sha256_of(path.with_suffix(".safetensors"))
    ranges = json.loads((path / "ranges.json").read_text())
    assert ranges["data"]["name"] in ("FER+ Training", "FER2013 Training")
    figures = shipped_figures(name)
    assert 0.6 < figures["accuracy"]["fp32"] < 1
    assert f"{100 * figures['accuracy']['fp32']:.2f} %" in path.with_suffix(".md").read_text()


@pytest.mark.parametrize(
    "name", [next(iter(SHIPPED)), *(pytest.param(name, marks=pytest.mark.slow) for name in [*SHIPPED][1:])]
)
def test_shipped_figures_are_reached(name: str, shared: Path) -> None:
    """The figure of the model card is reproduced on 600 faces within three standard errors."""
    data = shared / "data" / "fer2013" / "fer2013.csv.gz"
    faces = load_dataset(data, "PublicTest", SHIPPED[name].labels).sample(600)
    bundle = open_bundle(shipped_bundle(name))
    found = evaluate(bundle, BACKENDS["onnxruntime"], faces, prior="training").metrics.accuracy
    published = shipped_figures(name)["accuracy"]["fp32"]
    assert abs(found - published) < 3 * (published * (1 - published) / 600) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_temperature_is_fitted_on_labelled_faces_and_used(
    precision: str, shared: Path, tmp_path: Path
) -> None:
    data = tmp_path / "fer2013.csv"
    with gzip.open(shared / "data" / "fer2013" / "fer2013.csv.gz", "rt") as rows:
        data.write_text("".join(itertools.islice(rows, 401)))
    options = BuildOptions(
        weights="conv-attention-fer2013",
        precision=precision,
        backend="onnxruntime",
        eval_data=data,
        output=tmp_path / "a.fer",
    )
    bundle = build(options).bundle
    faces, session = load_dataset(data), load_session(bundle, BACKENDS["onnxruntime"])
    assert bundle.spec.class_names == faces.class_names
    logits = session_logits(session, faces, bundle.spec)
    session.close()
    temperature = bundle.manifest.temperature
    assert temperature == pytest.approx(fit_temperature(logits, faces.targets), rel=1e-4)
    fitted = bundle.manifest.metrics["temperature"]
    assert "temperature" not in bundle.manifest.metrics.get("comparison", {})  # once is enough
    assert fitted["faces"] == 400
    assert fitted["ece_before"] == pytest.approx(
        expected_calibration_error(softmax(logits), faces.targets), abs=1e-6
    )
    used = evaluate(bundle, BACKENDS["onnxruntime"], faces, prior="training").metrics
    expected = expected_calibration_error(softmax(logits / temperature), faces.targets)
    assert used.ece == pytest.approx(expected, abs=1e-6)


def test_calibration_and_evaluation_on_class_folders(tmp_path: Path) -> None:
    faces = render_faces(24, 31)
    for folder, part in (("mine", faces[:16]), ("theirs", faces[12:])):  # four faces are in both
        for i, face in enumerate(part):
            path = tmp_path / folder / ("happy", "sad")[i % 2] / f"{i}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), face)
    options = BuildOptions(
        backend="onnxruntime",
        calibration_data=tmp_path / "mine",
        eval_data=tmp_path / "theirs",
        method="entropy",
        output=tmp_path / "b.fer",
        overwrite=True,
    )
    report = build(options)
    assert report.calibration == "entropy on 12 faces of mine"
    assert report.comparison is not None
    assert report.comparison.fp32_metrics is not None
    assert report.comparison.fp32_metrics.count == 12
    assert report.comparison.faces == 16
    written = json.loads((tmp_path / "b.fer" / "report.json").read_text())
    assert written["model"]["accuracy_prior"] == report.bundle.manifest.logit_prior == "training"
    assert "under the prior training" in (tmp_path / "b.fer" / "report.html").read_text()
    assert written["data"]["comparing"]["data"] == "12 faces of theirs and 4 generated images (rendered)"
    assert written["data"]["pictures"]["mine"]["in_comparison"] == 4
    assert written["data"]["overlap"] == 0
    assert written["gate"]["holds_for"] == {
        "processor": device_name(),
        "processor_features": list(processor_features()),
        "backend": "onnxruntime",
        "faces": "12 faces of theirs and 4 generated images (rendered)",
    }
    assert report.bundle.manifest.metrics["gate"] == written["gate"]
    few = re.compile("expected at least 100 distinct faces of .* to calibrate on, found 12")
    assert any(few.search(text) for text in report.to_dict()["warnings"])
    assert (
        "12 faces of theirs and 4 generated images (rendered)" in (tmp_path / "b.fer/report.html").read_text()
    )
    ranges = json.loads((tmp_path / "b.fer" / "ranges.json").read_text())
    assert ranges["method"] == "entropy"
    assert len(ranges["data"]["fingerprint"]) == 64
    with pytest.raises(DataError, match="no face of theirs is left to calibrate on"):
        build(dataclasses.replace(options, calibration_data=tmp_path / "theirs"))


def test_fp16_that_misses_its_bound_leaves_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fer_edge.builder.fp16.MIN_COSINE", 1.1)
    output = tmp_path / "h.fer"
    with pytest.raises(
        GateError, match=r"does not work in FP16.*h\.fer\.refused.*Fix: run fer-edge build --int8"
    ):
        build(BuildOptions(precision="fp16", backend="onnxruntime", output=output))
    report = json.loads((tmp_path / "h.fer.refused" / "report.json").read_text())
    assert report["candidates"][0]["logit_cosine"] > 0.99
    assert not report["gate"]["passed"]
    assert [path.name for path in tmp_path.iterdir()] == ["h.fer.refused"]


@pytest.mark.slow
def test_a_bound_that_int8_misses_is_met_by_mixed_precision(int8_bundle: Path, tmp_path: Path) -> None:
    whole = json.loads((int8_bundle / "report.json").read_text())["comparison"]["logit_cosine"]
    bound = 1 - 0.75 * (1 - whole)
    options = BuildOptions(
        backend="onnxruntime", min_cosine=bound, sensitivity_images=8, output=tmp_path / "mixed.fer"
    )
    report = build(options).report
    bundle = open_bundle(tmp_path / "mixed.fer")  # verifies every file
    left = report["mixed_precision"]["float_layers"]
    assert left
    assert json.loads((bundle.path / "report.json").read_text())["mixed_precision"]["float_layers"] == left
    assert json.loads((bundle.path / "ranges.json").read_text())["placement"]["float_layers"] == sorted(left)
    assert report["comparison"]["logit_cosine"] >= bound
    original = {node.name: node for node in onnx.load(bundle.path / "model.onnx").graph.node}
    for dialect in ("cpu", "tensorrt"):
        model = onnx.load(bundle.path / f"model.int8.{dialect}.onnx")
        stored = {t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT8}
        assert stored
        assert not {f"{layer}.weight.q" for layer in left} & stored
        floats = {t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
        assert {original[n].input[1] for n in left if original[n].op_type == "Conv"} <= floats
    assert left[0] in (bundle.path / "report.html").read_text()


@pytest.mark.slow
def test_random_weights_calibrate_on_generated_images(tmp_path: Path) -> None:
    report = build(
        BuildOptions(
            weights="random",
            backend="onnxruntime",
            calibration_images=8,
            comparison_images=4,
            output=tmp_path / "r.fer",
        )
    )
    assert report.bundle.manifest.timing_only
    assert report.calibration == "minmax on 8 faces of generated images (rendered)"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"model": "conv-atention"},
            UsageError,
            "unknown model 'conv-atention'.*did you mean 'conv-attention'",
        ),
        ({"model": "feratt"}, WeightsError, "no trained weights of feratt ship.*--weights FILE"),
        ({"weights": "none.safetensors"}, WeightsError, "none.safetensors does not exist"),
        ({"precision": "int4"}, UsageError, "unknown precision 'int4'"),
        (
            {"comparison_images": 0},
            UsageError,
            "comparison_images must be None or a whole number from 1 to 1000000000, found 0",
        ),
        ({"backend": "tensorflow"}, UsageError, "unknown backend 'tensorflow'"),
        ({"method": "minmx", "weights": "random"}, UsageError, "unknown calibration method 'minmx'"),
        (
            {"method": "minmax"},
            UsageError,
            "ranges ship with conv-attention, and --method minmax cannot change them",
        ),
        (
            {"generator": "noise", "calibration_data": Path()},
            UsageError,
            r"expected generator or calibration_data, found both \(noise and \.\)\. Fix: leave one out",
        ),
        (
            {"generator": "nois"},
            UsageError,
            "unknown generator 'nois'.*leaves, mixed, noise.*did you mean 'noise'",
        ),
        ({"max_drop": -1.0}, UsageError, "max_drop_pp must be None or a number from 0 to 100, found -1.0"),
        ({"min_cosine": 1.0, "weights": "random"}, UsageError, "min_cosine must be from -1 to below 1"),
        (
            {"max_drop": 1.0, "precision": "fp32"},
            UsageError,
            "are for INT8, found the precision fp32. Fix: leave them out",
        ),
        ({"sensitivity": True, "precision": "fp32"}, UsageError, "are for INT8, found the precision fp32"),
        (
            {"sensitivity_images": 0},
            UsageError,
            "sensitivity_images must be a whole number from 1 to 1000000000, found 0",
        ),
        (
            {"min_cosine": 1 - 1e-12, "comparison_images": 4, "sensitivity_images": 1},
            GateError,
            "INT8 cannot meet a logit cosine of at least 0.9.*tried 0 layers in floating point",
        ),
        ({"calibration_data": Path("nowhere")}, DataError, "nowhere does not exist"),
        ({"eval_data": Path("nowhere")}, DataError, "nowhere does not exist"),
    ],
)
def test_what_cannot_be_built_leaves_no_bundle(
    tmp_path: Path, options: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        build(BuildOptions(**{"backend": "onnxruntime", "output": tmp_path / "x.fer", **options}))
    left = ["x.fer.refused"] if error is GateError else []  # holds the report
    assert [path.name for path in tmp_path.iterdir()] == left


def test_the_catalogue_and_the_networks_are_the_same_list() -> None:
    assert set(CATALOGUE) == set(NETWORKS)

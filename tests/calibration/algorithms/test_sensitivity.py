"""Sensitivity: a fragile layer comes first, and the noise of single layers adds up to that of all."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from small_graphs import Builder, constants_of, nodes_of, run

from fer_edge.backends import BACKENDS
from fer_edge.bundle import RANGES, open_bundle
from fer_edge.calibration.algorithms.sensitivity import MIN_LABELLED, LayerSensitivity, measure_sensitivity
from fer_edge.calibration.algorithms.trial import Trial
from fer_edge.calibration.placement.placement import Placement, place
from fer_edge.calibration.qdq.writer import integer_layers, quantise
from fer_edge.calibration.ranges.collect import observe
from fer_edge.calibration.ranges.ranges import Ranges, load_ranges
from fer_edge.datasets import FaceDataset
from fer_edge.models.catalogue import shipped_bundle
from fer_edge.preprocess import prepare_batch
from fer_edge.synthetic import render_faces

ONNXRUNTIME = BACKENDS["onnxruntime"]
SPEC = open_bundle(shipped_bundle()).spec
SMALL = dataclasses.replace(SPEC, input_height=16, input_width=16)


def fragile_network() -> onnx.ModelProto:
    """Four convolutions, and a channel whose outlier sets the scale of the input of ``conv3``."""
    b = Builder()
    b.conv("input", "first", 1, 8, 3)
    b.add("Relu", ["first"], "relu1")
    b.add("Relu", [b.conv("relu1", "conv2", 8, 8, 3)], "relu2")
    outlier = np.ones(8, np.float32)
    outlier[0] = 400
    b.add("Mul", ["relu2", b.constant("gain", outlier.reshape(1, 8, 1, 1))], "uneven")
    b.add("Relu", [b.conv("uneven", "conv3", 8, 8, 3)], "relu3")
    (weight,) = (t for t in b.constants if t.name == "conv3.w")
    values = onnx.numpy_helper.to_array(weight).copy()
    values[:, 0] /= 400  # it contributes no more than the others
    weight.CopyFrom(onnx.numpy_helper.from_array(values, "conv3.w"))
    b.add("Add", [b.conv("relu3", "conv4", 8, 8, 3), "relu3"], "sum")
    b.gemm(
        b.add("Flatten", [b.add("GlobalAveragePool", ["sum"], "mean")], "flat"),
        "logits",
        8,
        len(SPEC.class_names),
    )
    model = b.model("logits")
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1
    return model


@pytest.fixture(scope="module")
def faces() -> FaceDataset:
    return FaceDataset("rendered", render_faces(24), None, (), are_crops=True)


def trial_of(model: Path) -> Trial:
    return Trial(model, ONNXRUNTIME, SMALL, place(onnx.load(model)))


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fragile") / "model.onnx"
    onnx.save(fragile_network(), path)
    return path


@pytest.fixture(scope="module")
def ranges(fragile: Path, faces: FaceDataset) -> Ranges:
    return observe(fragile, [prepare_batch(list(faces), SMALL)], {}).ranges("minmax")


@pytest.fixture(scope="module")
def found(fragile: Path, ranges: Ranges, faces: FaceDataset) -> tuple[LayerSensitivity, ...]:
    return measure_sensitivity(trial_of(fragile), ranges, faces)


def test_the_fragile_layer_comes_first(found: tuple[LayerSensitivity, ...]) -> None:
    assert {layer.layer for layer in found} == {"first", "conv2", "conv3", "conv4", "sum"}
    assert found[0].layer == "conv3"
    assert found[0].noise > 10 * found[1].noise
    assert [layer.noise for layer in found] == sorted((layer.noise for layer in found), reverse=True)
    by_name = {layer.layer: layer for layer in found}
    assert by_name["conv3"].macs == 16 * 16 * 8 * 8 * 9
    assert (by_name["sum"].op, by_name["sum"].macs) == ("Add", 0)
    assert all(layer.drop_pp is None for layer in found)  # no labels


def test_one_layer_alone_computes_in_integers(
    fragile: Path, ranges: Ranges, faces: FaceDataset, found: tuple[LayerSensitivity, ...]
) -> None:
    """The figure of each layer matches a model that is quantised and run here."""
    model, batch = onnx.load(fragile), prepare_batch(list(faces), SMALL)
    reference = run(model, batch)["logits"]
    reference = reference - reference.mean(axis=1, keepdims=True)
    names = {layer.layer for layer in found}
    for layer in found:
        alone = Placement(float_layers=frozenset(names - {layer.layer}))
        quantised = quantise(model, dataclasses.replace(ranges, placement=alone), "cpu")
        stored = {n for n in constants_of(quantised) if n.endswith(".weight.q")}
        assert stored == ({f"{layer.layer}.weight.q"} if layer.op == "Conv" else set())
        logits = run(quantised, batch)["logits"]
        logits = logits - logits.mean(axis=1, keepdims=True)
        noise = ((logits - reference) ** 2).sum() / (reference**2).sum()
        assert layer.noise == pytest.approx(noise, rel=0.05, abs=1e-9), layer.layer


def test_noise_adds_up_nearly_as_independent_noise_does() -> None:
    """The sum holds on the shipped network within a factor of 2 (3 dB)."""
    bundle = open_bundle(shipped_bundle())
    model = bundle.model_path("fp32", "cpu")
    ranges = dataclasses.replace(load_ranges(bundle.path / RANGES, model), bias_shifts={})
    faces = FaceDataset("rendered", render_faces(16), None, (), are_crops=True)
    placed = place(onnx.load(model), ranges.placement)
    trial = Trial(model, ONNXRUNTIME, bundle.spec, placed)
    counted: list[tuple[int, int]] = []
    layers = measure_sensitivity(trial, ranges, faces, lambda done, total: counted.append((done, total)))
    expected = integer_layers(placed, "cpu")
    assert {layer.layer for layer in layers} == {node.name for node in expected}
    assert counted == [(i + 1, len(expected)) for i in range(len(expected))]
    fp32, int8 = trial.fp32_logits(faces), trial.logits(ranges, faces)
    signal = fp32 - fp32.mean(axis=1, keepdims=True)
    all_noise = ((int8 - int8.mean(axis=1, keepdims=True) - signal) ** 2).sum() / (signal**2).sum()
    assert 0.5 < sum(layer.noise for layer in layers) / all_noise < 2


def labelled(faces: FaceDataset, targets: np.ndarray) -> FaceDataset:
    labels = np.eye(len(SPEC.class_names), dtype=np.float32)[targets]
    return dataclasses.replace(faces, labels=labels, class_names=SPEC.class_names)


def test_accuracy_is_measured_where_there_are_enough_labels(
    fragile: Path, ranges: Ranges, faces: FaceDataset
) -> None:
    trial = trial_of(fragile)
    many = FaceDataset("many", np.concatenate([faces.images] * 5)[:MIN_LABELLED], None, (), are_crops=True)
    targets = trial.fp32_logits(many).argmax(axis=1)  # FP32 is correct on all faces
    for layer in measure_sensitivity(trial, ranges, labelled(many, targets)):
        kept = {n.name for n in integer_layers(trial.placed, "cpu")} - {layer.layer}
        alone = dataclasses.replace(ranges, placement=Placement(float_layers=frozenset(kept)))
        changed = trial.logits(alone, many).argmax(axis=1) != targets
        assert layer.drop_pp == pytest.approx(100 * changed.mean())
    few = many.subset(range(MIN_LABELLED - 1))
    layers = measure_sensitivity(trial, ranges, labelled(few, targets[:-1]))
    assert all(layer.drop_pp is None for layer in layers)


def test_layers_left_out_already_stay_so(fragile: Path, ranges: Ranges, faces: FaceDataset) -> None:
    kept = dataclasses.replace(ranges, placement=Placement(float_layers=frozenset({"conv3"})))
    layers = measure_sensitivity(trial_of(fragile), kept, faces)
    assert "conv3" not in {layer.layer for layer in layers}
    alone = quantise(onnx.load(fragile), kept, "cpu")
    assert nodes_of(alone)["conv3"].input[1] == "conv3.w"


def test_a_tensor_around_what_the_dialect_cannot_store_is_not_charged_to_other_layers(tmp_path: Path) -> None:
    """A 4×4 transposed convolution is floating point in the cpu dialect, so its tensors add no noise."""
    b = Builder()
    b.add("Relu", [b.conv("input", "conv1", 1, 8, 3)], "relu1")
    b.add(
        "Tanh", [b.add("ConvTranspose", ["relu1", b.weight("w", 8, 8, 4, 4)], "up", strides=[2, 2])], "tanh"
    )
    b.add("Relu", [b.conv("tanh", "conv2", 8, 8, 3)], "relu2")
    b.gemm(b.add("Flatten", [b.add("GlobalAveragePool", ["relu2"], "mean")], "flat"), "logits", 8, 8)
    model, path = b.model("logits"), tmp_path / "model.onnx"
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1
    onnx.save(model, path)
    faces = FaceDataset("rendered", render_faces(8), None, (), are_crops=True)
    ranges = observe(path, [prepare_batch(list(faces), SMALL)], {}).ranges("minmax")
    alone = dataclasses.replace(ranges, placement=Placement(float_layers=frozenset({"conv2"})))
    stored = {n.removesuffix(".scale") for n in constants_of(quantise(model, alone, "cpu"))}
    assert "up" not in stored
    layers = measure_sensitivity(trial_of(path), ranges, faces)
    assert {layer.layer for layer in layers} == {"conv1", "conv2"}

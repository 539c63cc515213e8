"""Bias correction against PyTorch: it removes the mean rounding error of each layer."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from small_graphs import Builder, constants_of, make_every_kind, nodes_of, random_faces, run, tapped
from torch.nn import functional

from fer_edge.calibration.algorithms.bias_correction import measure_bias_shifts
from fer_edge.calibration.placement.placement import DEFAULT_PLACEMENT, Placement, place
from fer_edge.calibration.qdq.dialects import DIALECTS
from fer_edge.calibration.qdq.weights import round_weight, shift_biases
from fer_edge.calibration.qdq.writer import quantise
from fer_edge.calibration.ranges.collect import observe
from fer_edge.calibration.ranges.ranges import Ranges, load_ranges
from fer_edge.errors import CalibrationError

FACES = random_faces(10, 12)
BATCHES = [FACES[:4], FACES[4:5], FACES[5:]]
#: Layer → (weight, bias, axis of its output channels, the tensor it reads, PyTorch's operator).
LAYERS: dict[str, tuple[str, str | None, int, str, Callable[..., torch.Tensor]]] = {
    "conv1": ("w1", "b1", 0, "input", lambda x, w, b: functional.conv2d(x, w, b, padding=1)),
    "conv2": ("w2", "b2", 0, "pool", lambda x, w, b: functional.conv2d(x, w, b, padding=1)),
    "up": ("wt", "bt", 1, "relu2", lambda x, w, b: functional.conv_transpose2d(x, w, b, stride=2)),
    "conv4": ("w4", None, 0, "masked", functional.conv2d),
    "hidden1": ("g1", "gb1", 0, "flat", functional.linear),
    "hidden2": ("g2", "gb2", 1, "hidden1r", lambda x, w, b: x @ w + b),
}


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    onnx.save(make_every_kind(), path)
    return path


@pytest.fixture(scope="module")
def shifts(model_file: Path) -> dict[str, tuple[float, ...]]:
    return dict(measure_bias_shifts(model_file, BATCHES, place(make_every_kind())))


def mean_error(
    layer: str, shift: tuple[float, ...] | None, model: onnx.ModelProto
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean rounding error of each channel of a layer over faces and positions, and its scale."""
    weight, bias, axis, source, operator = LAYERS[layer]
    values = constants_of(model)
    x = torch.tensor(FACES if source == "input" else run(tapped(model, source), FACES)[source])
    w = torch.tensor(values[weight])
    steps = w.abs().amax([i for i in range(w.ndim) if i != axis], keepdim=True) / 127
    rounded = torch.round(w / steps) * steps
    b = torch.zeros(w.shape[axis]) if bias is None else torch.tensor(values[bias])
    moved = b if shift is None else b + torch.tensor(shift, dtype=torch.float32)
    change = operator(x.double(), rounded.double(), moved.double()) - operator(
        x.double(), w.double(), b.double()
    )
    axes = [0, 2, 3][: change.ndim - 1]
    return change.mean(axes).numpy(), change.abs().mean(axes).numpy()


@pytest.mark.parametrize("layer", LAYERS)
def test_the_mean_error_of_each_channel_vanishes(
    layer: str, shifts: dict[str, tuple[float, ...]], model_file: Path
) -> None:
    model = onnx.load(model_file)
    before, size = mean_error(layer, None, model)
    after, _ = mean_error(layer, shifts[layer], model)
    assert np.abs(before).max() > 0.2 * size.max()
    assert np.abs(after).max() < 1e-3 * np.abs(before).max()


def test_only_integer_layers_have_a_shift(shifts: dict[str, tuple[float, ...]], model_file: Path) -> None:
    assert shifts.keys() == {*LAYERS, "conv3"}  # not the head, nor the residual addition
    placed = place(make_every_kind()).leaving({"conv1", "hidden2"})
    fewer = measure_bias_shifts(model_file, BATCHES, placed)
    assert fewer.keys() == shifts.keys() - {"conv1", "hidden2"}
    assert all(np.allclose(fewer[layer], shifts[layer], rtol=1e-4, atol=1e-7) for layer in fewer)


def test_the_q_dq_model_is_nearer_to_fp32_on_average(
    shifts: dict[str, tuple[float, ...]], model_file: Path
) -> None:
    model = onnx.load(model_file)
    plain = observe(model_file, BATCHES, {}).ranges("minmax")
    reference = run(tapped(model, "mean"), FACES)["mean"].mean(axis=(0, 2, 3))
    for dialect in DIALECTS:
        found = [
            np.abs(
                run(tapped(quantise(model, ranges, dialect), "mean"), FACES)["mean"].mean(axis=(0, 2, 3))
                - reference
            ).mean()
            for ranges in (plain, dataclasses.replace(plain, bias_shifts=shifts))
        ]
        assert found[1] < 0.5 * found[0], dialect


def test_a_layer_in_floating_point_keeps_its_bias(
    shifts: dict[str, tuple[float, ...]], model_file: Path
) -> None:
    model = onnx.load(model_file)
    kept = Placement(float_layers=frozenset({"conv2"}))
    ranges = dataclasses.replace(
        observe(model_file, BATCHES, {}).ranges("minmax"), bias_shifts=shifts, placement=kept
    )
    for dialect in DIALECTS:
        quantised = quantise(model, ranges, dialect)
        values, nodes = constants_of(quantised), nodes_of(quantised)
        assert nodes["conv2"].input[2] == "b2"
        np.testing.assert_array_equal(values["b2"], constants_of(model)["b2"])
    assert nodes["conv1"].input[2] == "conv1.shifted_bias"


def test_a_transposed_convolution_that_one_dialect_cannot_store_is_not_shifted_there(tmp_path: Path) -> None:
    """3×3, stride 2: integer in TensorRT; its phases differ in size, so it is not rewritten as convolutions."""
    b = Builder(12)
    b.add("Relu", [b.conv("input", "conv1", 3, 4, 3)], "relu1")
    weights = [b.weight("w", 4, 4, 3, 3), b.weight("b", 4)]
    size = {"strides": [2, 2], "pads": [1] * 4, "output_padding": [1, 1]}
    b.add("Relu", [b.add("ConvTranspose", ["relu1", *weights], "up", **size)], "relu2")
    flat = b.add("Flatten", [b.add("GlobalAveragePool", ["relu2"], "mean")], "flat")
    b.gemm(flat, "logits", 4, 5)
    model, path = b.model("logits"), tmp_path / "model.onnx"
    onnx.save(model, path)
    found = measure_bias_shifts(path, BATCHES, place(model))
    assert found.keys() == {"conv1", "up"}
    ranges = dataclasses.replace(observe(path, BATCHES, {}).ranges("minmax"), bias_shifts=found)
    cpu, tensorrt = (quantise(model, ranges, dialect) for dialect in ("cpu", "tensorrt"))
    assert list(nodes_of(cpu)["up"].input)[1:] == ["w", "b"]
    assert nodes_of(tensorrt)["up"].input[2] == "up.shifted_bias"
    assert "relu2.scale" not in constants_of(
        cpu
    )  # it has neither an integer producer nor an integer consumer


def test_a_mean_over_faces_does_not_depend_on_how_they_are_batched(
    shifts: dict[str, tuple[float, ...]], model_file: Path
) -> None:
    whole = measure_bias_shifts(model_file, [FACES], place(make_every_kind()))
    for layer, shift in whole.items():
        np.testing.assert_allclose(shifts[layer], shift, rtol=1e-4, atol=1e-7)


def test_no_faces_is_an_error(model_file: Path) -> None:
    with pytest.raises(CalibrationError, match="expected faces to correct biases on, found none"):
        measure_bias_shifts(model_file, [], place(make_every_kind()))


# --- the file ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ranges(model_file: Path, shifts: dict[str, tuple[float, ...]]) -> Ranges:
    found = observe(model_file, BATCHES, {"name": "test"}).ranges("mse")
    placement = Placement(("head", "stem", "softmax"), frozenset({"conv2", "add"}))
    return dataclasses.replace(found, placement=placement, bias_shifts=shifts)


def test_shifts_and_placement_survive_the_file(ranges: Ranges, model_file: Path, tmp_path: Path) -> None:
    ranges.save(tmp_path / "ranges.json")
    assert load_ranges(tmp_path / "ranges.json", model_file) == ranges


def test_a_file_of_before_there_were_corrections_has_none(
    ranges: Ranges, model_file: Path, tmp_path: Path
) -> None:
    path = tmp_path / "ranges.json"
    ranges.save(path)
    value = json.loads(path.read_text())
    del value["placement"], value["bias_shifts"]
    path.write_text(json.dumps(value))
    found = load_ranges(path, model_file)
    assert (found.placement, dict(found.bias_shifts)) == (DEFAULT_PLACEMENT, {})


HOSTILE: dict[str, Callable[[dict], object]] = {
    "unknown rule": lambda v: v["placement"]["rules"].append("everything"),
    "rules that are numbers": lambda v: v["placement"].update(rules=[1, 2]),
    "no rules": lambda v: v["placement"].pop("rules"),
    "a placement that is text": lambda v: v.update(placement="head"),
    "layers that are numbers": lambda v: v["placement"].update(float_layers=[3]),
    "no number": lambda v: v["bias_shifts"].update(conv1=[float("nan")] * 8),
    "infinite": lambda v: v["bias_shifts"].update(conv1=[float("-inf")] * 8),
    "beyond float32": lambda v: v["bias_shifts"].update(conv1=[1e300] * 8),
    "a range beyond float32": lambda v: v["tensors"]["relu1"].update(high=1e300),
    "text for a number": lambda v: v["bias_shifts"].update(conv1=["much"] * 8),
    "one number for a layer": lambda v: v["bias_shifts"].update(conv1=0.5),
    "nested": lambda v: v["bias_shifts"].update(conv1=[[0.5]] * 8),
    "a list for all": lambda v: v.update(bias_shifts=[1.0]),
    "another field": lambda v: v.update(command="rm"),
}


@pytest.mark.parametrize("damage", HOSTILE)
def test_a_hostile_file_is_refused(damage: str, ranges: Ranges, model_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "ranges.json"
    ranges.save(path)
    value = json.loads(path.read_text())
    HOSTILE[damage](value)
    path.write_text(json.dumps(value))
    with pytest.raises(CalibrationError, match="calibrate again"):
        load_ranges(path, model_file)


UNFIT: dict[str, tuple[Callable[[dict], object], str]] = {
    "too few channels": (lambda v: v["bias_shifts"].update(hidden1=[0.5]), "for hidden1 with 1 channels, .* 10 channels"),
    "unknown layer": (lambda v: v["bias_shifts"].update(nowhere=[0.5]), "for nowhere .* no such layer"),
    "unknown float layer": (lambda v: v["placement"].update(float_layers=["nowhere"]), "leave nowhere in floating"),
    "float layers as text": (lambda v: v["placement"].update(float_layers="z"), "leave z in floating point"),
}  # fmt: skip


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("damage", UNFIT)
def test_what_does_not_fit_the_model_is_refused(
    damage: str, dialect: str, ranges: Ranges, model_file: Path, tmp_path: Path
) -> None:
    path = tmp_path / "ranges.json"
    ranges.save(path)
    value = json.loads(path.read_text())
    change, message = UNFIT[damage]
    change(value)
    path.write_text(json.dumps(value))
    with pytest.raises(CalibrationError, match=f"{message}.*calibrate again"):
        quantise(onnx.load(model_file), load_ranges(path, model_file), dialect)


def test_a_shift_is_minus_the_mean_of_the_error(model_file: Path) -> None:
    """One channel by hand: a dense layer on faces with a known mean."""
    b = Builder(2)
    flat = b.add("Flatten", ["input"], "flat")
    weight = np.linspace(-1, 1, 24, dtype=np.float32).reshape(2, 12)
    b.add("Relu", [b.add("Gemm", [flat, b.constant("w", weight)], "dense", transB=1)], "relu")
    b.gemm("relu", "logits", 2, 3)
    model, path = b.model("logits"), model_file.with_name("dense.onnx")
    onnx.save(model, path)
    faces = random_faces(3, 2)
    shift = measure_bias_shifts(path, [faces[:2], faces[2:]], place(model))["dense"]
    integers, scale = round_weight(weight, 0)
    error = integers * scale[:, None].astype(np.float64) - weight
    np.testing.assert_allclose(shift, -error @ faces.reshape(3, 12).mean(axis=0), rtol=1e-3, atol=1e-8)
    shift_biases(model, {"dense": shift})
    added = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}["dense.shifted_bias"]
    np.testing.assert_allclose(added, shift, rtol=1e-6)

"""The Q/DQ writer on a small network that has every kind of node, and its ranges file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from small_graphs import constants_of, count_rules, make_every_kind, nodes_of, random_faces, run, tapped

from fer_edge.calibration.placement.placement import DEFAULT_PLACEMENT, place
from fer_edge.calibration.qdq.dialects import DIALECTS
from fer_edge.calibration.qdq.writer import quantise
from fer_edge.calibration.ranges.collect import observe
from fer_edge.calibration.ranges.ranges import Ranges, load_ranges
from fer_edge.errors import CalibrationError, UsageError

FACES = random_faces(16, 12)


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return make_every_kind()


@pytest.fixture(scope="module")
def model_file(model: onnx.ModelProto, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def ranges(model_file: Path) -> Ranges:
    return observe(model_file, [FACES[:6], FACES[6:]], {"name": "test"}).ranges("minmax")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_int8_is_near_fp32(model: onnx.ModelProto, ranges: Ranges, dialect: str) -> None:
    quantised = quantise(model, ranges, dialect)
    onnx.checker.check_model(quantised, full_check=True)
    expected, found = (run(m, FACES)["logits"] for m in (model, quantised))
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()
    assert not np.array_equal(found, expected)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_rules_look_for_their_layers_once(
    model: onnx.ModelProto, ranges: Ranges, dialect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = count_rules(monkeypatch)
    expected = quantise(model, ranges, dialect)
    assert looked == dict.fromkeys(DEFAULT_PLACEMENT.rules, 1)
    placed = place(model)
    looked.clear()
    assert quantise(model, ranges, dialect, placed) == expected
    assert not looked


_WRITE = """
import sys, pathlib, onnx
from fer_edge.calibration.qdq.writer import quantise
from fer_edge.calibration.ranges.ranges import load_ranges
model, ranges, dialect = sys.argv[1:]
quantised = quantise(onnx.load(model), load_ranges(pathlib.Path(ranges), pathlib.Path(model)), dialect)
sys.stdout.buffer.write(quantised.SerializeToString())
"""


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_file_is_the_same_in_every_process(
    model_file: Path, ranges: Ranges, dialect: str, tmp_path: Path
) -> None:
    ranges.save(tmp_path / "ranges.json")
    command = [sys.executable, "-c", _WRITE, str(model_file), str(tmp_path / "ranges.json"), dialect]
    files = [
        subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": seed}, check=True, capture_output=True)
        for seed in "12"
    ]
    assert files[0].stdout == files[1].stdout


def test_ranges_are_those_of_the_activations(model: onnx.ModelProto, ranges: Ranges) -> None:
    values = run(tapped(model, "relu2"), FACES)["relu2"]
    assert ranges.tensors["relu2"].max == pytest.approx(values.max(), rel=1e-6)
    assert ranges.tensors["input"].min == FACES.min()
    assert ranges.images == len(FACES)


def test_placement_follows_the_rules(model: onnx.ModelProto) -> None:
    groups = place(model).groups
    assert {"input", "relu1", "pool", "conv2", "relu2", "cat", "masked", "flat", "hidden1r"} <= set(groups)
    assert not {"conv1", "sum", "hidden1", "mask", "gain", "logits"} & set(groups)
    assert groups["relu1"] == groups["pool"] == groups["cat"] == groups["up"]


def test_cpu_dialect_has_unsigned_activations_and_integer_biases(
    model: onnx.ModelProto, ranges: Ranges
) -> None:
    quantised = quantise(model, ranges, "cpu")
    values = constants_of(quantised)
    assert {values[f"{name}.zero_point"].dtype for name in ranges.tensors} == {np.dtype(np.uint8)}
    assert values["conv1.bias.q"].dtype == np.int32
    assert values["relu2.zero_point"] == 0
    assert "ConvTranspose" not in {node.op_type for node in quantised.graph.node}
    assert values["up.weight.q"].shape == (16, 8, 1, 1)
    assert nodes_of(quantised)["head"].input[1] == "g3"


def test_tensorrt_dialect_is_signed_symmetric_with_float_biases(
    model: onnx.ModelProto, ranges: Ranges
) -> None:
    quantised = quantise(model, ranges, "tensorrt")
    values, nodes = constants_of(quantised), nodes_of(quantised)
    points = [v for name, v in values.items() if name.endswith(".zero_point")]
    assert points
    assert all(v.dtype == np.int8 and not v.any() for v in points)
    assert [nodes[n].input[2] for n in ("conv1", "up", "hidden1")] == ["b1", "bt", "gb1"]
    assert nodes["product"].input[0] == "relu1"  # a float reader reads floats
    assert nodes["add"].input[:] == ["conv2.dq", "pool.dq"]


def test_both_dialects_come_from_the_same_ranges(model: onnx.ModelProto, ranges: Ranges) -> None:
    cpu, tensorrt = (constants_of(quantise(model, ranges, d)) for d in ("cpu", "tensorrt"))
    r = ranges.tensors["masked"]
    assert tensorrt["masked.scale"] == pytest.approx(max(-r.low, r.high) / 127)
    assert cpu["masked.scale"] == pytest.approx((max(r.high, 0) - min(r.low, 0)) / 255)


@pytest.mark.parametrize(
    ("node", "weight", "axis"),
    [("conv1", "w1", 0), ("up", "wt", 1), ("hidden1", "g1", 0), ("hidden2", "g2", 1)],
)
def test_weights_have_one_scale_per_output_channel(
    model: onnx.ModelProto, ranges: Ranges, node: str, weight: str, axis: int
) -> None:
    original = constants_of(model)[weight]
    quantised = quantise(model, ranges, "tensorrt")
    values = constants_of(quantised)
    scale, integers = values[f"{node}.weight.scale"], values[f"{node}.weight.q"]
    declared = next(a.i for a in nodes_of(quantised)[f"{node}.weight/DQ"].attribute if a.name == "axis")
    assert declared == axis
    assert scale.shape == (original.shape[axis],)
    for channel in range(original.shape[axis]):
        part = np.take(original, channel, axis)
        assert scale[channel] == pytest.approx(np.abs(part).max() / 127, rel=1e-6)
        error = np.abs(np.take(integers, channel, axis) * scale[channel] - part)
        assert error.max() <= scale[channel] * 0.501


def test_a_tiny_weight_channel_with_a_large_bias_does_not_overflow(ranges: Ranges) -> None:
    model = make_every_kind()
    weights = {t.name: t for t in model.graph.initializer}
    w1, b1 = numpy_helper.to_array(weights["w1"]).copy(), numpy_helper.to_array(weights["b1"]).copy()
    w1[0], b1[0] = 1e-12, 3.0
    weights["w1"].CopyFrom(numpy_helper.from_array(w1, "w1"))
    weights["b1"].CopyFrom(numpy_helper.from_array(b1, "b1"))
    values = constants_of(quantise(model, ranges, "cpu"))
    assert values["conv1.bias.q"][0] * values["conv1.bias.scale"][0] == pytest.approx(3.0, rel=1e-4)


def test_a_model_without_integer_work_is_refused(ranges: Ranges) -> None:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["input"], ["logits"])],
        "empty",
        [helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["n", 3])],
    )
    with pytest.raises(
        CalibrationError,
        match="expected a convolution or hidden dense layer that can run in INT8, found none",
    ):
        quantise(helper.make_model(graph), ranges, "cpu")


def test_a_missing_range_and_an_unknown_dialect_are_named(model: onnx.ModelProto, ranges: Ranges) -> None:
    fewer = {name: r for name, r in ranges.tensors.items() if name != "relu2"}
    with pytest.raises(CalibrationError, match=r"1 tensors have no range \(such as relu2\)"):
        quantise(model, Ranges("minmax", 1, {}, "", fewer), "cpu")
    with pytest.raises(UsageError, match="unknown dialect 'tensort'.*did you mean 'tensorrt'"):
        quantise(model, ranges, "tensort")


def test_ranges_survive_the_file(ranges: Ranges, model_file: Path, tmp_path: Path) -> None:
    ranges.save(tmp_path / "ranges.json")
    assert load_ranges(tmp_path / "ranges.json", model_file) == ranges


def _other_model(value: dict) -> None:
    value["model_sha256"] = "0" * 64


def _other_version(value: dict) -> None:
    value["format_version"] = 99


def _infinite(value: dict) -> None:
    value["tensors"]["relu1"]["high"] = float("inf")


def _no_tensors(value: dict) -> None:
    del value["tensors"]


def _swapped(value: dict) -> None:
    value["tensors"]["relu1"].update(low=2.0, high=1.0)


@pytest.mark.parametrize("damage", [_other_model, _other_version, _infinite, _no_tensors, _swapped])
def test_a_damaged_ranges_file_is_refused(
    ranges: Ranges, model_file: Path, tmp_path: Path, damage: Callable[[dict], None]
) -> None:
    path = tmp_path / "ranges.json"
    ranges.save(path)
    value = json.loads(path.read_text())
    damage(value)
    path.write_text(json.dumps(value))
    with pytest.raises(CalibrationError, match="calibrate again"):
        load_ranges(path, model_file)


def test_no_faces_is_an_error(model_file: Path) -> None:
    with pytest.raises(CalibrationError, match="expected faces to calibrate on, found none"):
        observe(model_file, [], {}).ranges("minmax")
    with pytest.raises(UsageError, match="unknown calibration method 'minmx'.*'minmax'"):
        observe(model_file, [FACES], {}).ranges("minmx")


def test_faces_that_are_not_finite_are_refused(model_file: Path) -> None:
    with pytest.raises(CalibrationError, match="not finite"):
        observe(model_file, [np.full((1, 3, 12, 12), np.nan, np.float32)], {}).ranges("minmax")

"""Transposed convolutions as convolutions: the results of ONNX Runtime's ConvTranspose, for any kernel."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, shape_inference
from small_graphs import Builder, constants_of, copy_of, nodes_of, run

from fer_edge.calibration.placement.placement import Placement, place
from fer_edge.calibration.qdq.transposed import expand_transposed
from fer_edge.calibration.qdq.writer import integer_layers, quantise
from fer_edge.calibration.ranges.observers import TensorRange
from fer_edge.calibration.ranges.ranges import Ranges

FACES = np.random.default_rng(2).random((2, 3, 6, 6)).astype(np.float32)


def make(kernel: int, relu: bool = True, bias: bool = True, **changes: object) -> onnx.ModelProto:
    """A convolution, a transposed convolution, and a convolution that reads it."""
    b = Builder(side=6)
    b.add("Relu", [b.conv("input", "first", 3, 5)], "narrow")
    weights = [b.weight("up.w", 5, 4, kernel, kernel), *([b.weight("up.b", 4)] if bias else [])]
    attributes = {"kernel_shape": [kernel] * 2, "strides": [2, 2], "pads": [kernel // 2 - 1] * 4, **changes}
    given = {name: value for name, value in attributes.items() if value is not None}
    wide = b.add("ConvTranspose", ["narrow", *weights], "up", **given)
    if relu:
        wide = b.add("Relu", [wide], "rising")
    b.conv(wide, "last", 4, 2)
    return b.model("last", last=["n", 2, None, None])


TENSORS = dict.fromkeys(("input", "narrow", "up", "rising", "last"), TensorRange(-4, 4, -4, 4))
RANGES = Ranges("minmax", 2, {"name": "test"}, "0" * 64, TENSORS)


def expand(model: onnx.ModelProto) -> tuple[onnx.ModelProto, Mapping[str, TensorRange]]:
    expanded = copy_of(model)
    layers = {node.name for node in place(model).integer_nodes}
    found, tensors = expand_transposed(expanded, layers, TENSORS)
    onnx.checker.check_model(expanded, full_check=True)
    assert found == {node.name for node in place(expanded).integer_nodes}
    return expanded, tensors


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("kernel", [2, 4, 6, 8])
def test_the_numbers_stay(kernel: int, relu: bool, bias: bool) -> None:
    model = make(kernel, relu, bias)
    expanded, tensors = expand(model)
    operators = [node.op_type for node in expanded.graph.node]
    assert "ConvTranspose" not in operators
    assert operators.count("Conv") == 2 + (1 if kernel % 4 else 4)
    assert operators.count("DepthToSpace") == 1
    assert run(expanded, FACES)["last"] == pytest.approx(run(model, FACES)["last"], abs=1e-5)
    final = "rising" if relu else "up"
    added = set(tensors) - set(TENSORS)
    assert added == {f"{final}.{part}" for part in _parts(kernel)}
    assert all(tensors[name] == tensors[final] for name in added)


def _parts(kernel: int) -> list[str]:
    return ["blocks"] if kernel % 4 else ["blocks", "phase00", "phase01", "phase10", "phase11"]


def test_no_more_is_multiplied_than_before() -> None:
    """Each phase has a quarter of the weights, at each input pixel."""
    for kernel in (2, 4, 6, 8):
        before, after = (constants_of(m) for m in (make(kernel), expand(make(kernel))[0]))
        weights = [
            v for name, v in after.items() if name.startswith("up.") and v.ndim == 4 and name != "up.w"
        ]
        assert sum(v.size for v in weights) == before["up.w"].size


@pytest.mark.parametrize("kernel", [2, 4])
def test_integers_of_all_phases_share_a_scale(kernel: int) -> None:
    model = make(kernel)
    quantised = quantise(model, RANGES, "cpu")
    assert "ConvTranspose" not in {node.op_type for node in quantised.graph.node}
    expected = run(model, FACES)["last"]
    assert np.abs(run(quantised, FACES)["last"] - expected).max() < 0.05 * np.abs(expected).max()
    scales = {name: v for name, v in constants_of(quantised).items() if name.startswith("rising")}
    assert len({float(v) for name, v in scales.items() if name.endswith(".scale")}) == 1
    inferred = shape_inference.infer_shapes(quantised)
    kinds = {v.name: v.type.tensor_type.elem_type for v in inferred.graph.value_info}
    assert all(kinds[f"rising.{part}.q"] == onnx.TensorProto.UINT8 for part in _parts(kernel))
    assert [node.name for node in integer_layers(place(model), "cpu")] == ["first", "up"]


@pytest.mark.parametrize(
    ("kernel", "changes"),
    [
        (3, {"pads": [1, 1, 1, 1], "output_padding": [1, 1]}),
        (4, {"pads": [0, 0, 0, 0]}),
        (4, {"pads": [1, 1, 0, 2]}),
        (4, {"strides": [1, 1]}),
        (2, {"strides": [2, 3]}),
        (2, {"dilations": [2, 2]}),
        (4, {"auto_pad": "SAME_UPPER", "pads": None}),
        (2, {"output_padding": [1, 1]}),
        (2, {"output_shape": [12, 12]}),
    ],
)
def test_others_are_left_alone(kernel: int, changes: dict[str, object]) -> None:
    model = make(kernel, **{"pads": [0] * 4, **changes})
    assert run(model, FACES)["last"].shape[:2] == (2, 2)
    assert expand(model)[0] == model
    assert "up" not in {node.name for node in integer_layers(place(model), "cpu")}
    assert "up" in {node.name for node in integer_layers(place(model), "tensorrt")}


def test_what_stays_in_floating_point_is_left_alone() -> None:
    model = make(4)
    ranges = dataclasses.replace(RANGES, placement=Placement(float_layers=frozenset({"up"})))
    quantised = quantise(model, ranges, "cpu")
    assert nodes_of(quantised)["up"].op_type == "ConvTranspose"
    assert nodes_of(quantised)["up"].input[1] == "up.w"


def test_groups_are_left_alone() -> None:
    b = Builder(side=6)
    b.add("Relu", [b.conv("input", "first", 3, 4)], "narrow")
    weights = [b.weight("up.w", 4, 3, 2, 2)]
    b.add("ConvTranspose", ["narrow", *weights], "up", kernel_shape=[2, 2], strides=[2, 2], group=2)
    b.conv("up", "last", 6, 2)
    model = b.model("last", last=["n", 2, None, None])
    assert expand(model)[0] == model


def test_those_of_one_dimension_are_left_alone() -> None:
    weight = numpy_helper.from_array(np.ones((3, 2, 2), np.float32), "w")
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("ConvTranspose", ["input", "w"], ["up"], "up", strides=[2])],
        "line",
        [value("input", onnx.TensorProto.FLOAT, ["n", 3, 6])],
        [value("up", onnx.TensorProto.FLOAT, ["n", 2, 12])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    assert expand(model)[0] == model

"""Faults injected into valid Q/DQ models: each is found, and the node is named."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from small_graphs import Builder, copy_of, make_every_kind, nodes_of, random_faces, run

from fer_edge.calibration.placement.graph import Graph
from fer_edge.calibration.placement.placement import Placement, place
from fer_edge.calibration.qdq.checks import check_qdq
from fer_edge.calibration.qdq.dialects import DIALECTS
from fer_edge.calibration.qdq.writer import quantise
from fer_edge.calibration.ranges.observers import TensorRange
from fer_edge.calibration.ranges.ranges import Ranges
from fer_edge.errors import CalibrationError

Fault = Callable[[onnx.ModelProto], None]


def any_ranges(model: onnx.ModelProto, placement: Placement) -> Ranges:
    """Ranges without faces, since only the form of the Q/DQ model matters here."""
    tensors = {name: TensorRange(-1.0, 2.0, -1.0, 2.0) for name in place(model, placement).groups}
    return Ranges("minmax", 1, {}, "", tensors, placement)


@pytest.fixture(scope="module")
def models() -> dict[str, onnx.ModelProto]:
    model = make_every_kind()
    ranges = any_ranges(model, Placement())
    return {dialect: quantise(model, ranges, dialect) for dialect in DIALECTS}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_the_writer_makes_passes(models: dict[str, onnx.ModelProto], dialect: str) -> None:
    check_qdq(models[dialect], DIALECTS[dialect].signed)
    other = not DIALECTS[dialect].signed
    with pytest.raises(CalibrationError, match=r"input/Q stores an activation as u?int8"):
        check_qdq(models[dialect], other)


def set_constant(name: str, change: Callable[[np.ndarray], object]) -> Fault:
    def fault(model: onnx.ModelProto) -> None:
        (tensor,) = (t for t in model.graph.initializer if t.name == name)
        value = numpy_helper.to_array(tensor).copy()
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(change(value)), name))

    return fault


def set_axis(node: str, axis: int) -> Fault:
    def fault(model: onnx.ModelProto) -> None:
        (attribute,) = (a for a in nodes_of(model)[node].attribute if a.name == "axis")
        attribute.i = axis

    return fault


def set_scale(value: float) -> Fault:
    return set_constant("input.scale", lambda _: np.float32(value))


def drop_zero_point(node: str) -> Fault:
    def fault(model: onnx.ModelProto) -> None:
        del nodes_of(model)[node].input[2]

    return fault


def add_constant(model: onnx.ModelProto, name: str, value: np.ndarray) -> str:
    model.graph.initializer.append(numpy_helper.from_array(value, name))
    return name


def undo_with_another_scale(model: onnx.ModelProto) -> None:
    nodes_of(model)["relu2/DQ"].input[1] = add_constant(model, "another", np.float32(0.5))


def dequantise_nothing(model: onnx.ModelProto) -> None:
    nodes_of(model)["relu2/DQ"].input[0] = "input.q"


def compute_the_scale(model: onnx.ModelProto) -> None:
    for name in ("relu2/Q", "relu2/DQ"):
        nodes_of(model)[name].input[1] = "hidden1"


def per_channel_activation(model: onnx.ModelProto) -> None:
    for constant in ("input.scale", "input.zero_point"):
        set_constant(constant, lambda value: np.repeat(value, 3))(model)


def tiny(value: np.ndarray) -> np.ndarray:
    value[2] = 1e-40
    return value


def minus_128(value: np.ndarray) -> np.ndarray:
    value.flat[5] = -128
    return value


def shifted(value: np.ndarray) -> np.ndarray:
    value[1] = 3
    return value


FAULTS: dict[str, tuple[Fault, str]] = {
    "axis of a square convolution": (set_axis("conv2.weight/DQ", 1), "conv2.weight/DQ scales axis 1 of a Conv, expected 0"),
    "axis of a convolution, from the end": (set_axis("conv2.weight/DQ", -3), "conv2.weight/DQ scales axis -3"),
    "axis of a dense layer": (set_axis("hidden1.weight/DQ", 1), "hidden1.weight/DQ scales axis 1 of a Gemm"),
    "axis of a dense layer, as stored": (set_axis("hidden2.weight/DQ", 0), "hidden2.weight/DQ scales axis 0"),
    "negative scale": (set_scale(-0.1), "input/Q has a scale that is not"),
    "zero scale": (set_scale(0.0), "input/Q has a scale that is not"),
    "scale that is no number": (set_scale(np.nan), "input/Q has a scale that is not"),
    "infinite scale": (set_scale(np.inf), "input/Q has a scale that is not"),
    "subnormal scale": (set_scale(1e-40), "input/Q has a scale that is not"),
    "double scale": (set_constant("input.scale", lambda v: v.astype(np.float64)), "input/Q has a scale that is not"),
    "subnormal scale of one channel": (set_constant("conv1.weight.scale", tiny), "conv1.weight/DQ has a scale"),
    "too few scales": (set_constant("conv1.weight.scale", lambda v: v[:-1]), "conv1.weight/DQ has 7 scales and 8 zero"),
    "scales of another length": (
        lambda m: [set_constant(f"conv1.weight.{part}", lambda v: v[:-1])(m) for part in ("scale", "zero_point")],
        r"conv1.weight/DQ has scales \[7\] for 8 output channels",
    ),
    "one scale for all channels": (
        lambda m: [set_constant(f"conv1.weight.{part}", lambda v: v[0])(m) for part in ("scale", "zero_point")],
        r"conv1.weight/DQ has scales \[\] for 8 output channels",
    ),
    "scales of an activation": (per_channel_activation, "input/Q stores an activation as .* with 3 scales"),
    "-128": (set_constant("conv1.weight.q", minus_128), "conv1.weight/DQ holds -128"),
    "weights with a zero point": (set_constant("conv1.weight.zero_point", shifted), "conv1.weight/DQ is a constant with a zero point"),
    "weights without a sign": (
        set_constant("conv1.weight.q", lambda v: np.abs(v).astype(np.uint8)),
        "conv1.weight/DQ stores weights as UINT8, expected INT8",
    ),
    "no zero point": (drop_zero_point("relu2/Q"), "relu2/Q has no constant scale and zero point"),
    "no zero point of weights": (drop_zero_point("conv1.weight/DQ"), "conv1.weight/DQ has no constant scale"),
    "a scale that is computed": (compute_the_scale, "relu2/Q has no constant scale and zero point"),
    "another scale behind": (undo_with_another_scale, "relu2/DQ does not undo"),
    "another tensor": (dequantise_nothing, "relu2/DQ does not undo"),
}  # fmt: skip


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_and_the_node_named(
    models: dict[str, onnx.ModelProto], dialect: str, fault: str
) -> None:
    damaged = copy_of(models[dialect])
    damage, message = FAULTS[fault]
    damage(damaged)
    with pytest.raises(CalibrationError, match=f"{message}.*Fix: do not use the model"):
        check_qdq(damaged, DIALECTS[dialect].signed)


def test_a_transposed_convolution_has_its_scales_along_the_second_axis(
    models: dict[str, onnx.ModelProto],
) -> None:
    damaged = copy_of(models["tensorrt"])
    set_axis("up.weight/DQ", 0)(damaged)
    with pytest.raises(CalibrationError, match="up.weight/DQ scales axis 0 of a ConvTranspose, expected 1"):
        check_qdq(damaged, True)


def test_an_asymmetric_zero_point_is_right_in_one_dialect_alone(models: dict[str, onnx.ModelProto]) -> None:
    assert any(
        numpy_helper.to_array(t).any()
        for t in models["cpu"].graph.initializer
        if t.name.endswith(".zero_point")
    )
    damaged = copy_of(models["tensorrt"])
    set_constant("relu2.zero_point", lambda _: np.array(5, np.int8))(damaged)
    with pytest.raises(CalibrationError, match="relu2/Q has the zero point 5, expected 0"):
        check_qdq(damaged, True)


def test_the_wrong_axis_of_square_weights_is_valid_onnx_and_runs() -> None:
    """The check is needed: no other check fails, and the results are wrong."""
    b = Builder()
    b.add("Relu", [b.conv("input", "conv1", 3, 6, 3)], "relu1")
    square = b.rng.normal(size=(6, 6, 3, 3)) * np.geomspace(0.01, 1, 6)[:, None, None, None]
    b.add("Conv", ["relu1", b.constant("w", square.astype(np.float32))], "conv2", kernel_shape=[3, 3])
    b.gemm(
        b.add(
            "Flatten", [b.add("GlobalAveragePool", [b.add("Relu", ["conv2"], "relu2")], "mean")], "embedding"
        ),
        "logits",
        6,
        4,
    )
    model = b.model("logits", "embedding")
    quantised = quantise(model, any_ranges(model, Placement()), "tensorrt")
    damaged = copy_of(quantised)
    set_axis("conv2.weight/DQ", 1)(damaged)
    onnx.checker.check_model(damaged, full_check=True)
    right, wrong = (run(m, random_faces(2))["embedding"] for m in (quantised, damaged))
    assert np.abs(wrong - right).max() > 0.1 * np.abs(right).max()
    with pytest.raises(CalibrationError, match="conv2.weight/DQ scales axis 1 of a Conv, expected 0"):
        check_qdq(damaged, True)


def test_a_product_of_two_stored_activations_is_no_weight() -> None:
    b = Builder()
    b.add("Relu", [b.conv("input", "conv1", 3, 4, 3)], "relu1")
    b.add("Relu", [b.conv("relu1", "conv2", 4, 4, 3)], "relu2")
    rows = b.add("Reshape", ["relu1", b.constant("row", np.array([1, 1024]))], "rows")
    b.add("Relu", [b.gemm(rows, "hidden", 1024, 8)], "hidden.relu")
    b.add("Gemm", ["hidden.relu", "hidden.relu"], "products", transB=1)
    b.gemm(b.add("Flatten", [b.add("GlobalAveragePool", ["relu2"], "mean")], "flat"), "logits", 4, 4)
    model = b.model("logits", "products", products=[1, 1])
    placement = Placement(rules=("score",))
    assert "hidden.relu" in place(model, placement).groups
    quantised = quantise(model, any_ranges(model, placement), "cpu")
    assert Graph(quantised).producer[nodes_of(quantised)["products"].input[1]].op_type == "DequantizeLinear"

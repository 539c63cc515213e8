"""Emulation of saturated sums, against pairwise sums in a loop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fer_edge.calibration.qdq.saturation import SaturationEmulator

RNG = np.random.default_rng(13)


def quantised(name: str, scale: float, zero: int) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    constants = [
        numpy_helper.from_array(np.float32(scale), f"{name}.s"),
        numpy_helper.from_array(np.uint8(zero), f"{name}.z"),
    ]
    parameters = [f"{name}.s", f"{name}.z"]
    nodes = [
        helper.make_node("QuantizeLinear", [name, *parameters], [f"{name}.q"]),
        helper.make_node("DequantizeLinear", [f"{name}.q", *parameters], [f"{name}.dq"]),
    ]
    return nodes, constants


def save_layer(
    path: Path, op: str, weights: np.ndarray, scales: np.ndarray, zero: int, **attributes: object
) -> None:
    nodes, constants = quantised("x", 0.5, zero)
    constants += [
        numpy_helper.from_array(weights, "w.q"),
        numpy_helper.from_array(scales, "w.s"),
        numpy_helper.from_array(np.zeros(len(scales), np.int8), "w.z"),
    ]
    axis = 0 if op == "Conv" or attributes.get("transB") else 1
    nodes += [
        helper.make_node("DequantizeLinear", ["w.q", "w.s", "w.z"], ["w"], axis=axis),
        helper.make_node(op, ["x.dq", "w"], ["y"], **attributes),
        helper.make_node("Flatten", ["y"], ["logits"]),
    ]
    shape = ["b", weights.shape[1], 7, 7] if op == "Conv" else ["b", weights.shape[1 - axis]]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", "k"])],
        constants,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def saturated_sum(pixels: np.ndarray, weights: np.ndarray) -> int:
    """Add products two by two as VPMADDUBSW does."""
    total = 0
    for i in range(0, len(pixels), 2):
        pair = int(np.dot(pixels[i : i + 2].astype(int), weights[i : i + 2].astype(int)))
        total += min(max(pair, -32768), 32767)
    return total


@pytest.mark.parametrize(
    ("strides", "pads", "dilations"),
    [([1, 1], [1, 1, 1, 1], [1, 1]), ([2, 1], [0, 1, 2, 0], [1, 1]), ([1, 2], [2, 2, 2, 2], [2, 2])],
    ids=str,
)
@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("zero", [0, 120])
def test_a_convolution(
    tmp_path: Path, channels: int, zero: int, strides: list[int], pads: list[int], dilations: list[int]
) -> None:
    weights = RNG.integers(-127, 128, (5, channels, 3, 3)).astype(np.int8)
    scales = RNG.uniform(0.001, 0.01, 5).astype(np.float32)
    path = tmp_path / "conv.onnx"
    save_layer(path, "Conv", weights, scales, zero, strides=strides, pads=pads, dilations=dilations)
    integers = RNG.integers(0, 256, (2, channels, 7, 7))
    integers[0] = 255
    found = SaturationEmulator(path).logits(((integers - zero) * 0.5).astype(np.float32))
    padded = np.pad(integers, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])), constant_values=zero)
    size = [(padded.shape[2 + i] - 2 * dilations[i] - 1) // strides[i] + 1 for i in (0, 1)]
    expected = np.empty((2, 5, *size))
    zero_sums = weights.reshape(5, -1).astype(int).sum(axis=1) * zero
    for b, o, y, x in np.ndindex(*expected.shape):
        rows = y * strides[0] + np.arange(3) * dilations[0]
        columns = x * strides[1] + np.arange(3) * dilations[1]
        window = padded[b][:, rows][:, :, columns].transpose(1, 2, 0).ravel()
        kernel = weights[o].transpose(1, 2, 0).ravel()
        expected[b, o, y, x] = (saturated_sum(window, kernel) - zero_sums[o]) * 0.5 * scales[o]
    np.testing.assert_allclose(found, expected.reshape(2, -1), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("transposed", [0, 1])
def test_a_dense_layer(tmp_path: Path, transposed: int) -> None:
    weights = RNG.integers(-127, 128, (6, 10)).astype(np.int8)
    scales = RNG.uniform(0.001, 0.01, 6).astype(np.float32)
    path = tmp_path / "gemm.onnx"
    save_layer(path, "Gemm", weights if transposed else weights.T.copy(), scales, 0, transB=transposed)
    integers = RNG.integers(200, 256, (3, 10))
    found = SaturationEmulator(path).logits((integers * 0.5).astype(np.float32))
    expected = [
        [saturated_sum(row, w) * 0.5 * s for w, s in zip(weights, scales, strict=True)] for row in integers
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


def test_depthwise_convolutions_and_small_weights_do_not_saturate(tmp_path: Path) -> None:
    for weights, group in ((RNG.integers(-64, 65, (4, 4, 3, 3)), 1), (np.full((4, 1, 3, 3), 127), 4)):
        path = tmp_path / "conv.onnx"
        save_layer(path, "Conv", weights.astype(np.int8), np.ones(4, np.float32), 0, group=group)
        emulator = SaturationEmulator(path)
        assert emulator._layers == []


def test_what_changes_in_one_layer_reaches_the_next(tmp_path: Path) -> None:
    """Two dense layers: the second reads the saturated integers of the first."""
    nodes, constants = quantised("x", 1.0, 0)
    hidden_nodes, hidden_constants = quantised("h", 200.0, 0)
    for name in ("a", "b"):
        constants += [
            numpy_helper.from_array(np.full((4, 4), 127, np.int8), f"{name}.q"),
            numpy_helper.from_array(np.ones(4, np.float32), f"{name}.s"),
            numpy_helper.from_array(np.zeros(4, np.int8), f"{name}.z"),
        ]
        nodes.append(
            helper.make_node("DequantizeLinear", [f"{name}.q", f"{name}.s", f"{name}.z"], [name], axis=1)
        )
    nodes += [
        helper.make_node("Gemm", ["x.dq", "a"], ["h"]),
        *hidden_nodes,
        helper.make_node("Gemm", ["h.dq", "b"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", 4])],
        constants + hidden_constants,
    )
    path = tmp_path / "two.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    found = SaturationEmulator(path).logits(np.full((1, 4), 160, np.float32))
    first = 2 * 32767  # exact: 81280
    second = min(round(first / 200), 255)
    np.testing.assert_allclose(found, np.full((1, 4), 2 * min(2 * second * 127, 32767) * 200.0))

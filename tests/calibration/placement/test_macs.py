"""Multiply-adds of an ONNX graph equal those counted by PyTorch."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from fer_edge.calibration.placement.macs import multiply_adds, share_of

SHAPES = {"w": (6, 2, 3, 3), "up": (6, 4, 2, 2), "dense": (5, 4 * 8 * 12), "square": (5, 5)}


def small_network() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Conv", ["input", "w"], ["a"], "conv", group=2, strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("ConvTranspose", ["a", "up"], ["b"], "up", strides=[2, 2]),
        helper.make_node("Reshape", ["b", "shape"], ["c"], "flat"),
        helper.make_node("Gemm", ["c", "dense"], ["d"], "dense", transB=1),
        helper.make_node("MatMul", ["d", "square"], ["logits"], "square"),
    ]
    constants = [numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in SHAPES.items()]
    constants.append(numpy_helper.from_array(np.array([-1, 4 * 8 * 12]), "shape"))
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("input", onnx.TensorProto.FLOAT, ("batch", 4, 8, 12))],
        [value("logits", onnx.TensorProto.FLOAT, ("batch", 5))],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def test_multiply_adds_are_those_that_pytorch_counts() -> None:
    w, up, dense, square = (torch.ones(shape) for shape in SHAPES.values())
    steps = {
        "conv": lambda x: functional.conv2d(x, w, stride=2, padding=1, groups=2),
        "up": lambda x: functional.conv_transpose2d(x, up, stride=2),
        "dense": lambda x: functional.linear(x.flatten(1), dense),
        "square": lambda x: x @ square,
    }
    expected, x = {}, torch.ones(1, 4, 8, 12)
    for name, step in steps.items():
        with FlopCounterMode(display=False) as counter:
            x = step(x)
        expected[name] = counter.get_total_flops() // 2
    work = multiply_adds(small_network())
    assert work == expected
    assert share_of(["conv", "square"], work) == (work["conv"] + work["square"]) / sum(work.values())

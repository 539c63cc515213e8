"""Helpers for tests of calibration: small graphs, faces for them, and a run in ONNX Runtime."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from fer_edge.backends import BACKENDS, SessionOptions
from fer_edge.bundle import ModelFile
from fer_edge.calibration.placement.graph import Graph
from fer_edge.calibration.placement.rules import FLOAT_RULES, FloatRule
from fer_edge.calibration.ranges.observers import Observer


def random_faces(count: int, side: int = 16) -> np.ndarray:
    return np.random.default_rng(1).random((count, 3, side, side)).astype(np.float32)


def run(model: onnx.ModelProto, batch: np.ndarray) -> dict[str, np.ndarray]:
    """Every output by name; INT8 in arithmetic that is exact on this processor."""
    session = BACKENDS["onnxruntime"].open(
        ModelFile(Path("small.onnx"), model.SerializeToString()), SessionOptions()
    )
    try:
        return dict(session.run(batch))
    finally:
        session.close()


def tapped(model: onnx.ModelProto, *names: str) -> onnx.ModelProto:
    """A copy with ``names`` as its only outputs."""
    copy = copy_of(model)
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return copy


def copy_of(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def constants_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def nodes_of(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {node.name: node for node in model.graph.node}


def observe(*batches: np.ndarray) -> Observer:
    observer = Observer("tensor")
    for batch in batches:
        observer.update(batch)
    return observer


def count_rules(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count from now on how often each rule of placement looks for its layers."""
    counted: Counter[str] = Counter()

    def counting(rule: FloatRule) -> FloatRule:
        def find(graph: Graph) -> list[onnx.NodeProto]:
            counted[rule.name] += 1
            return rule.find(graph)

        return dataclasses.replace(rule, find=find)

    for name, rule in list(FLOAT_RULES.items()):
        monkeypatch.setitem(FLOAT_RULES, name, counting(rule))  # type: ignore[misc]
    return counted


class Builder:
    """Nodes one after the other; each is named after its output."""

    def __init__(self, side: int = 16) -> None:
        self.side = side
        self.rng = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, op: str, inputs: list[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], output, **attributes))
        return output

    def constant(self, name: str, value: np.ndarray) -> str:
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def weight(self, name: str, *shape: int) -> str:
        values = self.rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))
        return self.constant(name, values.astype(np.float32))

    def conv(self, source: str, output: str, inputs: int, outputs: int, kernel: int = 1) -> str:
        weights = [
            self.weight(f"{output}.w", outputs, inputs, kernel, kernel),
            self.weight(f"{output}.b", outputs),
        ]
        return self.add("Conv", [source, *weights], output, kernel_shape=[kernel] * 2, pads=[kernel // 2] * 4)

    def gemm(self, source: str, output: str, inputs: int, outputs: int) -> str:
        weights = [self.weight(f"{output}.w", outputs, inputs), self.weight(f"{output}.b", outputs)]
        return self.add("Gemm", [source, *weights], output, transB=1)

    def silu(self, source: str, output: str) -> str:
        return self.add("Mul", [source, self.add("Sigmoid", [source], f"{output}.sigmoid")], output)

    def model(self, *outputs: str, **shapes: list[object]) -> onnx.ModelProto:
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.nodes,
            "graph",
            [value("input", onnx.TensorProto.FLOAT, ["n", 3, self.side, self.side])],
            [value(name, onnx.TensorProto.FLOAT, shapes.get(name, ["n", None])) for name in outputs],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.checker.check_model(model, full_check=True)
        return model


def make_every_kind() -> onnx.ModelProto:
    """Conv-ReLU-pool, ConvTranspose, concat, residual add, softmax mask, hidden Gemm (both layouts), head."""
    rng = np.random.default_rng(0)

    def constant(name: str, *shape: int, scale: float = 0.3) -> onnx.TensorProto:
        return numpy_helper.from_array((rng.normal(size=shape) * scale).astype(np.float32), name)

    node = helper.make_node
    nodes = [
        node("Conv", ["input", "w1", "b1"], ["conv1"], "conv1", kernel_shape=[3, 3], pads=[1] * 4),
        node("Relu", ["conv1"], ["relu1"], "relu1"),
        node("MaxPool", ["relu1"], ["pool"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["pool", "w2", "b2"], ["conv2"], "conv2", kernel_shape=[3, 3], pads=[1] * 4),
        node("Add", ["conv2", "pool"], ["sum"], "add"),
        node("Relu", ["sum"], ["relu2"], "relu2"),
        node("ConvTranspose", ["relu2", "wt", "bt"], ["up"], "up", kernel_shape=[2, 2], strides=[2, 2]),
        node("Concat", ["up", "relu1"], ["cat"], "cat", axis=1),
        node("Conv", ["cat", "w3", "b3"], ["conv3"], "conv3", kernel_shape=[1, 1]),
        node("Softmax", ["conv3"], ["mask"], "mask", axis=1),
        node("Add", ["mask", "one"], ["gain"], "one_plus_mask"),
        node("Mul", ["relu1", "gain"], ["masked"], "product"),
        node("Conv", ["masked", "w4"], ["conv4"], "conv4", kernel_shape=[3, 3]),
        node("GlobalAveragePool", ["conv4"], ["mean"], "mean"),
        node("Flatten", ["mean"], ["flat"], "flat"),
        node("Gemm", ["flat", "g1", "gb1"], ["hidden1"], "hidden1", transB=1),
        node("Relu", ["hidden1"], ["hidden1r"], "hidden1r"),
        node("Gemm", ["hidden1r", "g2", "gb2"], ["hidden2"], "hidden2"),
        node("Gemm", ["hidden2", "g3", "gb3"], ["logits"], "head", transB=1),
    ]
    constants = [
        constant("w1", 8, 3, 3, 3), constant("b1", 8), constant("w2", 8, 8, 3, 3, scale=0.1), constant("b2", 8),
        constant("wt", 8, 4, 2, 2), constant("bt", 4), constant("w3", 8, 12, 1, 1), constant("b3", 8),
        numpy_helper.from_array(np.ones(1, np.float32), "one"), constant("w4", 6, 8, 3, 3, scale=0.1),
        constant("g1", 10, 6), constant("gb1", 10), constant("g2", 10, 7), constant("gb2", 7),
        constant("g3", 5, 7), constant("gb3", 5),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, ["n", 3, 12, 12])],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["n", 5])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)

"""ONNX graphs as calibration sees them: producers, consumers, constants, and what lies in front of a tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import onnx

#: Operators with integer kernels; their second input is the weight.
WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm"})


class Graph:
    """Producers, consumers and constants of an ONNX graph, by tensor name."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.nodes = list(model.graph.node)
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.outputs = {value.name for value in model.graph.output}
        self.producer = {name: node for node in self.nodes for name in node.output}
        self.consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                self.consumers.setdefault(name, []).append(node)

    def activations(self, node: onnx.NodeProto) -> list[str]:
        """Return the inputs of ``node`` that depend on the image."""
        return [name for name in node.input if name and name not in self.constants]


def upstream(
    graph: Graph, names: Iterable[str], ends: Callable[[onnx.NodeProto], bool]
) -> list[onnx.NodeProto]:
    """Return the nodes that ``names`` depend on, up to and with those where ``ends`` is true."""
    found: dict[int, onnx.NodeProto] = {}
    pending = list(names)
    while pending:
        node = graph.producer.get(pending.pop())
        if node is None or id(node) in found:
            continue
        found[id(node)] = node
        if not ends(node):
            pending.extend(graph.activations(node))
    return list(found.values())


def is_residual(graph: Graph, node: onnx.NodeProto) -> bool:
    """A residual addition adds what convolutions made; ``1 + m`` and attention sums do not."""
    if node.op_type != "Add" or len(graph.activations(node)) != 2:
        return False
    return any(
        (source := graph.producer.get(name)) is not None and source.op_type in WEIGHTED for name in node.input
    )

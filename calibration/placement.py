"""Placement: which tensors INT8 stores, and which must share one scale.

The rules follow what backends turn into integer kernels. Convolutions and hidden dense layers read
integers; residual additions too; max-pool, concatenation and reshapes pass integers on with the scale
they were given. Softmax, normalisation, the ``1 + m`` products of the masks, attention and the head
(whatever makes an output of the network) stay in floating point: their values are small or decide
the confidence.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx

#: Operators with integer kernels; their second input is the weight.
WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm"})
#: Operators that pass integers through, with one scale for inputs and output.
PASSING = frozenset({"MaxPool", "Concat", "DepthToSpace"})


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


def quantised_nodes(graph: Graph) -> list[onnx.NodeProto]:
    """Return the nodes that compute in integers."""
    return [node for node in graph.nodes if _has_integer_kernel(graph, node)]


def _has_integer_kernel(graph: Graph, node: onnx.NodeProto) -> bool:
    if node.op_type in WEIGHTED:
        return node.input[1] in graph.constants and not graph.outputs.intersection(node.output)
    return node.op_type == "Add" and len(graph.activations(node)) == 2 and _is_residual(graph, node)


def _is_residual(graph: Graph, node: onnx.NodeProto) -> bool:
    """A residual addition adds what convolutions made; ``1 + m`` and attention sums do not."""
    return any(
        (source := graph.producer.get(name)) is not None and source.op_type in WEIGHTED for name in node.input
    )


def stored_output(graph: Graph, node: onnx.NodeProto) -> str:
    """Return the tensor that ``node`` stores: its own output, or that of the ReLU that alone reads it."""
    consumers = graph.consumers.get(node.output[0], [])
    if len(consumers) == 1 and consumers[0].op_type == "Relu" and node.output[0] not in graph.outputs:
        return consumers[0].output[0]
    return node.output[0]


def quantised_tensors(model: onnx.ModelProto) -> Mapping[str, str]:
    """Return every tensor that INT8 stores → the name of its group; a group has one scale."""
    graph = Graph(model)
    tensors: set[str] = set()
    for node in quantised_nodes(graph):
        tensors.update(graph.activations(node))
        tensors.add(stored_output(graph, node))
    group = {name: name for name in tensors}

    def root(name: str) -> str:
        while group[name] != name:
            name = group[name]
        return name

    for node in graph.nodes:
        if node.op_type not in PASSING or not any(name in group for name in graph.activations(node)):
            continue
        members = [*graph.activations(node), node.output[0]]
        for name in members:
            group.setdefault(name, name)
        for name in members[1:]:
            group[root(name)] = root(members[0])
    return {name: root(name) for name in group if name not in graph.outputs}

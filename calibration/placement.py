"""Placement: which tensors INT8 stores, and which must share one scale.

The rules follow what backends turn into integer kernels. Convolutions and hidden dense layers read
integers; residual additions too; max-pool, concatenation and nearest resize pass integers on with the
scale they were given. Softmax, normalisation, the ``1 + m`` products of the masks and attention stay in
floating point, and so do the layers that :data:`FLOAT_RULES` names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import onnx

#: Operators with integer kernels; their second input is the weight.
WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm"})
#: Operators that pass integers through, with one scale for inputs and output; see :func:`passes_integers`.
_PASSING = frozenset({"MaxPool", "Concat", "DepthToSpace"})
#: What ends a layer: behind it is another, whose input has a range of its own.
_ACTIVATIONS = frozenset({"Relu", "LeakyRelu", "MaxPool"})
_REDUCTIONS = frozenset({"ReduceMean", "ReduceMax", "GlobalAveragePool", "GlobalMaxPool"})
_SQUASHING = frozenset({"Sigmoid", "Tanh"})


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


@dataclass(frozen=True)
class FloatRule:
    """Nodes that would have integer kernels and stay in floating point, and why."""

    name: str
    reason: str
    find: Callable[[Graph], list[onnx.NodeProto]]


def _heads(graph: Graph) -> list[onnx.NodeProto]:
    """Weighted nodes from which an output is reached without another layer, whatever is computed between."""

    def ends(node: onnx.NodeProto) -> bool:
        return node.op_type in WEIGHTED | _ACTIVATIONS or _is_residual(graph, node)

    return [node for node in _upstream(graph, graph.outputs, ends) if node.op_type in WEIGHTED]


def _gates(graph: Graph) -> list[onnx.NodeProto]:
    """All nodes between a mean or maximum over the image (or its channels) and the sigmoid of a gate."""
    found: list[onnx.NodeProto] = []
    for gate in graph.nodes:
        if gate.op_type != "Sigmoid" or _is_silu(graph, gate):
            continue
        above = _upstream(graph, gate.input, lambda node: node.op_type in _REDUCTIONS)
        # A path that ends elsewhere than at a reduction is no gate but a branch of the network.
        if all(
            name in graph.producer
            for node in above
            for name in graph.activations(node)
            if node.op_type not in _REDUCTIONS
        ):
            found += [node for node in above if node.op_type not in _REDUCTIONS]
    return found


def _scores(graph: Graph) -> list[onnx.NodeProto]:
    """Weighted nodes whose result goes into a sigmoid or a tanh at once."""
    squashed = [n for n in graph.nodes if n.op_type in _SQUASHING and not _is_silu(graph, n)]
    producers = [graph.producer.get(node.input[0]) for node in squashed]
    return [node for node in producers if node is not None and node.op_type in WEIGHTED]


#: Their weights are a small part of any network; the errors that INT8 would make there are not.
FLOAT_RULES: tuple[FloatRule, ...] = (
    FloatRule(
        "head", "makes an output: decides the confidence, or moves landmarks by parts of a pixel", _heads
    ),
    FloatRule(
        "gate",
        "channel and spatial gates (CBAM, squeeze and excitation) scale everything behind them",
        _gates,
    ),
    FloatRule(
        "score",
        "attention scores are bounded by tanh or sigmoid, whose slope is all that they differ by",
        _scores,
    ),
)


def quantised_nodes(graph: Graph) -> list[onnx.NodeProto]:
    """Return the nodes that compute in integers."""
    kept = {id(node) for rule in FLOAT_RULES for node in rule.find(graph)}
    return [node for node in graph.nodes if id(node) not in kept and _has_integer_kernel(graph, node)]


def _has_integer_kernel(graph: Graph, node: onnx.NodeProto) -> bool:
    if node.op_type in WEIGHTED:
        return node.input[1] in graph.constants
    return _is_residual(graph, node)


def _upstream(
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


def _is_silu(graph: Graph, node: onnx.NodeProto) -> bool:
    """x · sigmoid(x) is an activation, not a gate."""
    readers = graph.consumers.get(node.output[0], [])
    return bool(readers) and all(n.op_type == "Mul" and node.input[0] in n.input for n in readers)


def _is_residual(graph: Graph, node: onnx.NodeProto) -> bool:
    """A residual addition adds what convolutions made; ``1 + m`` and attention sums do not."""
    if node.op_type != "Add" or len(graph.activations(node)) != 2:
        return False
    return any(
        (source := graph.producer.get(name)) is not None and source.op_type in WEIGHTED for name in node.input
    )


def passes_integers(node: onnx.NodeProto) -> bool:
    """Whether backends move the integers of ``node`` without computing on them.

    ONNX Runtime resizes integers in nearest mode only: bilinear resize is computed between DQ and Q, so a common
    scale would cost resolution and gain nothing.
    """
    if node.op_type == "Resize":
        return any(a.name == "mode" and a.s == b"nearest" for a in node.attribute)
    return node.op_type in _PASSING


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
        if not passes_integers(node) or not any(name in group for name in graph.activations(node)):
            continue
        members = [*graph.activations(node), node.output[0]]
        for name in members:
            group.setdefault(name, name)
        for name in members[1:]:
            group[root(name)] = root(members[0])
    return {name: root(name) for name in group if name not in graph.outputs}

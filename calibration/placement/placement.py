"""Placement: choose the tensors that INT8 stores, and group those that must share a scale.

Convolutions, hidden dense layers and residual additions read integers; max-pool, concatenation and nearest
resize pass integers on with the scale of their input. Layers that stay in floating point are selected by the
rules of :mod:`fer_edge.calibration.placement.rules`, and by name in a :class:`Placement`.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import onnx

from fer_edge.calibration.placement.graph import WEIGHTED, Graph, is_residual, without_weights
from fer_edge.calibration.placement.rules import DEFAULT_RULES, FLOAT_RULES
from fer_edge.errors import CalibrationError

#: Operators that pass integers through, with one scale for inputs and output (:func:`passes_integers`).
_PASSING = frozenset({"MaxPool", "Concat", "DepthToSpace"})


@dataclass(frozen=True)
class Placement:
    """Selection of the layers that stay in floating point.

    Attributes
    ----------
    rules : tuple of str
        Kinds of layers: keys of :data:`fer_edge.calibration.placement.rules.FLOAT_RULES`.
    float_layers : frozenset of str
        Single layers, by node name, that mixed precision leaves in floating point.
    """

    rules: tuple[str, ...] = DEFAULT_RULES
    float_layers: frozenset[str] = frozenset()


DEFAULT_PLACEMENT = Placement()


@dataclass(frozen=True)
class PlacedGraph:
    """The graph of an FP32 model, and the placement of its layers; made by :func:`place`.

    It holds no weights, so it is valid for the equalised model too, which differs only in weights.

    Attributes
    ----------
    model : onnx.ModelProto
        The model without the values of its weights.
    graph : Graph
        Index of ``model``.
    placement : Placement
        Layers that stay in floating point.
    by_rule : mapping
        Rule of the placement → names of the nodes that it leaves in floating point.
    """

    model: onnx.ModelProto
    graph: Graph
    placement: Placement
    by_rule: Mapping[str, tuple[str, ...]]

    def leaving(self, float_layers: Collection[str]) -> PlacedGraph:
        """Return the graph with exactly these single layers in floating point, in addition to those of the rules."""
        placement = dataclasses.replace(self.placement, float_layers=frozenset(float_layers))
        return dataclasses.replace(self, placement=placement)

    @cached_property
    def integer_nodes(self) -> tuple[onnx.NodeProto, ...]:
        """Nodes that compute in integers, in graph order."""
        kept = self.placement.float_layers.union(*self.by_rule.values())
        return tuple(
            node
            for node in self.graph.nodes
            if node.name not in kept and _has_integer_kernel(self.graph, node)
        )

    @cached_property
    def groups(self) -> Mapping[str, str]:
        """Every tensor that INT8 stores → the name of its group; a group has one scale."""
        return group_tensors(self.graph, self.integer_nodes)


def place(model: onnx.ModelProto, placement: Placement = DEFAULT_PLACEMENT) -> PlacedGraph:
    """Find the layers that ``placement`` leaves in floating point in an FP32 model.

    Raises
    ------
    CalibrationError
        If two nodes have the same name, since layers are identified by name.
    """
    graph = Graph(model)
    name, count = Counter(node.name for node in graph.nodes).most_common(1)[0]
    if count > 1:
        raise CalibrationError(
            f"expected a unique name for every node, found {count} nodes named {name!r}. "
            "Fix: export the model again with fer-edge export"
        )
    by_rule = {name: tuple(node.name for node in FLOAT_RULES[name].find(graph)) for name in placement.rules}
    light = without_weights(model)
    return PlacedGraph(light, Graph(light), placement, by_rule)


def _has_integer_kernel(graph: Graph, node: onnx.NodeProto) -> bool:
    if node.op_type in WEIGHTED:
        return node.input[1] in graph.constants
    return is_residual(graph, node)


def passes_integers(node: onnx.NodeProto) -> bool:
    """Return ``True`` if backends move the integers of ``node`` without computing on them.

    ONNX Runtime resizes integers in nearest mode only. It computes a bilinear resize between DQ and Q, so a common
    scale would cost resolution without a gain.
    """
    if node.op_type == "Resize":
        return any(a.name == "mode" and a.s == b"nearest" for a in node.attribute)
    return node.op_type in _PASSING


def stored_output(graph: Graph, node: onnx.NodeProto) -> str:
    """Return the tensor that ``node`` stores: its own output, or that of a ReLU that is its only consumer."""
    consumers = graph.consumers.get(node.output[0], [])
    if len(consumers) == 1 and consumers[0].op_type == "Relu" and node.output[0] not in graph.outputs:
        return consumers[0].output[0]
    return node.output[0]


def group_tensors(graph: Graph, integer_nodes: Iterable[onnx.NodeProto]) -> Mapping[str, str]:
    """Return every tensor that INT8 stores around ``integer_nodes`` → the name of its group."""
    # In graph order: the order of a set, and so the file, would change between processes.
    group: dict[str, str] = {}
    for node in integer_nodes:
        for name in (*graph.activations(node), stored_output(graph, node)):
            group[name] = name

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

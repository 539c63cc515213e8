"""Rules that leave layers in floating point, by graph structure, each with its reason.

The layers of the first three rules have integer kernels, but hold a small part of any network's weights and would
cause a large part of its error in INT8. The others have no integer kernel in any backend, or lose their information
in 8 bits; they have rules so that a report gives a reason for every layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx
from onnx import numpy_helper

from fer_edge.calibration.placement.graph import WEIGHTED, Graph, is_residual, upstream

#: Operators that end a layer: the tensor behind them has a range of its own.
_ACTIVATIONS = frozenset({"Relu", "LeakyRelu", "MaxPool"})
_REDUCTIONS = frozenset({"ReduceMean", "ReduceMax", "GlobalAveragePool", "GlobalMaxPool"})
_SQUASHING = frozenset({"Sigmoid", "Tanh"})
_NORMALISATIONS = frozenset({"BatchNormalization", "InstanceNormalization", "LayerNormalization"})


@dataclass(frozen=True)
class FloatRule:
    """A rule that selects nodes to stay in floating point, with its reason."""

    name: str
    reason: str
    find: Callable[[Graph], list[onnx.NodeProto]]


def _heads(graph: Graph) -> list[onnx.NodeProto]:
    """Return weighted nodes from which an output is reached without another layer, and the nodes in between."""

    def ends(node: onnx.NodeProto) -> bool:
        # Query, key and value are no head, even if the network exports its attention map as an output.
        own_layer = node.op_type in WEIGHTED | _ACTIVATIONS or node.op_type == "SelfAttention"
        return own_layer or is_residual(graph, node)

    return [n for n in upstream(graph, graph.outputs, ends) if n.op_type in WEIGHTED or not ends(n)]


def _gates(graph: Graph) -> list[onnx.NodeProto]:
    """Return all nodes between a mean or maximum over the image (or its channels) and the sigmoid of a gate."""
    found: list[onnx.NodeProto] = []
    for gate in graph.nodes:
        if gate.op_type != "Sigmoid" or _is_silu(graph, gate):
            continue
        above = upstream(graph, gate.input, lambda node: node.op_type in _REDUCTIONS)
        # A path that does not end at a reduction is a branch of the network, not a gate.
        if all(
            name in graph.producer
            for node in above
            for name in graph.activations(node)
            if node.op_type not in _REDUCTIONS
        ):
            found += [node for node in above if node.op_type not in _REDUCTIONS]
    return found


def _scores(graph: Graph) -> list[onnx.NodeProto]:
    """Return weighted nodes directly in front of a sigmoid or a tanh."""
    squashed = [n for n in graph.nodes if n.op_type in _SQUASHING and not _is_silu(graph, n)]
    producers = [graph.producer.get(node.input[0]) for node in squashed]
    return [node for node in producers if node is not None and node.op_type in WEIGHTED]


def _of_type(*types: str) -> Callable[[Graph], list[onnx.NodeProto]]:
    return lambda graph: [node for node in graph.nodes if node.op_type in types]


def _masks(graph: Graph) -> list[onnx.NodeProto]:
    """Return the nodes of ``1 + m`` and of its product with the features."""
    found: list[onnx.NodeProto] = []
    for node in graph.nodes:
        constants = [graph.constants[name] for name in node.input if name in graph.constants]
        if (
            node.op_type != "Add"
            or len(constants) != 1
            or not (numpy_helper.to_array(constants[0]) == 1).all()
        ):
            continue
        products = [n for n in graph.consumers.get(node.output[0], []) if n.op_type == "Mul"]
        found += [node, *products] if products else []
    return found


def _geometry(graph: Graph) -> list[onnx.NodeProto]:
    """Return the nodes that warp an image, and the arithmetic between the layers and the warp's points."""
    samplers = [node for node in graph.nodes if node.op_type == "GridSample"]
    points = upstream(graph, [n.input[1] for n in samplers], lambda node: node.op_type in WEIGHTED)
    return [*samplers, *(node for node in points if node.op_type not in WEIGHTED)]


def _stage_inputs(graph: Graph) -> list[onnx.NodeProto]:
    """Return weighted nodes that read a warped image, and those that make the tensors concatenated with it."""
    found: dict[int, onnx.NodeProto] = {}
    for node in graph.nodes:
        if node.op_type not in WEIGHTED:
            continue
        between = upstream(graph, node.input[:1], lambda n: n.op_type in WEIGHTED)
        if any(n.op_type == "GridSample" for n in between):
            found |= {id(n): n for n in (*between, node) if n.op_type in WEIGHTED}
    return list(found.values())


def _is_silu(graph: Graph, node: onnx.NodeProto) -> bool:
    """Return ``True`` for x · sigmoid(x), which is an activation and not a gate."""
    readers = graph.consumers.get(node.output[0], [])
    return bool(readers) and all(n.op_type == "Mul" and node.input[0] in n.input for n in readers)


def _stems(graph: Graph) -> list[onnx.NodeProto]:
    """Return weighted nodes that read the input, and the nodes that normalise it."""
    return [
        node
        for node in graph.nodes
        if node.op_type in WEIGHTED
        and not any(
            n.op_type in WEIGHTED for n in upstream(graph, node.input[:1], lambda n: n.op_type in WEIGHTED)
        )
    ]


_RULES: tuple[FloatRule, ...] = (
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
    FloatRule(
        "softmax",
        "its values span orders of magnitude and sum to 1: one step of 8 bits is larger than most of them",
        _of_type("Softmax", "LogSoftmax"),
    ),
    FloatRule(
        "mask product",
        "a mask that sums to 1 over C channels is near 1/C, below one 8-bit step of a range up to 1",
        _masks,
    ),
    FloatRule(
        "self-attention",
        "exponentials of dot products of two activations; fused into one kernel where there is a plugin",
        _of_type("SelfAttention"),
    ),
    FloatRule(
        "normalisation",
        "a scale per channel behind a ReLU, which no convolution takes up: 8 bits would store it twice",
        lambda graph: [node for node in graph.nodes if node.op_type in _NORMALISATIONS],
    ),
    FloatRule(
        "geometry",
        "coordinates in pixels: one 8-bit step of a range of 224 is nearly a pixel",
        _geometry,
    ),
    FloatRule(
        "stage input",
        "the picture that the next stage sees: moved image, heatmap and feature image have unlike ranges",
        _stage_inputs,
    ),
)

#: Applied only in families that name it, by measurement: unnormalised pixels lose nothing in 8 bits.
STEM = FloatRule(
    "stem",
    "the first layer reads an image whose range is not that of pixels, and few of the multiply-adds are there",
    _stems,
)
FLOAT_RULES: Mapping[str, FloatRule] = {rule.name: rule for rule in (*_RULES, STEM)}
#: Rules that follow from graph structure alone.
DEFAULT_RULES = tuple(rule.name for rule in _RULES)

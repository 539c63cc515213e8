"""Cross-layer equalisation (Nagel et al., 2019, Section 4.1): channels of one tensor get ranges alike.

ReLU, leaky ReLU and max-pool satisfy f(s·x) = s·f(x) for s > 0. So channel i between two layers can be divided
by s_i, in the weights and bias of the layer in front, and multiplied again in the weights of the layer behind:
the network computes the same. Our weights have a scale per output channel, which s_i does not disturb in the
layer in front; what it can improve is the one scale of the tensor between, at the cost of the layer behind.
With a_i the largest |value| of channel i and w_i the largest |weight| that reads it, s_i = √(a_i / w_i) shares
the spread evenly between both (Xiao et al., 2023, Eq. 4, with α = 0.5).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from fer_edge.calibration.graph import Graph
from fer_edge.calibration.placement import Placement, quantised_nodes
from fer_edge.calibration.ranges import activations
from fer_edge.calibration.weights import output_axis, per_channel

_HOMOGENEOUS = frozenset({"Relu", "LeakyRelu", "MaxPool"})
#: A channel that is nearly always 0 must not be blown up without bound.
_LARGEST_FACTOR = 16.0


@dataclass(frozen=True)
class Pair:
    """Two layers with nothing between but operators that a positive scale passes through."""

    front: onnx.NodeProto
    back: onnx.NodeProto

    @property
    def tensor(self) -> str:
        """What the layer behind reads."""
        return str(self.back.input[0])


def find_pairs(graph: Graph, placement: Placement) -> list[Pair]:
    """Return the layers between which channels can be scaled: each tensor between has one reader alone."""
    pairs = []
    for back in quantised_nodes(graph, placement):
        if back.op_type != "Conv" or _attribute(back, "group", 1) != 1:
            continue
        source = back.input[0]
        while (node := graph.producer.get(source)) is not None and node.op_type in _HOMOGENEOUS:
            if not _read_once(graph, source):
                break
            source = node.input[0]
        if node is None or node.op_type not in ("Conv", "ConvTranspose") or not _read_once(graph, source):
            continue
        # A constant that another layer reads too cannot be scaled for one of them.
        constants = [name for name in (*node.input[1:], back.input[1]) if name]
        own = all(name in graph.constants and _read_once(graph, name) for name in constants)
        if own and _attribute(node, "group", 1) == 1:
            pairs.append(Pair(node, back))
    return pairs


def channel_maxima(
    model: Path, tensors: Iterable[str], batches: Iterable[np.ndarray]
) -> Mapping[str, np.ndarray]:
    """Return tensor → ``[C]``, the largest absolute value of each channel over all faces and positions."""
    names = sorted(set(tensors))
    maxima: dict[str, np.ndarray] = {}
    for batch, values in activations(model, names, batches):
        for name in names:
            found = np.abs(values.get(name, batch)).max(axis=(0, 2, 3))
            maxima[name] = np.maximum(maxima.get(name, 0), found)
        del values  # before the next ones are computed
    return maxima


def equalise(model: onnx.ModelProto, placement: Placement, maxima: Mapping[str, np.ndarray]) -> int:
    """Scale the channels between every pair of layers of ``model``, in place; return the number of pairs."""
    graph = Graph(model)
    pairs = find_pairs(graph, placement)
    for pair in pairs:
        _scale(model, pair, maxima[pair.tensor])
    return len(pairs)


def _scale(model: onnx.ModelProto, pair: Pair, activation: np.ndarray) -> None:
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    back = numpy_helper.to_array(constants[pair.back.input[1]])
    reading = np.abs(back).max(axis=(0, 2, 3))
    usable = (activation > 0) & (reading > 0)
    factors = np.ones(len(activation))
    factors[usable] = np.sqrt(activation[usable] / reading[usable])
    if usable.any():
        factors[usable] /= np.exp(np.log(factors[usable]).mean())
    factors = np.clip(factors, 1 / _LARGEST_FACTOR, _LARGEST_FACTOR)
    front = numpy_helper.to_array(constants[pair.front.input[1]])
    axis = output_axis(pair.front)
    _replace(constants[pair.front.input[1]], front / per_channel(factors, front.ndim, axis))
    if len(pair.front.input) > 2 and pair.front.input[2]:
        bias = numpy_helper.to_array(constants[pair.front.input[2]])
        _replace(constants[pair.front.input[2]], bias / factors)
    _replace(constants[pair.back.input[1]], back * per_channel(factors, back.ndim, 1))


def _replace(tensor: onnx.TensorProto, values: np.ndarray) -> None:
    tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), tensor.name))


def _read_once(graph: Graph, name: str) -> bool:
    return len(graph.consumers.get(name, [])) == 1 and name not in graph.outputs


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((int(a.i) for a in node.attribute if a.name == name), default)

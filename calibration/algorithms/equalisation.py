"""Cross-layer equalisation (Nagel et al., 2019, Section 4.1): give the channels of a tensor similar ranges.

ReLU, leaky ReLU and max-pool satisfy f(s·x) = s·f(x) for s > 0. So channel i between two layers can be divided
by s_i in the weights and bias of the first layer, and multiplied by s_i in the weights of the second: the network
computes the same. Weights have one scale per output channel, so s_i costs the first layer nothing. It improves the
single scale of the tensor between the layers, at the cost of the second layer's weights.
With a_i the largest |value| of channel i and w_i the largest |weight| that reads it, relative to the range of its
output channel, s_i = a_i^α / w_i^(1−α) divides the spread between both (Xiao et al., 2023, Eq. 4). An unfused
normalisation can be the second layer too. Behind an integer layer it computes in floating point, so that the
activations get the whole gain: α = 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from fer_edge.calibration.malloc_trim import return_free_memory
from fer_edge.calibration.placement.graph import Graph
from fer_edge.calibration.placement.placement import PlacedGraph
from fer_edge.calibration.qdq.weights import MIN_SCALE, output_axis, per_channel
from fer_edge.calibration.ranges.activations import activations

_HOMOGENEOUS = frozenset({"Relu", "LeakyRelu", "MaxPool"})
#: Bounds the scaling of a channel that is nearly always 0.
_MAX_FACTOR = 16.0
#: Above 0.5, as most noise comes from activations. EmotionalDAN: 31.2 dB at 0.75, 29.4 at 0.5, 30.7 at 0.35, 30.1 at 1.
_ALPHA = 0.75
_NORM = "BatchNormalization"
#: Inputs of the first layer that are divided by s, and of the second layer that are multiplied or divided.
_FRONT: Mapping[str, tuple[int, ...]] = {"Conv": (1, 2), "ConvTranspose": (1, 2), _NORM: (1, 2)}
_BACK: Mapping[str, tuple[int, ...]] = {"Conv": (1,), _NORM: (1, 3)}


@dataclass(frozen=True)
class Pair:
    """Two layers with only positively homogeneous operators (f(s·x) = s·f(x)) between them."""

    front: onnx.NodeProto
    back: onnx.NodeProto

    @property
    def tensor(self) -> str:
        """Name of the tensor that the second layer reads."""
        return str(self.back.input[0])


def find_pairs(placed: PlacedGraph) -> list[Pair]:
    """Return the layers between which channels can be scaled: each tensor between them has a single consumer."""
    graph = placed.graph
    integer = {id(node) for node in placed.integer_nodes}
    pairs = []
    for back in graph.nodes:
        if back.op_type not in _BACK or (back.op_type == "Conv" and id(back) not in integer):
            continue
        front = _front_of(graph, back)
        if front is None or (back.op_type == _NORM and id(front) not in integer):
            continue
        # A constant with several consumers cannot be scaled for only one of them.
        constants = [
            node.input[i]
            for node, scaled in ((front, _FRONT), (back, _BACK))
            for i in scaled[node.op_type]
            if i < len(node.input) and node.input[i]
        ]
        own = all(name in graph.constants and _read_once(graph, name) for name in constants)
        if own and _attribute(front, "group", 1) == _attribute(back, "group", 1) == 1:
            pairs.append(Pair(front, back))
    return pairs


def _front_of(graph: Graph, back: onnx.NodeProto) -> onnx.NodeProto | None:
    source = back.input[0]
    while (node := graph.producer.get(source)) is not None and _read_once(graph, source):
        if node.op_type in _FRONT:
            return node
        if node.op_type not in _HOMOGENEOUS:
            return None
        source = node.input[0]
    return None


def save_equalised(model: Path, pairs: Sequence[Pair], batches: Iterable[np.ndarray], output: Path) -> None:
    """Write the equalised form of an FP32 ONNX file (:func:`equalise`).

    Parameters
    ----------
    model, output : Path
        ONNX files.
    pairs : sequence of Pair
        Layer pairs of ``model``.
    batches : iterable of np.ndarray
        ``[B, C, H, W]`` float32, preprocessed.
    """
    maxima = channel_maxima(model, [pair.tensor for pair in pairs], batches)
    proto = onnx.load(model)
    equalise(proto, pairs, maxima)
    # A protobuf message keeps replaced fields until it is freed; a copy does not, and saving makes two more copies.
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    del proto
    return_free_memory()
    onnx.save(result, output)


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
        del values  # free them before the next batch runs
    return maxima


def equalise(model: onnx.ModelProto, pairs: Sequence[Pair], maxima: Mapping[str, np.ndarray]) -> None:
    """Scale the channels between every pair of layers of ``model``, in place."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for pair in pairs:
        _scale(constants, pair, maxima[pair.tensor])


def _scale(constants: Mapping[str, onnx.TensorProto], pair: Pair, activation: np.ndarray) -> None:
    front, back = pair.front, pair.back

    def values(node: onnx.NodeProto, i: int) -> np.ndarray:
        return numpy_helper.to_array(constants[node.input[i]])

    def replace(node: onnx.NodeProto, i: int, new: np.ndarray) -> None:
        name = node.input[i]
        constants[name].CopyFrom(numpy_helper.from_array(new.astype(np.float32), name))

    if back.op_type == _NORM:
        factors = _factors(activation, np.ones_like(activation), 1.0)
        replace(back, 1, values(back, 1) * factors)
        replace(back, 3, values(back, 3) / factors)
    else:
        weight = values(back, 1)
        largest = np.abs(weight).max(axis=(2, 3))
        share = largest / np.maximum(largest.max(axis=1, keepdims=True), MIN_SCALE)
        factors = _factors(activation, share.max(axis=0), _ALPHA)
        replace(back, 1, weight * per_channel(factors, weight.ndim, 1))
    for i in _FRONT[front.op_type]:
        if i < len(front.input) and front.input[i]:
            old = values(front, i)
            axis = output_axis(front) if old.ndim > 1 else 0
            replace(front, i, old / per_channel(factors, old.ndim, axis))


def _factors(activation: np.ndarray, share: np.ndarray, alpha: float) -> np.ndarray:
    """Return s ``[C]`` with product 1 before clipping; 1 for a channel that is dead or has no consumer."""
    usable = (activation > 0) & (share > 0)
    factors = np.ones(len(activation))
    factors[usable] = activation[usable] ** alpha / share[usable] ** (1 - alpha)
    if usable.any():
        factors[usable] /= np.exp(np.log(factors[usable]).mean())
    return np.clip(factors, 1 / _MAX_FACTOR, _MAX_FACTOR)


def _read_once(graph: Graph, name: str) -> bool:
    return len(graph.consumers.get(name, [])) == 1 and name not in graph.outputs


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((int(a.i) for a in node.attribute if a.name == name), default)

"""Emulate INT8 with sums of two products that saturate at 16 bits, on any processor.

x86 processors with AVX2 and without VNNI multiply u8 by s8 with ``VPMADDUBSW``: two products of neighbouring channels
are added, and the sum saturates at 32767. A self-test must detect that, so its faces are chosen by this emulation.
Only pairs of weights whose sum reaches 129 can saturate, about one in a hundred. Their overflow is computed from the
integer input of each layer and added to the layer's output as a correction. A correction changes the integers
of later layers, so further passes follow the first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_HIGH, _LOW = 32767, -32768
_MAX_PIXEL = 255
#: Each pass propagates the corrections of the pass before through the later layers.
_PASSES = 2
_BATCH = 8


@dataclass(frozen=True)
class _Layer:
    """A convolution or dense layer of u8 activations and s8 weights, and its pairs of weights that can saturate.

    Attributes
    ----------
    integers, correction : str
        Names of tensors: the activations, and the correction of the output.
    scale : np.ndarray
        ``[O]`` float32, value of one unit of the integer sum.
    pad_value : int
        Integer that represents zero.
    pads, strides, dilations, kernel : (int, int, ...)
        As ONNX defines them; those of a 1×1 convolution for a dense layer.
    outputs : np.ndarray
        ``[P]`` output channel of each pair.
    taps, channels, weights : np.ndarray
        ``[P, 2]`` kernel position, input channel and integer weight of both.
    """

    integers: str
    correction: str
    scale: np.ndarray
    pad_value: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    dilations: tuple[int, int]
    outputs: np.ndarray
    taps: np.ndarray
    channels: np.ndarray
    weights: np.ndarray


class SaturationEmulator:
    """A Q/DQ model of the ``cpu`` dialect whose sums saturate.

    Parameters
    ----------
    model : Path
        ``model.int8.cpu.onnx``.
    """

    def __init__(self, model: Path) -> None:
        import onnxruntime

        proto = onnx.load(model)
        self._layers = _find_layers(proto)
        _insert_corrections(proto, self._layers)
        self._input = proto.graph.input[0].name
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # Rounded values are multiplied in floating point, which is exact, so that this processor never saturates.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        self._session = onnxruntime.InferenceSession(
            proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def logits(self, batch: np.ndarray, on_faces: Callable[[int], None] = lambda faces: None) -> np.ndarray:
        """Return ``[B, K]`` float32 logits of ``[B, C, H, W]`` float32; ``on_faces`` gets the number of new faces."""
        parts = []
        for start in range(0, len(batch), _BATCH):
            parts.append(self._run(batch[start : start + _BATCH]))
            on_faces(len(parts[-1]))
        return np.concatenate(parts)

    def _run(self, batch: np.ndarray) -> np.ndarray:
        corrections = {layer.correction: np.zeros((1, 1, 1, 1), np.float32) for layer in self._layers}
        names = ["logits", *dict.fromkeys(layer.integers for layer in self._layers)]
        outputs: dict[str, np.ndarray] = {}
        for _ in range(_PASSES + 1):
            found = self._session.run(names, {self._input: batch, **corrections})
            outputs = dict(zip(names, found, strict=True))
            corrections = {
                layer.correction: -layer.scale[:, None, None] * _overflow(layer, outputs[layer.integers])
                for layer in self._layers
            }
        return outputs["logits"]


def _overflow(layer: _Layer, integers: np.ndarray) -> np.ndarray:
    """Return ``[B, O, H, W]`` float32, the excess of the sums of two over 16 bits, in units of the integer sum."""
    values = integers.reshape(*integers.shape[:2], *(integers.shape[2:] or (1, 1)))
    top, left, bottom, right = layer.pads
    padded = np.pad(
        values, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=layer.pad_value
    ).astype(np.int32)
    reach = [(k - 1) * d for k, d in zip(layer.kernel, layer.dilations, strict=True)]
    height, width = (
        (size - far - 1) // step + 1
        for size, far, step in zip(padded.shape[2:], reach, layer.strides, strict=True)
    )
    result = np.zeros((len(values), len(layer.scale), height, width), np.float32)
    peaks = padded.max(axis=(0, 2, 3))[layer.channels]
    can = np.abs((peaks * layer.weights).sum(axis=1)) > _HIGH

    def window(tap: np.ndarray, channels: np.ndarray) -> np.ndarray:
        row, column = divmod(int(tap), layer.kernel[1])
        y, x = row * layer.dilations[0], column * layer.dilations[1]
        ends = y + (height - 1) * layer.strides[0] + 1, x + (width - 1) * layer.strides[1] + 1
        return padded[:, channels, y : ends[0] : layer.strides[0], x : ends[1] : layer.strides[1]]

    for taps in np.unique(layer.taps[can], axis=0):
        chosen = np.flatnonzero(can & (layer.taps == taps).all(axis=1))
        first, second = (
            window(taps[i], layer.channels[chosen, i]) * layer.weights[chosen, i, None, None] for i in (0, 1)
        )
        sums = first + second
        over = (np.maximum(sums - _HIGH, 0) + np.minimum(sums - _LOW, 0)).astype(np.float32)
        starts = np.flatnonzero(np.diff(layer.outputs[chosen], prepend=-1))
        result[:, layer.outputs[chosen][starts]] += np.add.reduceat(over, starts, axis=1)
    return result


def _find_layers(proto: onnx.ModelProto) -> list[_Layer]:
    """Return the layers with u8 activations and s8 weights, except depthwise ones."""
    made = {output: node for node in proto.graph.node for output in node.output}
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    layers = []
    for node in proto.graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul") or len(node.input) < 2:
            continue
        sources = [made.get(name) for name in node.input[:2]]
        pixels, weights = sources
        if (
            pixels is None
            or weights is None
            or {s.op_type for s in (pixels, weights)} != {"DequantizeLinear"}
        ):
            continue
        if weights.input[0] not in constants or pixels.input[0] in constants:
            continue
        layer = _make_layer(node, pixels, weights, constants)
        if layer is not None and len(layer.outputs):
            layers.append(layer)
    return layers


def _make_layer(
    node: onnx.NodeProto,
    pixels: onnx.NodeProto,
    weights: onnx.NodeProto,
    constants: Mapping[str, onnx.TensorProto],
) -> _Layer | None:
    pixel_scale, zero = (numpy_helper.to_array(constants[name]) for name in pixels.input[1:3])
    values, weight_scale = (numpy_helper.to_array(constants[name]) for name in weights.input[:2])
    if zero.dtype != np.uint8 or values.dtype != np.int8 or _attribute(node, "group", 1) != 1:
        return None
    if node.op_type == "Conv" and values.ndim == 4:
        kernel, rows = values.shape[2:], values.transpose(0, 2, 3, 1)
    elif values.ndim == 2:
        transposed = node.op_type == "Gemm" and _attribute(node, "transB", 0)
        kernel, rows = (1, 1), (values if transposed else values.T)[:, None, None]
    else:
        return None
    outputs, channels = len(rows), rows.shape[-1]
    flat = rows.reshape(outputs, -1).astype(np.int32)
    even = flat.shape[1] // 2 * 2
    pairs = flat[:, :even].reshape(outputs, -1, 2)
    risky = np.maximum(pairs, 0).sum(axis=2), np.minimum(pairs, 0).sum(axis=2)
    output, pair = np.nonzero((risky[0] * _MAX_PIXEL > _HIGH) | (risky[1] * _MAX_PIXEL < _LOW))
    places = 2 * pair[:, None] + np.arange(2)
    strides, dilations = _attribute(node, "strides", [1, 1]), _attribute(node, "dilations", [1, 1])
    pads = _attribute(node, "pads", [0, 0, 0, 0])
    return _Layer(
        integers=pixels.input[0],
        correction=f"{node.output[0]}.saturation",
        scale=(pixel_scale * np.broadcast_to(weight_scale, (outputs,))).astype(np.float32),
        pad_value=int(zero),
        kernel=(int(kernel[0]), int(kernel[1])),
        strides=(strides[0], strides[1]),
        pads=(pads[0], pads[1], pads[2], pads[3]),
        dilations=(dilations[0], dilations[1]),
        outputs=output,
        taps=places // channels,
        channels=places % channels,
        weights=pairs[output, pair],
    )


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def _insert_corrections(proto: onnx.ModelProto, layers: Sequence[_Layer]) -> None:
    """Add a correction input to the output of every layer, and export the layer's integer input as an output."""
    by_output = {layer.correction.removesuffix(".saturation"): layer for layer in layers}
    nodes = []
    for node in proto.graph.node:
        nodes.append(node)
        layer = by_output.get(node.output[0]) if node.output else None
        if layer is None:
            continue
        name = node.output[0]
        node.output[0] = f"{name}.exact"
        added = layer.correction
        if node.op_type != "Conv":  # corrections have four dimensions
            nodes.append(helper.make_node("Flatten", [added], [f"{added}.rows"]))
            added = f"{added}.rows"
        nodes.append(helper.make_node("Add", [node.output[0], added], [name]))
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del proto.graph.node[:]
    proto.graph.node.extend(kept)
    shape = ["b", "o", "h", "w"]
    for layer in layers:
        proto.graph.input.append(
            helper.make_tensor_value_info(
                layer.correction, TensorProto.FLOAT, [f"{layer.correction}.{size}" for size in shape]
            )
        )
    listed = {output.name for output in proto.graph.output}
    for name in dict.fromkeys(layer.integers for layer in layers):
        if name not in listed:
            proto.graph.output.append(helper.make_empty_tensor_value_info(name))

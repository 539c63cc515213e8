"""Weights of integer layers: scales, rounding, and bias corrections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from fer_edge.calibration.placement.graph import WEIGHTED
from fer_edge.errors import CalibrationError

#: Smallest scale, for a channel with only zero weights: a smaller one would divide by zero.
MIN_SCALE = 1e-12
#: A quarter of the int32 range, since products are added to the bias.
_INT32_BOUND = 2.0**30


def output_axis(node: onnx.NodeProto) -> int:
    """Return the axis of the output channels in the weight of a Conv, ConvTranspose or Gemm."""
    if node.op_type == "Gemm":
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        return 0 if transposed else 1
    return 1 if node.op_type == "ConvTranspose" else 0


def per_channel(values: np.ndarray, rank: int, axis: int) -> np.ndarray:
    """Reshape ``[C]`` values to broadcast along ``axis`` of a weight with ``rank`` axes."""
    return values.reshape([-1 if i == axis else 1 for i in range(rank)])


def round_weight(
    weight: np.ndarray, axis: int, bias: np.ndarray | None = None, input_scale: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return symmetric int8 values and their float32 scales ``[C]``, one per output channel.

    With ``bias`` and ``input_scale``, a channel of tiny weights gets a scale that lets its bias fit int32.
    """
    others = tuple(i for i in range(weight.ndim) if i != axis)
    scale = np.abs(weight.astype(np.float64)).max(axis=others) / 127
    if bias is not None and input_scale is not None:
        scale = np.maximum(scale, np.abs(bias) / (_INT32_BOUND * input_scale))
    scale = np.maximum(scale, MIN_SCALE).astype(np.float32)
    steps = np.rint(weight / per_channel(scale, weight.ndim, axis).astype(np.float64))
    return np.clip(steps, -127, 127).astype(np.int8), scale


def shift_biases(model: onnx.ModelProto, shifts: Mapping[str, Sequence[float]]) -> None:
    """Add ``shifts`` (layer → one value per output channel) to the biases of ``model``, in place.

    Raises
    ------
    CalibrationError
        If a layer is missing in the model, or has another number of channels.
    """
    nodes = {node.name: node for node in model.graph.node if node.op_type in WEIGHTED}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for layer, shift in shifts.items():
        node = nodes.get(layer)
        channels = None if node is None else _output_channels(node, constants)
        if node is None or channels != len(shift):
            found = "no such layer" if node is None else f"one with {channels} channels"
            raise CalibrationError(
                f"a bias correction is for {layer} with {len(shift)} channels, the model has {found}. Fix: calibrate again"
            )
        values = np.asarray(shift, np.float64)
        if len(node.input) > 2 and node.input[2]:
            values = values + numpy_helper.to_array(constants[node.input[2]])
            del node.input[2]
        name = f"{layer}.shifted_bias"
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
        node.input.append(name)


def _output_channels(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> int:
    axis = output_axis(node)
    channels = int(constants[node.input[1]].dims[axis])
    if node.op_type == "ConvTranspose":  # the second axis counts the channels of one group
        channels *= next((int(a.i) for a in node.attribute if a.name == "group"), 1)
    return channels

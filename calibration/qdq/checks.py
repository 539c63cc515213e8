"""Check a written Q/DQ model against the rules of its dialect.

TensorRT 10 and 11 reject a wrong zero point or a negative scale, but silently build a wrong engine from a wrong
axis of a convolution's weights. So the output of the writer is checked here.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from fer_edge.calibration.placement.graph import WEIGHTED, Graph
from fer_edge.calibration.qdq.weights import output_axis
from fer_edge.errors import CalibrationError

_LEAST = np.finfo(np.float32).tiny


def check_qdq(model: onnx.ModelProto, signed_activations: bool) -> None:
    """Check every QuantizeLinear and DequantizeLinear of ``model``.

    Parameters
    ----------
    model : onnx.ModelProto
        A Q/DQ model.
    signed_activations : bool
        ``True`` if the dialect stores activations as int8 with zero point 0, ``False`` for uint8.

    Raises
    ------
    CalibrationError
        If a scale is not positive, finite and normal, or of the wrong length; if weights are not int8 with zero
        point 0 and one scale per output channel along the right axis; if activations are of the wrong type;
        if a Q and the DQ behind it differ. The message names the tensor.
    """
    graph = Graph(model)
    for node in graph.nodes:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            _check_parameters(graph, node, signed_activations)
    for node in graph.nodes:
        if node.op_type in WEIGHTED:
            _check_weight(graph, node)


def _check_parameters(graph: Graph, node: onnx.NodeProto, signed: bool) -> None:
    if len(node.input) != 3 or any(name not in graph.constants for name in node.input[1:]):
        raise _error(node, "has no constant scale and zero point")
    scale, zero_point = (numpy_helper.to_array(graph.constants[name]) for name in node.input[1:])
    if scale.dtype != np.float32 or not np.isfinite(scale).all() or (scale < _LEAST).any():
        raise _error(node, "has a scale that is not a positive, normal float32 number")
    if zero_point.shape != scale.shape:
        raise _error(node, f"has {scale.size} scales and {zero_point.size} zero points")
    stored = graph.constants.get(node.input[0])
    if stored is not None:
        if zero_point.any():
            raise _error(node, "is a constant with a zero point other than 0")
        return
    expected = np.int8 if signed else np.uint8
    if zero_point.dtype != expected or scale.size != 1:
        raise _error(
            node,
            f"stores an activation as {zero_point.dtype} with {scale.size} scales, expected {expected.__name__} and 1",
        )
    if signed and zero_point.any():
        raise _error(node, f"has the zero point {int(zero_point)}, expected 0")
    if node.op_type == "DequantizeLinear":
        source = graph.producer.get(node.input[0])
        while source is not None and source.op_type in ("MaxPool", "Concat", "DepthToSpace", "Resize"):
            source = graph.producer.get(source.input[0])
        if source is None or list(source.input[1:]) != list(node.input[1:]):
            raise _error(node, "does not undo the QuantizeLinear in front of it")


def _check_weight(graph: Graph, node: onnx.NodeProto) -> None:
    """Check that a weight behind a DequantizeLinear has one scale per output channel, along their axis."""
    dequantise = graph.producer.get(node.input[1])
    if dequantise is None or dequantise.op_type != "DequantizeLinear":
        return
    weight = graph.constants.get(dequantise.input[0])
    if weight is None:  # a product of two activations
        return
    if weight.data_type != TensorProto.INT8:
        raise _error(
            dequantise, f"stores weights as {TensorProto.DataType.Name(weight.data_type)}, expected INT8"
        )
    axis = next((int(a.i) for a in dequantise.attribute if a.name == "axis"), 1)
    expected = output_axis(node)
    if axis % len(weight.dims) != expected:
        raise _error(dequantise, f"scales axis {axis} of a {node.op_type}, expected {expected}")
    scales = graph.constants[dequantise.input[1]].dims
    if list(scales) != [weight.dims[expected]]:
        raise _error(dequantise, f"has scales {list(scales)} for {weight.dims[expected]} output channels")
    if (numpy_helper.to_array(weight) == -128).any():
        raise _error(dequantise, "holds -128, expected symmetric weights from -127 to 127")


def _error(node: onnx.NodeProto, what: str) -> CalibrationError:
    return CalibrationError(
        f"{node.name} {what}, a bug of the Q/DQ writer. Fix: do not use the model, and report this with the "
        "output of fer-edge doctor"
    )

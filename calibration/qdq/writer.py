"""Q/DQ writer: FP32 model + ranges + dialect → a model with explicit quantisation.

Two dialects, one set of ranges:

``tensorrt``
    int8, zero point 0, Q/DQ in front of integer operators; all other operators read floats.
``cpu``
    uint8 activations with a zero point, Q/DQ on inputs and outputs of integer operators (ONNX Runtime
    and OpenVINO fuse ``DQ → op → Q``), int32 biases.

Weights are int8, symmetric, one scale per output channel, in both.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from fer_edge._utils.onnx_files import remove_unused_initializers
from fer_edge.calibration.placement.graph import WEIGHTED, Graph
from fer_edge.calibration.placement.placement import PlacedGraph, group_tensors, passes_integers, place
from fer_edge.calibration.qdq.checks import check_qdq
from fer_edge.calibration.qdq.dialects import DIALECTS, Dialect
from fer_edge.calibration.qdq.transposed import doubles, expand_transposed
from fer_edge.calibration.qdq.weights import output_axis, round_weight, shift_biases
from fer_edge.calibration.ranges.observers import TensorRange
from fer_edge.calibration.ranges.ranges import Ranges
from fer_edge.errors import CalibrationError, lookup


def integer_layers(placed: PlacedGraph, dialect_name: str) -> list[onnx.NodeProto]:
    """Return the nodes of an FP32 model that compute in integers in a dialect, in the order of the graph."""
    dialect = lookup(DIALECTS, dialect_name, "dialect")
    return [
        node
        for node in placed.integer_nodes
        if node.op_type in dialect.integer_ops or (dialect.expand_transposed and doubles(placed.graph, node))
    ]


def quantise(
    model: onnx.ModelProto, ranges: Ranges, dialect_name: str, placed: PlacedGraph | None = None
) -> onnx.ModelProto:
    """Return a Q/DQ copy of ``model``.

    Parameters
    ----------
    model : onnx.ModelProto
        FP32.
    ranges : Ranges
        Activation ranges of ``model``.
    dialect_name : str
        A key of :data:`fer_edge.calibration.qdq.dialects.DIALECTS`.
    placed : PlacedGraph, optional
        The placement of ``model`` by ``ranges``; computed if it is not given.

    Raises
    ------
    CalibrationError
        If a tensor has no range, a layer of the ranges is not in the model, or no layer of the model can run in
        integers.
    """
    dialect = lookup(DIALECTS, dialect_name, "dialect")
    float_layers = ranges.placement.float_layers
    placed = place(model, ranges.placement) if placed is None else placed.leaving(float_layers)
    if unknown := float_layers - {node.name for node in model.graph.node}:
        raise CalibrationError(
            f"the ranges leave {min(unknown)} in floating point, the model has no such layer. Fix: calibrate again"
        )
    layers = {node.name for node in integer_layers(placed, dialect_name)}
    weighted = {node.name for node in model.graph.node if node.op_type in WEIGHTED}
    result = onnx.ModelProto()
    result.CopyFrom(model)
    # A floating-point layer needs no bias correction.
    shifts = ranges.bias_shifts.items()
    shift_biases(result, {layer: shift for layer, shift in shifts if layer not in weighted - layers})
    tensors = ranges.tensors
    if dialect.expand_transposed:
        layers, tensors = expand_transposed(result, layers, tensors)
    graph = Graph(result)
    nodes = [node for node in graph.nodes if node.name in layers]
    if not nodes:
        raise CalibrationError(
            "expected a convolution or hidden dense layer that can run in INT8, found none. Fix: build with --fp32"
        )
    _Writer(result, graph, dialect, nodes, group_ranges(group_tensors(graph, nodes), tensors)).write()
    check_qdq(result, dialect.signed)
    return result


def group_ranges(groups: Mapping[str, str], tensors: Mapping[str, TensorRange]) -> dict[str, TensorRange]:
    """Give every tensor that INT8 stores the union of its group's ranges.

    Raises
    ------
    CalibrationError
        If a tensor has no range.
    """
    missing = [name for name in groups if name not in tensors]
    if missing:
        raise CalibrationError(
            f"{len(missing)} tensors have no range (such as {missing[0]}). Fix: calibrate this model again"
        )
    members: dict[str, list[TensorRange]] = {}
    for name, group in groups.items():
        members.setdefault(group, []).append(tensors[name])
    union = {
        group: TensorRange(
            min(r.min for r in rs), max(r.max for r in rs), min(r.low for r in rs), max(r.high for r in rs)
        )
        for group, rs in members.items()
    }
    return {name: union[group] for name, group in groups.items()}


class _Writer:
    """Rewrites one model in place."""

    def __init__(
        self,
        model: onnx.ModelProto,
        graph: Graph,
        dialect: Dialect,
        nodes: list[onnx.NodeProto],
        ranges: Mapping[str, TensorRange],
    ) -> None:
        self.model = model
        self.dialect = dialect
        self.ranges = ranges
        self.graph = graph
        self.nodes = nodes
        self.readers = {id(n) for n in self.nodes} | {id(n) for n in self.graph.nodes if passes_integers(n)}
        self.inserted: dict[str, list[onnx.NodeProto]] = {}  # tensor → nodes to insert behind its producer
        self.front: list[onnx.NodeProto] = []
        self.scales: dict[str, np.float32] = {}

    def write(self) -> None:
        """Insert Q/DQ on activations, quantise weights and biases, restore the order of nodes."""
        for name in self._stored_tensors():
            self._quantise_activation(name)
        for node in self.nodes:
            if node.op_type in WEIGHTED:
                self._quantise_weight(node)
        ordered = self.front + [
            item
            for node in self.graph.nodes
            for item in (node, *(n for out in node.output for n in self.inserted.get(out, [])))
        ]
        del self.model.graph.node[:]
        self.model.graph.node.extend(ordered)
        remove_unused_initializers(self.model)

    def _stored_tensors(self) -> list[str]:
        wanted = []
        for name in self.ranges:
            read = any(id(node) in self.readers for node in self.graph.consumers.get(name, []))
            if read or self.dialect.store_outputs:
                wanted.append(name)
        return wanted

    def _quantise_activation(self, name: str) -> None:
        scale, zero_point = self.dialect.scale_and_zero_point(self.ranges[name].low, self.ranges[name].high)
        self.scales[name] = scale
        self._constant(f"{name}.scale", scale)
        self._constant(f"{name}.zero_point", zero_point)
        parameters = [f"{name}.scale", f"{name}.zero_point"]
        pair = [
            helper.make_node("QuantizeLinear", [name, *parameters], [f"{name}.q"], name=f"{name}/Q"),
            helper.make_node(
                "DequantizeLinear", [f"{name}.q", *parameters], [f"{name}.dq"], name=f"{name}/DQ"
            ),
        ]
        if name in self.graph.producer:
            self.inserted[name] = pair
        else:
            self.front.extend(pair)
        for node in self.graph.consumers.get(name, []):
            if self.dialect.store_outputs or id(node) in self.readers:
                for i, source in enumerate(node.input):
                    if source == name:
                        node.input[i] = f"{name}.dq"

    def _quantise_weight(self, node: onnx.NodeProto) -> None:
        source_scale = float(self.scales[node.input[0].removesuffix(".dq")])
        weight = numpy_helper.to_array(self.graph.constants[node.input[1]])
        axis = output_axis(node)
        bias = None
        if len(node.input) > 2 and node.input[2]:
            bias = numpy_helper.to_array(self.graph.constants[node.input[2]]).astype(np.float64)
        integers, scale = round_weight(weight, axis, bias, source_scale)
        node.input[1] = self._dequantised(f"{node.name}.weight", integers, scale, axis)
        if bias is not None and self.dialect.integer_bias:
            bias_scale = scale * np.float32(source_scale)
            node.input[2] = self._dequantised(
                f"{node.name}.bias", np.rint(bias / bias_scale).astype(np.int32), bias_scale, 0
            )

    def _dequantised(self, name: str, integers: np.ndarray, scale: np.ndarray, axis: int) -> str:
        """Store integers with a DequantizeLinear node at the start of the graph; return its output."""
        self._constant(f"{name}.q", integers)
        self._constant(f"{name}.scale", scale)
        self._constant(f"{name}.zero_point", np.zeros(len(scale), integers.dtype))
        inputs = [f"{name}.q", f"{name}.scale", f"{name}.zero_point"]
        node = helper.make_node("DequantizeLinear", inputs, [f"{name}.dq"], name=f"{name}/DQ", axis=axis)
        self.front.append(node)
        return f"{name}.dq"

    def _constant(self, name: str, value: np.ndarray | np.float32) -> None:
        self.model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))

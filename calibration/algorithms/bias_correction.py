"""Bias correction (Nagel et al., 2019, Section 4.2): subtract the mean error of rounded weights from the bias.

Rounding the weights W to W + ε changes the output of a layer by ε·x. Its mean over faces and positions,
E[ε·x] per output channel, is a constant that the bias can absorb. It is measured, not derived from the mean
of x: each layer runs a second time with the weights ε on the same input, padding included.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from fer_edge.calibration.placement.graph import WEIGHTED
from fer_edge.calibration.placement.placement import PlacedGraph
from fer_edge.calibration.qdq.weights import output_axis, per_channel, round_weight
from fer_edge.calibration.ranges.activations import run_model
from fer_edge.errors import CalibrationError


def measure_bias_shifts(
    model: Path, batches: Iterable[np.ndarray], placed: PlacedGraph
) -> Mapping[str, tuple[float, ...]]:
    """Return layer → bias correction −E[ε·x], one value per output channel.

    Parameters
    ----------
    model : Path
        FP32 ONNX file.
    batches : iterable of np.ndarray
        ``[B, C, H, W]`` float32, preprocessed.
    placed : PlacedGraph
        Layers that compute in integers.

    Raises
    ------
    CalibrationError
        If there are no faces.
    """
    proto = onnx.load(model)
    layers = _add_error_layers(proto, placed)
    sums = {layer: np.zeros(1) for layer in layers}
    images = 0
    runs = run_model(proto, batches)
    del proto  # holds the weights twice, and the session holds them again
    for batch, values in runs:
        for layer, output in layers.items():
            sums[layer] = sums[layer] + values[output].astype(np.float64) * len(batch)
        images += len(batch)
    if not images:
        raise CalibrationError(
            "expected faces to correct biases on, found none. Fix: give other --calibration-data"
        )
    return {layer: tuple((-total / images).tolist()) for layer, total in sums.items()}


def _add_error_layers(model: onnx.ModelProto, placed: PlacedGraph) -> dict[str, str]:
    """Add a copy of every integer layer with the weights ε; the means of the copies become the only outputs."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    outputs: dict[str, str] = {}
    added: list[onnx.NodeProto] = []
    for node in placed.integer_nodes:
        if node.op_type not in WEIGHTED:
            continue
        weight = numpy_helper.to_array(constants[node.input[1]])
        axis = output_axis(node)
        integers, scale = round_weight(weight, axis)
        error = integers * per_channel(scale, weight.ndim, axis) - weight
        names = [f"{node.name}.error{part}" for part in (".weight", "", ".axes", ".mean")]
        twin = onnx.NodeProto()
        twin.CopyFrom(node)
        twin.name, twin.output[0] = names[1], names[1]
        del twin.input[1:]
        twin.input.append(names[0])
        kept = [0] if node.op_type == "Gemm" else [0, 2, 3]
        model.graph.initializer.append(numpy_helper.from_array(error.astype(np.float32), names[0]))
        model.graph.initializer.append(numpy_helper.from_array(np.array(kept, np.int64), names[2]))
        mean = helper.make_node("ReduceMean", [names[1], names[2]], [names[3]], names[3], keepdims=0)
        added += [twin, mean]
        outputs[node.name] = names[3]
    model.graph.node.extend(added)
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs.values())
    return outputs

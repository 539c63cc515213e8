"""Stride-2 transposed convolutions as 1×1 convolutions, which CPU backends run in integers.

A 2×2 transposed convolution of stride 2 without padding writes each input pixel to a block of its own:
out[o, 2y + r, 2x + s] = Σ_i W[i, o, r, s] in[i, y, x]. That is a 1×1 convolution to 4 times the channels
followed by DepthToSpace, which only moves values. ONNX Runtime has no integer kernel for the former;
on Residual Masking Network it took a sixth of the time of the INT8 model.

The four outputs of a pixel are blocks of channels (DCR), not neighbours (CRD): where channels lie last, as in
OpenVINO, each block is then one copy (0.05 ms of that network's 25 on two cores, against 0.35).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from fer_edge.calibration.graph import Graph
from fer_edge.calibration.observers import TensorRange
from fer_edge.calibration.placement import stored_output
from fer_edge.calibration.ranges import Ranges


def expand_transposed(model: onnx.ModelProto, ranges: Ranges) -> Ranges:
    """Make every 2×2, stride-2 ConvTranspose of ``model`` a Conv, its ReLU, and DepthToSpace, in place.

    Returns the ranges with those of the new tensors.
    """
    graph = Graph(model)
    tensors: dict[str, TensorRange] = dict(ranges.tensors)
    replacements: dict[int, list[onnx.NodeProto]] = {}
    for node in graph.nodes:
        if not is_block_write(graph, node):
            continue
        final = stored_output(graph, node)
        weight = numpy_helper.to_array(graph.constants[node.input[1]])
        names = [f"{node.name}.blocks.weight"]
        blocks = weight.transpose(2, 3, 1, 0).reshape(-1, weight.shape[0], 1, 1)
        model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(blocks), names[0]))
        if len(node.input) > 2:
            names.append(f"{node.name}.blocks.bias")
            bias = np.tile(numpy_helper.to_array(graph.constants[node.input[2]]), 4)
            model.graph.initializer.append(numpy_helper.from_array(bias, names[1]))
        moved = f"{final}.blocks"
        chain = [helper.make_node("Conv", [node.input[0], *names], [moved], node.name, kernel_shape=[1, 1])]
        if final != node.output[0]:
            chain[0].output[0] = f"{node.output[0]}.blocks"
            relu = graph.producer[final]
            chain.append(helper.make_node("Relu", [chain[0].output[0]], [moved], relu.name))
            replacements[id(relu)] = []
        shuffle = helper.make_node(
            "DepthToSpace", [moved], [final], f"{node.name}/shuffle", blocksize=2, mode="DCR"
        )
        replacements[id(node)] = [*chain, shuffle]
        if final in tensors:
            tensors[moved] = tensors[final]
    ordered = [item for node in graph.nodes for item in replacements.get(id(node), [node])]
    del model.graph.node[:]
    model.graph.node.extend(ordered)
    return dataclasses.replace(ranges, tensors=tensors)


def is_block_write(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether ``node`` is a transposed convolution that :func:`expand_transposed` rewrites."""
    if node.op_type != "ConvTranspose" or any(n not in graph.constants for n in node.input[1:]):
        return False
    attributes: dict[str, Any] = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    weight = graph.constants[node.input[1]]
    return (
        list(weight.dims[2:]) == [2, 2]
        and attributes.get("strides") == [2, 2]
        and attributes.get("group", 1) == 1
        and not any(attributes.get("pads", [0]))
        and not any(attributes.get("output_padding", [0]))
        and set(attributes.get("dilations", [1])) == {1}
        and "output_shape" not in attributes
    )

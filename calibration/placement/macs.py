"""Count the multiply-adds of an ONNX graph, layer by layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx

from fer_edge.calibration.placement.graph import infer_values


def multiply_adds(model: onnx.ModelProto) -> Mapping[str, int]:
    """Return layer → multiply-adds for one image, of every Conv, ConvTranspose, Gemm and MatMul.

    Model-local functions, such as self-attention, are not counted.
    """
    shapes = _shapes(model)
    counts = {"Conv": _conv, "ConvTranspose": _transposed, "Gemm": _product, "MatMul": _product}
    return {
        node.name: counts[node.op_type](node, shapes) for node in model.graph.node if node.op_type in counts
    }


def share_of(layers: Iterable[str], work: Mapping[str, int]) -> float:
    """Return the share of all multiply-adds that ``layers`` do."""
    return sum(work.get(name, 0) for name in layers) / max(sum(work.values()), 1)


Shapes = Mapping[str, list[int]]


def _shapes(model: onnx.ModelProto) -> Shapes:
    """Return the shape of every tensor for one image."""
    return {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in infer_values(model)
    }


def _conv(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Return output elements × kernel elements per output."""
    weight = shapes[node.input[1]]
    return int(np.prod(shapes.get(node.output[0], [0])) * np.prod(weight[1:]))


def _transposed(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Return input elements × kernel elements per input."""
    weight = shapes[node.input[1]]
    return int(np.prod(shapes.get(node.input[0], [0])) * np.prod(weight[1:]))


def _product(node: onnx.NodeProto, shapes: Shapes) -> int:
    rows = shapes.get(node.input[0], [0])
    transposed = any(a.name == "transA" and a.i for a in node.attribute)
    return int(np.prod(shapes.get(node.output[0], [0])) * rows[0 if transposed else -1])

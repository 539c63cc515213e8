"""Index of an ONNX graph: producers, consumers, constants, and the nodes upstream of a tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import onnx
from onnx import shape_inference

#: Operators with integer kernels; their second input is the weight.
WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm"})
#: Constants of up to this many elements may be shapes, axes or sizes, whose values shape inference needs.
_MAX_ARGUMENT = 64


class Graph:
    """Producers, consumers and constants of an ONNX graph, by tensor name."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.nodes = list(model.graph.node)
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.outputs = {value.name for value in model.graph.output}
        self.producer = {name: node for node in self.nodes for name in node.output}
        self.consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                self.consumers.setdefault(name, []).append(node)

    def activations(self, node: onnx.NodeProto) -> list[str]:
        """Return the inputs of ``node`` that depend on the image."""
        return [name for name in node.input if name and name not in self.constants]


def upstream(
    graph: Graph, names: Iterable[str], ends: Callable[[onnx.NodeProto], bool]
) -> list[onnx.NodeProto]:
    """Return the nodes that ``names`` depend on, up to and including those where ``ends`` is true."""
    found: dict[int, onnx.NodeProto] = {}
    pending = list(names)
    while pending:
        node = graph.producer.get(pending.pop())
        if node is None or id(node) in found:
            continue
        found[id(node)] = node
        if not ends(node):
            pending.extend(graph.activations(node))
    return list(found.values())


def is_residual(graph: Graph, node: onnx.NodeProto) -> bool:
    """Return ``True`` for an addition of two activations, at least one of which comes from a weighted layer."""
    if node.op_type != "Add" or len(graph.activations(node)) != 2:
        return False
    return any(
        (source := graph.producer.get(name)) is not None and source.op_type in WEIGHTED for name in node.input
    )


def without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which constants of more than 64 elements keep type and shape, but no values."""
    result = onnx.ModelProto(ir_version=model.ir_version)
    result.opset_import.extend(model.opset_import)
    result.functions.extend(model.functions)
    for field in ("node", "input", "output"):
        getattr(result.graph, field).extend(getattr(model.graph, field))
    result.graph.initializer.extend(
        onnx.TensorProto(name=t.name, data_type=t.data_type, dims=t.dims) if _is_weight(t) else t
        for t in model.graph.initializer
    )
    return result


def infer_values(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Return type and shape of every tensor for one image; weights are inferred as inputs, without their values."""
    lean = without_weights(model)
    for value in lean.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    constants = list(lean.graph.initializer)
    del lean.graph.initializer[:]
    lean.graph.initializer.extend(t for t in constants if not _is_weight(t))
    shapes = [onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in constants]
    lean.graph.input.extend(shapes[i] for i, t in enumerate(constants) if _is_weight(t))
    inferred = shape_inference.infer_shapes(lean, data_prop=True).graph
    return [*inferred.input, *inferred.value_info, *inferred.output, *shapes]


def _is_weight(tensor: onnx.TensorProto) -> bool:
    return bool(np.prod(tensor.dims) > _MAX_ARGUMENT)

"""ONNX graphs as calibration sees them: producers, consumers, constants, and what lies in front of a tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import onnx
from onnx import shape_inference

#: Operators with integer kernels; their second input is the weight.
WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm"})
#: Constants of up to this many numbers may be shapes, axes or sizes, whose values inference needs.
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
    """Return the nodes that ``names`` depend on, up to and with those where ``ends`` is true."""
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
    """A residual addition adds what convolutions made; ``1 + m`` and attention sums do not."""
    if node.op_type != "Add" or len(graph.activations(node)) != 2:
        return False
    return any(
        (source := graph.producer.get(name)) is not None and source.op_type in WEIGHTED for name in node.input
    )


def infer_values(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Return type and shape of every tensor for one image; inference gets weights as inputs, not their values."""
    lean = onnx.ModelProto(ir_version=model.ir_version)
    lean.opset_import.extend(model.opset_import)
    lean.functions.extend(model.functions)
    graph = lean.graph
    graph.node.extend(model.graph.node)
    graph.output.extend(model.graph.output)
    for value in model.graph.input:
        dims = [d.dim_value for d in value.type.tensor_type.shape.dim]
        image = onnx.helper.make_tensor_value_info(value.name, onnx.TensorProto.FLOAT, [1, *dims[1:]])
        graph.input.append(image)
    for tensor in model.graph.initializer:
        if np.prod(tensor.dims) <= _MAX_ARGUMENT:
            graph.initializer.append(tensor)
        else:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    inferred = shape_inference.infer_shapes(lean, data_prop=True).graph
    small = [onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in graph.initializer]
    return [*inferred.input, *inferred.value_info, *inferred.output, *small]

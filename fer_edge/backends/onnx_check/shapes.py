"""Shapes and work of the nodes of an ONNX graph, one node at a time, so that sizes are checked before they grow.

Shape inference of a whole graph by onnx follows doubling shapes until memory is exhausted; here each shape is checked
before it is used by the next node.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from fer_edge.backends.onnx_check.light import Refusal

if TYPE_CHECKING:
    import onnx

_MAX_DIMENSIONS = 8
#: Element type of ``TensorProto`` → bytes, and the field of its elements if they are not raw data.
ELEMENTS: Mapping[int, tuple[int, str]] = {
    1: (4, "float_data"),  # float
    2: (1, "int32_data"),  # uint8
    3: (1, "int32_data"),  # int8
    6: (4, "int32_data"),
    7: (8, "int64_data"),
    9: (1, "int32_data"),  # bool
    10: (2, "int32_data"),  # float16
}


_INT64 = 7
#: Products of larger sizes may overflow.
MAX_SIZE = 2**31


@dataclass(frozen=True)
class Value:
    """A tensor of the graph, at batch 1.

    Attributes
    ----------
    element : int
        Element type, a key of :data:`ELEMENTS`.
    shape : tuple of int
        Dimensions.
    constant : bool
        Whether it does not depend on the input.
    data : TensorProto or None
        Elements of a small constant of the file.
    """

    element: int
    shape: tuple[int, ...]
    constant: bool
    data: onnx.TensorProto | None = field(default=None, repr=False)

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Size in memory."""
        return self.elements * ELEMENTS[self.element][0]


def make_value(name: str, element: int, sizes: Sequence[int], constant: bool) -> Value:
    """Return a value, or reject its type or shape."""
    if element not in ELEMENTS:
        raise Refusal(f"{name} has elements of type {element}, which no network of FER-Edge uses")
    if len(sizes) > _MAX_DIMENSIONS:
        raise Refusal(f"{name} has {len(sizes)} dimensions, more than {_MAX_DIMENSIONS}")
    if any(size < 0 for size in sizes):
        raise Refusal(f"{name} has a negative dimension")
    return Value(element, tuple(sizes), constant)


def infer(node: onnx.NodeProto, inputs: Mapping[str, Value], opset: int) -> dict[str, Value]:
    """Return the outputs of a node of a standard ONNX operator.

    Raises
    ------
    Refusal
        If its shapes cannot be inferred, or depend on computed data.
    """
    import onnx
    from onnx.shape_inference import infer_node_outputs

    read = {name: inputs[name] for name in node.input if name}
    data = {name: value.data for name, value in read.items() if value.data is not None}
    if node.op_type != "Slice":  # whose largest integer means the end
        _check_numbers(node, data.values())
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, "")
        found = infer_node_outputs(
            schema,
            node,
            {name: _type(value) for name, value in read.items()},
            data,
            opset_imports=[onnx.helper.make_opsetid("", opset)],
        )
    except Exception as error:  # C++ exceptions without a common public base class
        raise Refusal(
            f"the shape of {_name(node)} cannot be inferred ({' '.join(str(error).split())[:200]})"
        ) from error
    constant = all(value.constant for value in read.values())
    outputs = {}
    for name in filter(None, node.output):
        kind = found[name].tensor_type if name in found else None
        sizes = None if kind is None or not kind.HasField("shape") else kind.shape.dim
        if kind is None or sizes is None or not all(size.HasField("dim_value") for size in sizes):
            raise Refusal(f"the output shape of {_name(node)} depends on computed data")
        outputs[name] = make_value(
            f"the output of {_name(node)}", kind.elem_type, [size.dim_value for size in sizes], constant
        )
    return outputs


def count_work(node: onnx.NodeProto, inputs: Mapping[str, Value], outputs: Mapping[str, Value]) -> int:
    """Return the multiply-adds of a node, or the elements that it reads and writes, whichever is larger."""
    values = [*(inputs[name] for name in node.input if name), *outputs.values()]
    moved = sum(value.elements for value in values)
    result = max((value.elements for value in outputs.values()), default=0)
    operands = [inputs[name].shape for name in node.input if name]
    if node.op_type == "Conv":
        return max(moved, result * math.prod(operands[1][1:]))
    if node.op_type == "ConvTranspose":
        return max(moved, math.prod(operands[0]) * math.prod(operands[1][1:]))
    if node.op_type in ("MatMul", "Gemm"):
        inner = operands[0][0 if _is_transposed(node) else -1] if operands[0] else 1
        return max(moved, result * inner)
    if node.op_type in ("AveragePool", "MaxPool"):
        return max(
            moved, result * next(math.prod(a.ints) for a in node.attribute if a.name == "kernel_shape")
        )
    return moved


def _check_numbers(node: onnx.NodeProto, operands: Iterable[onnx.TensorProto]) -> None:
    """Reject sizes whose products may overflow."""
    from onnx import numpy_helper

    for tensor in operands:
        if (
            tensor.data_type == _INT64
            and np.abs(numpy_helper.to_array(tensor), dtype=np.float64).max(initial=0) > MAX_SIZE
        ):
            raise Refusal(f"{_name(node)} reads a number above {MAX_SIZE}")


def _is_transposed(node: onnx.NodeProto) -> bool:
    return any(attribute.name == "transA" and attribute.i for attribute in node.attribute)


def _type(value: Value) -> onnx.TypeProto:
    import onnx

    return onnx.helper.make_tensor_type_proto(value.element, value.shape)


def _name(node: onnx.NodeProto) -> str:
    return f"the node {node.name or (node.output[0] if node.output else '')!r:.80} ({node.op_type!r:.40})"

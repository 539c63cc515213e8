"""Checks of single parts of an ONNX file: data of constants, and names and attributes of nodes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from fer_edge.backends.onnx_check.light import Refusal
from fer_edge.backends.onnx_check.shapes import ELEMENTS, MAX_SIZE, Value, make_value

if TYPE_CHECKING:
    import onnx

_MAX_NAMES_PER_NODE = 256
_MAX_ATTRIBUTES = 32
#: Fields of an attribute that hold numbers or text.
_PLAIN = frozenset({"name", "type", "doc_string", "f", "i", "s", "floats", "ints"})
_MAX_NUMBERS_PER_ATTRIBUTE = 64
_MAX_NAME_CHARS = 512
_KEPT_ELEMENTS = 64


def read_tensor(tensor: onnx.TensorProto, raw_bytes: int | None = None) -> Value:
    """Return the value of a constant; reject data whose size does not fit its shape.

    Parameters
    ----------
    tensor : TensorProto
        The constant.
    raw_bytes : int or None
        Size of its raw data, if that was dropped.
    """
    from onnx import TensorProto

    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        raise Refusal(f"the constant {tensor.name!r:.80} has external data")
    value = make_value(f"the constant {tensor.name!r:.80}", tensor.data_type, tensor.dims, constant=True)
    kept = tensor.HasField("raw_data")
    size, field = ELEMENTS[value.element]
    typed = {name: len(getattr(tensor, name)) for _, name in ELEMENTS.values()}
    typed |= {name: len(getattr(tensor, name)) for name in ("string_data", "double_data", "uint64_data")}
    expected: dict[str, int] = {}
    if kept or raw_bytes is not None:
        fits = value.size_bytes == (raw_bytes if raw_bytes is not None else len(tensor.raw_data))
        fits = fits and not (kept and raw_bytes is not None)
    else:
        expected, fits = {field: value.elements}, True
    if not fits or tensor.HasField("segment") or any(n != expected.get(name, 0) for name, n in typed.items()):
        raise Refusal(
            f"the data of the constant {tensor.name!r:.80} do not fit its shape {value.shape} of {size} bytes per element"
        )
    small = raw_bytes is None and value.elements <= _KEPT_ELEMENTS
    return Value(value.element, value.shape, constant=True, data=tensor if small else None)


def read_constant(node: onnx.NodeProto) -> dict[str, Value]:
    """Return the output of a ``Constant`` node."""
    from onnx import helper

    if len(node.attribute) != 1 or len(node.output) != 1 or node.input:
        raise Refusal(f"the constant {node.output[:1]} must have exactly one value")
    (attribute,) = node.attribute
    if attribute.name == "value":
        tensor = attribute.t
    elif attribute.name in ("value_int", "value_float"):
        whole = attribute.name == "value_int"
        tensor = helper.make_tensor("", 7 if whole else 1, [], [attribute.i if whole else attribute.f])
    elif attribute.name in ("value_ints", "value_floats"):
        whole = attribute.name == "value_ints"
        numbers = attribute.ints if whole else attribute.floats
        tensor = helper.make_tensor("", 7 if whole else 1, [len(numbers)], numbers)
    else:
        raise Refusal(f"the constant {node.output[0]!r:.80} must be numeric")
    return {node.output[0]: read_tensor(tensor)}


def check_node(node: onnx.NodeProto) -> None:
    """Reject a node with long names or lists, or with attributes other than numbers and text, such as a graph."""
    check_names((node.name, node.op_type, *node.input, *node.output))
    if len(node.attribute) > _MAX_ATTRIBUTES:
        raise Refusal(
            f"expected at most {_MAX_ATTRIBUTES} attributes of a node {node.op_type!r:.40}, found {len(node.attribute)}"
        )
    allowed = _PLAIN | {"t"} if node.op_type == "Constant" else _PLAIN
    for attribute in node.attribute:
        which = f"the attribute {attribute.name!r:.40} of a node {node.op_type!r:.40}"
        held = {field.name for field, _ in attribute.ListFields()} - allowed
        if held:
            raise Refusal(f"{which} holds a graph, a tensor or a reference ({', '.join(sorted(held))})")
        if max(len(attribute.ints), len(attribute.floats)) > _MAX_NUMBERS_PER_ATTRIBUTE:
            raise Refusal(f"{which} has more than {_MAX_NUMBERS_PER_ATTRIBUTE} elements")
        numbers = () if node.op_type == "Constant" else (attribute.i, *attribute.ints)
        if any(abs(number) > MAX_SIZE for number in numbers):
            raise Refusal(f"{which} exceeds {MAX_SIZE}")


def check_names(names: Iterable[str]) -> None:
    """Reject a node with too many names, or with names that are too long."""
    listed = tuple(names)
    if len(listed) > _MAX_NAMES_PER_NODE:
        raise Refusal(f"a node has more than {_MAX_NAMES_PER_NODE} inputs and outputs")
    for name in listed:
        if len(name) > _MAX_NAME_CHARS:
            raise Refusal(f"the name {name[:40]!r}… has {len(name)} characters, more than {_MAX_NAME_CHARS}")

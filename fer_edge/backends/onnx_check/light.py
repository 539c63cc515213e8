"""An ONNX file without the data of its large constants: kilobytes instead of megabytes for a check.

The file is read field by field, and only the needed protobuf fields are copied: parsing the whole file would copy all
of it, and a hostile file could make the parser allocate many times its size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

#: Larger constants are dropped. Shapes, axes and sizes, whose values are needed, are far smaller.
_KEPT_BYTES = 1 << 12
#: Limits of the copied fields. The ensemble of seven networks in FP32 needs 0.6 MB and 7,000 fields.
_MAX_BYTES = 4 << 20
_MAX_FIELDS = 100_000
#: Limit of protobuf for one message.
_MAX_FILE_BYTES = 2**31 - 1

# Field numbers of onnx.proto.
_MODEL_GRAPH = 7
_GRAPH_INITIALIZER = 5
_TENSOR_RAW_DATA = 9
_VARINT, _EIGHT_BYTES, _DELIMITED, _FOUR_BYTES = 0, 1, 2, 5


class Refusal(Exception):
    """Reason why a file is rejected, as the end of a sentence that begins with its name."""


@dataclass(frozen=True)
class LightModel:
    """A file without large constants.

    Attributes
    ----------
    content : bytes
        A ``ModelProto``.
    raw_bytes : tuple of int or None
        Per initializer, the size of the raw data that was dropped; ``None`` if none was.
    """

    content: bytes
    raw_bytes: tuple[int | None, ...]


@dataclass(frozen=True)
class _Field:
    number: int
    wire_type: int
    start: int  # of the tag
    payload: int
    end: int


def lighten(content: bytes) -> LightModel:
    """Drop the raw data of large initializers.

    Raises
    ------
    Refusal
        If it is not protobuf, does not have exactly one graph, or is too large without its constants.
    """
    if len(content) > _MAX_FILE_BYTES:
        raise Refusal(f"expected at most {_MAX_FILE_BYTES} bytes, found {len(content)}")
    reader = _Reader(memoryview(content))
    light = bytearray()
    raw_bytes: list[int | None] = []
    graphs = 0
    for part in reader.fields(0, len(content)):
        if (part.number, part.wire_type) == (_MODEL_GRAPH, _DELIMITED):
            graphs += 1
            _append(light, part.number, reader.graph(part, raw_bytes))
        else:
            light += reader.copy(part)
        _check_size(light)
    if graphs != 1:
        raise Refusal(f"expected 1 graph, found {graphs}")
    return LightModel(bytes(light), tuple(raw_bytes))


class _Reader:
    """Reader of the protobuf fields of a file, whose number is limited."""

    def __init__(self, view: memoryview) -> None:
        self._view, self._left = view, _MAX_FIELDS

    def fields(self, position: int, end: int) -> Iterator[_Field]:
        while position < end:
            self._left -= 1
            if self._left < 0:
                raise Refusal(f"it has more than {_MAX_FIELDS} protobuf fields")
            start = position
            tag, position = self._varint(position, end)
            number, wire_type, payload = tag >> 3, tag & 7, position
            if wire_type == _VARINT:
                _, position = self._varint(position, end)
            elif wire_type == _DELIMITED:
                size, payload = self._varint(position, end)
                position = payload + size
            elif wire_type in (_EIGHT_BYTES, _FOUR_BYTES):
                position += 8 if wire_type == _EIGHT_BYTES else 4
            else:
                raise Refusal("the file is damaged or not ONNX")
            if position > end or not number:
                raise Refusal("the file is truncated or not ONNX")
            yield _Field(number, wire_type, start, payload, position)

    def copy(self, part: _Field) -> memoryview:
        return self._view[part.start : part.end]

    def graph(self, whole: _Field, raw_bytes: list[int | None]) -> bytearray:
        light = bytearray()
        for part in self.fields(whole.payload, whole.end):
            if (part.number, part.wire_type) != (_GRAPH_INITIALIZER, _DELIMITED):
                light += self.copy(part)
            elif part.end - part.payload <= _KEPT_BYTES:
                raw_bytes.append(None)
                light += self.copy(part)
            else:
                tensor, size = self._tensor(part)
                raw_bytes.append(size)
                _append(light, part.number, tensor)
            _check_size(light)
        return light

    def _tensor(self, whole: _Field) -> tuple[bytearray, int | None]:
        light, size = bytearray(), None
        for part in self.fields(whole.payload, whole.end):
            if (part.number, part.wire_type) == (_TENSOR_RAW_DATA, _DELIMITED):
                if size is not None:
                    raise Refusal("a constant has two fields of raw data")
                size = part.end - part.payload
            else:
                light += self.copy(part)
                _check_size(light)
        return light, size

    def _varint(self, position: int, end: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 70, 7):
            if position >= end:
                raise Refusal("the file is truncated or not ONNX")
            byte = self._view[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, position
        raise Refusal("the file is damaged or not ONNX")


def _append(light: bytearray, number: int, payload: bytearray) -> None:
    for value in (number << 3 | _DELIMITED, len(payload)):
        while value >= 0x80:
            light.append(value & 0x7F | 0x80)
            value >>= 7
        light.append(value)
    light += payload


def _check_size(light: bytearray) -> None:
    if len(light) > _MAX_BYTES:
        raise Refusal(f"without its large constants it must have at most {_MAX_BYTES >> 20} MiB, found more")

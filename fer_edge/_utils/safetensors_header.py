"""The header of a safetensors file, validated before use."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Headers of the papers' networks have 100 kB.
MAX_HEADER_BYTES = 8 << 20
_MAX_DIMENSIONS = 16
_MAX_VALUES = 1 << 40
_ITEM_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip


@dataclass(frozen=True)
class SafetensorsHeader:
    """Declarations of a file: metadata, and dtype and shape by tensor name."""

    metadata: dict[str, str]
    tensors: dict[str, tuple[str, tuple[int, ...]]]


def looks_like_safetensors(head: bytes) -> bool:
    """Return ``True`` if the first nine bytes are a plausible header size and an opening brace."""
    return len(head) > 8 and head[8:9] == b"{" and head[6:8] == b"\0\0"


def read_safetensors_header(path: Path) -> SafetensorsHeader:
    """Read and check the header.

    Raises
    ------
    ValueError
        If it is damaged, larger than :data:`MAX_HEADER_BYTES`, or does not agree with the file's size.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > MAX_HEADER_BYTES:
            raise ValueError(f"its header has {length} bytes, expected up to {MAX_HEADER_BYTES}")
        if 8 + length > size:
            raise ValueError(f"it is truncated: {size} bytes, expected a header of {8 + length}")
        raw = file.read(length)
    header = parse_json(raw)
    if not isinstance(header, dict):
        raise ValueError("its header is not a JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata are not strings")
    tensors, end = {}, 0
    for name, entry in header.items():
        dtype, shape, stop = _entry(name, entry)
        tensors[name], end = (dtype, shape), max(end, stop)
    if 8 + length + end != size:
        cut = "it is truncated: " if size < 8 + length + end else ""
        raise ValueError(f"{cut}{size} bytes, expected {8 + length + end}")
    return SafetensorsHeader(metadata, tensors)


def parse_json(text: str | bytes) -> Any:
    """Parse untrusted JSON; any fault, NaN and deep nesting included, raises :class:`ValueError`."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("its JSON is nested too deeply") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _entry(name: str, entry: Any) -> tuple[str, tuple[int, ...], int]:
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        raise ValueError(f"{name[:80]!r} has no dtype")
    dtype, shape = entry["dtype"], _counts(name, entry.get("shape"))
    offsets = _counts(name, entry.get("data_offsets"))
    if len(offsets) != 2 or len(shape) > _MAX_DIMENSIONS or math.prod(shape) > _MAX_VALUES:
        raise ValueError(f"{name[:80]!r} declares {len(shape)} dimensions or too many values")
    bits = _ITEM_BITS.get(dtype)
    if bits is not None and math.prod(shape) * bits != (offsets[1] - offsets[0]) * 8:
        raise ValueError(f"{name[:80]!r} declares {shape} {dtype} in {offsets[1] - offsets[0]} bytes")
    return dtype, shape, offsets[1]


def _counts(name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(item) is int and 0 <= item < 1 << 60 for item in value):
        raise ValueError(f"{name[:80]!r} lacks a shape or data_offsets of whole numbers")
    return tuple(value)

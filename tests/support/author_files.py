"""Helpers for tests of authors' files: light states, golden states, and a writer of TensorFlow checkpoints."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import google_crc32c
import numpy as np
import torch
from golden_outputs import GoldenFolder
from torch import Tensor

State = dict[str, Tensor]


def light(state: Mapping[str, Tensor]) -> State:
    """Give every entry one value of its own, equal for aliases; only that value is stored."""
    values: dict[int, int] = {}
    return {
        name: torch.tensor(1 + values.setdefault(id(value), len(values)), dtype=value.dtype).expand(
            value.shape
        )
        for name, value in state.items()
    }


def light_from_keys(golden_folder: GoldenFolder, name: str) -> State:
    """Return the entries of a golden keys file, aliases of one value, zeros for all but their first name."""
    values: dict[str, int] = {}
    return {
        key: torch.tensor(
            1 + values.setdefault(golden_folder.filler.canonical(key), len(values)),
            dtype=torch.int64 if key.endswith("num_batches_tracked") else torch.float32,
        ).expand(shape)
        for key, shape in golden_folder.keys(name).items()
    }


def equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Tell whether two states have the same names and values."""
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


# --- TensorFlow checkpoints -----------------------------------------------------------------------------


def masked_crc(data: bytes) -> int:
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def entry(dtype: int, shape: tuple[int, ...], offset: int, size: int, crc: int, shard: int = 0) -> bytes:
    """Encode a BundleEntryProto."""
    sides = b"".join(b"\x12" + varint(len(s)) + s for s in (b"\x08" + varint(side) for side in shape))
    numbers = ((1, dtype), (3, shard), (4, offset), (5, size))
    fields = b"".join(varint(number << 3) + varint(value) for number, value in numbers)
    return fields + b"\x12" + varint(len(sides)) + sides + b"\x35" + struct.pack("<I", crc)


def write_table(path: Path, table: Mapping[bytes, bytes], compression: int = 0) -> None:
    """Write a LevelDB table of one data block, without shared prefixes."""

    def block(rows: Mapping[bytes, bytes]) -> bytes:
        body = b"".join(
            varint(0) + varint(len(key)) + varint(len(value)) + key + value
            for key, value in sorted(rows.items())
        )
        return body + struct.pack("<II", 0, 1) + bytes([compression])

    def handle(offset: int, content: bytes) -> bytes:
        return varint(offset) + varint(len(content) - 1)

    data, empty = block(table), block({})
    first = data + struct.pack("<I", masked_crc(data))
    second = empty + struct.pack("<I", masked_crc(empty))
    index = block({b"\xff": handle(0, data)})
    third = index + struct.pack("<I", masked_crc(index))
    footer = handle(len(first), empty) + handle(len(first) + len(second), index)
    path.write_bytes(first + second + third + footer.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57))


def write_checkpoint(prefix: Path, variables: Mapping[str, np.ndarray]) -> None:
    """Write ``prefix.index`` and its only shard, in the order of TensorFlow's saver."""
    table, offset = {b"": b"\x08\x01\x1a\x02\x08\x01"}, 0
    with prefix.with_name(f"{prefix.name}.data-00000-of-00001").open("wb") as file:
        for name in sorted(variables):
            value = variables[name]
            data = value.tobytes()
            dtype = {"<f4": 1, "<f8": 2, "<i4": 3, "<i8": 9}[value.dtype.str]
            table[name.encode()] = entry(dtype, value.shape, offset, len(data), masked_crc(data))
            offset += file.write(data)
    write_table(prefix.with_name(f"{prefix.name}.index"), table)

"""Checkpoints of TensorFlow's saver (V2 format), read without TensorFlow: nothing in them can run.

``PREFIX.index`` is a table of sorted keys in the format of LevelDB: each variable's name → dtype, shape,
shard, offset, size and checksum. ``PREFIX.data-IIIII-of-NNNNN`` are the shards, raw row-major values.
``PREFIX.meta`` holds the graph, whose constants are no variables.
TensorFlow itself is 280 to 570 MB to download and over 2 GB installed; protobuf and google-crc32c are 1 MB.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fer_edge.errors import WeightsError
from fer_edge.system.extras import require_extra

_FOOTER = 48
_MAGIC = 0xDB4775248B80FB57
_TRAILER = 5  # compression, checksum
_MAX_INDEX_BYTES = 64 << 20
_MAX_GRAPH_BYTES = 256 << 20
#: EmotionalDAN has 199 variables (with an optimiser 600), names of 60 bytes, entries of 40.
_MAX_KEYS = 100_000
_MAX_KEY_BYTES = 4096
_MAX_ALL_KEYS_BYTES = 16 << 20
_MAX_ENTRY_BYTES = 4096
_MAX_DIMENSIONS = 16
#: Of all messages of a file: a graph with its training has about 500,000.
_MAX_FIELDS = 2_000_000
_CRC_DELTA = 0xA282EAD8
#: TensorFlow's number of a type → NumPy's type, little-endian.
_DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8", 19: "<f2"}


@dataclass(frozen=True)
class _Entry:
    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    checksum: int
    sliced: bool


class TensorFlowCheckpoint(Mapping[str, np.ndarray]):
    """Lazily read and verified variables of a checkpoint.

    Parameters
    ----------
    prefix : Path
        Path without ``.index``.

    Raises
    ------
    WeightsError
        If a file is missing, truncated or damaged, or a value is not a plain dense number.
    MissingExtraError
        If the extra ``tensorflow`` is not installed.
    """

    def __init__(self, prefix: Path) -> None:
        require_extra("tensorflow", f"reading the TensorFlow checkpoint {prefix}")
        self.prefix = prefix
        index = _beside(prefix, ".index")
        table = _read_table(_read_all(index, _MAX_INDEX_BYTES), str(index))
        messages = _Messages(str(index))
        header = messages.fields(table.pop(b"", b""))
        if header.get(2):
            raise WeightsError(
                f"{index} is big-endian, expected little-endian. Fix: save it on a little-endian machine."
            )
        self._shards = header.get(1, [0])[0]
        if not isinstance(self._shards, int) or not 1 <= self._shards <= 99999:
            raise WeightsError(
                f"{index} has no header with the number of shards. Fix: fetch the checkpoint again."
            )
        self._entries = {
            _text(key, str(index)): messages.entry(value, f"{index}: {key[:100]!r}")
            for key, value in table.items()
        }

    def __getitem__(self, name: str) -> np.ndarray:
        """Read one variable; its checksum is verified."""
        entry, origin = self._entries[name], f"{self.prefix}: {name}"
        if entry.dtype not in _DTYPES or entry.sliced:
            raise WeightsError(
                f"{origin} has TensorFlow type {entry.dtype}{' in slices' if entry.sliced else ''}, expected plain numbers. Fix: give a checkpoint that TensorFlow's default saver wrote."
            )
        dtype = np.dtype(_DTYPES[entry.dtype])
        if _size(entry.shape) * dtype.itemsize != entry.size:
            raise WeightsError(
                f"{origin} declares {entry.size} bytes, which do not fit {entry.shape} {dtype}. Fix: fetch the checkpoint again."
            )
        shard = _beside(self.prefix, f".data-{entry.shard:05d}-of-{self._shards:05d}")
        if entry.offset + entry.size > shard.stat().st_size:
            raise WeightsError(
                f"{shard} has {shard.stat().st_size} bytes, but {name} needs bytes {entry.offset} to {entry.offset + entry.size}. Fix: fetch the truncated file again."
            )
        with shard.open("rb") as file:
            file.seek(entry.offset)
            data = file.read(entry.size)
        if _masked_crc(data) != entry.checksum:
            raise WeightsError(f"{shard} is damaged: the checksum of {name} differs. Fix: fetch it again.")
        return np.frombuffer(data, dtype).reshape(entry.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def files(self) -> tuple[Path, ...]:
        """The index, the shards, and the graph if it exists."""
        shards = (f".data-{i:05d}-of-{self._shards:05d}" for i in range(self._shards))
        needed = (_beside(self.prefix, suffix) for suffix in (".index", *shards))
        graph = self.prefix.with_name(f"{self.prefix.name}.meta")
        return (*needed, graph) if graph.is_file() else tuple(needed)

    def constants(self, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
        """Return the graph's float32 constants of one shape; none if there is no ``.meta`` file."""
        path = self.prefix.with_name(f"{self.prefix.name}.meta")
        if not path.is_file():
            return {}
        messages = _Messages(str(path))
        graphs = messages.fields(_read_all(path, _MAX_GRAPH_BYTES)).get(2, [])
        found = {}
        for graph in graphs:
            for raw in messages.fields(graph).get(1, []):
                node = messages.fields(raw)
                if node.get(2) == [b"Const"]:
                    value = messages.constant(node.get(5, []), shape)
                    if value is not None:
                        name = node.get(1, [b""])[0]
                        found[_text(name, str(path))] = value
        return found


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for side in shape:
        size *= side
    return size


# --- the table ------------------------------------------------------------------------------------------


def _read_table(data: bytes, origin: str) -> dict[bytes, bytes]:
    """Return every key and value of a LevelDB table; checksums are verified.

    A table of a few bytes could name one block many times, or grow its keys with each entry: the blocks
    together are no larger than the file, and the keys are limited.
    """
    if len(data) < _FOOTER or int.from_bytes(data[-8:], "little") != _MAGIC:
        raise WeightsError(
            f"{origin} is not a complete index of a TensorFlow checkpoint ({len(data)} bytes). Fix: fetch it again."
        )
    try:
        _, _, at = _handle(data, len(data) - _FOOTER)  # filter block, unused in checkpoints
        offset, size, _ = _handle(data, at)
        table: dict[bytes, bytes] = {}
        left, all_keys = len(data) - size, 0
        for _, handle in _block(data, offset, size, origin):
            offset, size, _ = _handle(handle, 0)
            left -= size
            if left < 0:
                raise WeightsError(
                    f"{origin} is damaged: its blocks overlap. Fix: fetch the checkpoint again."
                )
            for key, value in _block(data, offset, size, origin):
                all_keys += len(key)
                table[key] = value
                if len(table) > _MAX_KEYS or all_keys > _MAX_ALL_KEYS_BYTES:
                    raise WeightsError(
                        f"{origin} has more than {_MAX_KEYS} names or {_MAX_ALL_KEYS_BYTES >> 20} MiB of them. Fix: give the authors' checkpoint."
                    )
    except (IndexError, struct.error) as error:
        raise WeightsError(f"{origin} is damaged. Fix: fetch it again.") from error
    return table


def _block(data: bytes, offset: int, size: int, origin: str) -> Iterator[tuple[bytes, bytes]]:
    """Yield a block's keys and values; keys are prefix-compressed."""
    stop = offset + size
    if size < 4 or stop + _TRAILER > len(data) - _FOOTER:
        raise IndexError
    (checksum,) = struct.unpack_from("<I", data, stop + 1)
    if _masked_crc(data[offset : stop + 1]) != checksum:
        raise WeightsError(f"{origin} is damaged: the checksum of a block differs. Fix: fetch it again.")
    if data[stop]:
        raise WeightsError(
            f"{origin} is compressed, which TensorFlow's saver does not do. Fix: restore and save it with TensorFlow."
        )
    (restarts,) = struct.unpack_from("<I", data, stop - 4)
    block, at, key = data[offset : stop - 4 - 4 * restarts], 0, b""
    while at < len(block):
        shared, at = _varint(block, at)
        unshared, at = _varint(block, at)
        length, at = _varint(block, at)
        if shared > len(key) or at + unshared + length > len(block):
            raise IndexError
        if shared + unshared > _MAX_KEY_BYTES or length > _MAX_ENTRY_BYTES:
            raise WeightsError(
                f"{origin} has a name or an entry of more than {_MAX_KEY_BYTES} bytes. Fix: give the authors' checkpoint."
            )
        key = key[:shared] + block[at : at + unshared]
        at += unshared + length
        yield key, block[at - length : at]


def _handle(data: bytes, at: int) -> tuple[int, int, int]:
    """Return a block's offset and size, and where the handle ends."""
    offset, at = _varint(data, at)
    size, at = _varint(data, at)
    return offset, size, at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise IndexError


def _masked_crc(data: bytes) -> int:
    """CRC-32C, rotated and shifted as LevelDB stores it."""
    import google_crc32c

    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + _CRC_DELTA) & 0xFFFFFFFF


# --- protocol buffers -----------------------------------------------------------------------------------


class _Messages:
    """Decode the messages of one file without their definitions, up to a number of fields."""

    def __init__(self, origin: str) -> None:
        self._origin, self._left = origin, _MAX_FIELDS

    def fields(self, message: object) -> dict[int, list[Any]]:
        """Return field number → values of a message, integers or bytes."""
        if not isinstance(message, bytes):
            raise WeightsError(f"{self._origin} is damaged: expected a nested message. Fix: fetch it again.")
        found: dict[int, list[Any]] = {}
        at = 0
        try:
            while at < len(message):
                self._left -= 1
                if self._left < 0:
                    raise WeightsError(
                        f"{self._origin} has more than {_MAX_FIELDS} fields. Fix: give the authors' checkpoint."
                    )
                tag, at = _varint(message, at)
                value: int | bytes
                if tag & 7 == 0:
                    value, at = _varint(message, at)
                    value &= (1 << 64) - 1
                else:
                    length, at = _varint(message, at) if tag & 7 == 2 else ({1: 8, 5: 4}[tag & 7], at)
                    value, at = message[at : at + length], at + length
                    if at > len(message) or tag < 8:
                        raise IndexError
                    if tag & 7 != 2:
                        value = int.from_bytes(value, "little")
                found.setdefault(tag >> 3, []).append(value)
        except (IndexError, KeyError) as error:
            raise WeightsError(f"{self._origin} is damaged. Fix: fetch it again.") from error
        return found

    def entry(self, value: bytes, origin: str) -> _Entry:
        """Return a BundleEntryProto."""
        fields = self.fields(value)
        numbers = [fields.get(number, [0])[-1] for number in (1, 3, 4, 5, 6)]
        if not all(isinstance(number, int) for number in numbers):
            raise WeightsError(f"{origin} is not a checkpoint entry. Fix: fetch it again.")
        dtype, shard, offset, size, checksum = numbers
        return _Entry(dtype, self.shape(fields.get(2, [])), shard, offset, size, checksum, 7 in fields)

    def shape(self, raw: list[Any]) -> tuple[int, ...]:
        """Return the sides of a TensorShapeProto."""
        sides = self.fields(raw[0]).get(2, []) if raw else []
        shape = tuple(self.fields(side).get(1, [0])[0] for side in sides[: _MAX_DIMENSIONS + 1])
        if len(shape) > _MAX_DIMENSIONS or not all(isinstance(side, int) for side in shape):
            raise WeightsError(
                f"{self._origin} is damaged: a shape has invalid dimensions. Fix: fetch it again."
            )
        return shape

    def constant(self, attributes: list[Any], shape: tuple[int, ...]) -> np.ndarray | None:
        """Return a Const node's ``value`` if it is float32 of ``shape``, stored in full."""
        for raw in attributes:
            attribute = self.fields(raw)
            if attribute.get(1) == [b"value"]:
                holder = self.fields(attribute.get(2, [b""])[0])
                tensor = self.fields(holder.get(8, [b""])[0])
                content = tensor.get(4, [b""])[0]
                is_float = (
                    tensor.get(1) == [1] and isinstance(content, bytes) and len(content) == 4 * _size(shape)
                )
                if is_float and self.shape(tensor.get(2, [])) == shape:
                    return np.frombuffer(content, "<f4").reshape(shape)
        return None


def _text(value: Any, origin: str) -> str:
    try:
        return str(value, "utf-8")
    except (TypeError, UnicodeDecodeError) as error:
        raise WeightsError(f"{origin} is damaged: a name is not text. Fix: fetch it again.") from error


def _beside(prefix: Path, suffix: str) -> Path:
    path = prefix.with_name(prefix.name + suffix)
    if not path.is_file():
        raise WeightsError(
            f"{path} is missing: a TensorFlow checkpoint is {prefix.name}.index with all {prefix.name}.data-… files. Fix: put these files into one folder."
        )
    return path


def _read_all(path: Path, limit: int) -> bytes:
    if path.stat().st_size > limit:
        raise WeightsError(f"{path} is larger than {limit >> 20} MiB. Fix: give the authors' file.")
    return path.read_bytes()

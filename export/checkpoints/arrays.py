"""Read untrusted NumPy files: headers first, then single arrays of bounded size."""

from __future__ import annotations

import ast
import contextlib
import math
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from fer_edge._utils.file_kinds import ZIP_ERRORS
from fer_edge.errors import WeightsError

#: The largest array that is read whole; those of the papers' networks stay below 110 MB.
MAX_ARRAY_BYTES = 1 << 30

_MAGIC = b"\x93NUMPY"
_MAX_HEADER_BYTES = 1024  # 128 as np.save writes it
_MAX_DIMENSIONS = 32
_MAX_MEMBERS = 2000  # of the papers' files about 100
_MAX_SIDE_PX = 1 << 40
_DESCR = re.compile(r"[<>|=]?[a-zA-Z]\d{0,4}")
#: Errors of Python's parser for text that is not a literal.
_NO_LITERAL = (ValueError, SyntaxError, TypeError, MemoryError, RecursionError, KeyError)


@dataclass(frozen=True)
class ArrayHeader:
    """Shape, type and order that an array's header declares."""

    shape: tuple[int, ...]
    dtype: np.dtype
    column_major: bool

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


def is_npz(path: Path) -> bool:
    """Tell an ``.npz`` from other ZIP files, such as those of PyTorch."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except ZIP_ERRORS:
        return False
    return any(name.endswith(".npy") for name in names) and not any(
        name.endswith("data.pkl") for name in names
    )


class NpzArrays(Mapping[str, np.ndarray]):
    """Lazily read arrays of an ``.npz`` file; pickled objects are refused.

    Attributes
    ----------
    headers : mapping of str to ArrayHeader
        By name, without reading any value.

    Raises
    ------
    WeightsError
        If the file, or an array in it, cannot be read, holds objects, or is larger than
        :data:`MAX_ARRAY_BYTES`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.headers: dict[str, ArrayHeader] = {}
        with _whole(path, "an .npz file"), zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
            if len(members) > _MAX_MEMBERS:
                raise WeightsError(
                    f"{path} has {len(members)} arrays, expected at most {_MAX_MEMBERS}. Fix: give the authors' file."
                )
            for member in members:
                if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise ValueError("its compression is not one that NumPy writes")
                with archive.open(member) as file:
                    name = member.filename.removesuffix(".npy")
                    self.headers[name] = _read_header(file, f"{member.filename} in {path}")

    def __getitem__(self, name: str) -> np.ndarray:
        """Read one whole array."""
        header = self.headers[name]
        if header.column_major:
            return self._values(name, header.size).reshape(header.shape[::-1]).T
        return self._values(name, header.size).reshape(header.shape)

    def first(self, name: str) -> np.ndarray:
        """Read the first row of one array."""
        header = self.headers[name]
        if header.column_major or not header.size:
            raise WeightsError(
                f"{name} in {self.path} is empty or in column-major order, expected rows. Fix: save it with np.savez."
            )
        return self._values(name, header.size // header.shape[0]).reshape(header.shape[1:])

    def __iter__(self) -> Iterator[str]:
        return iter(self.headers)

    def __len__(self) -> int:
        return len(self.headers)

    def _values(self, name: str, count: int) -> np.ndarray:
        with (
            _whole(self.path, "an .npz file"),
            zipfile.ZipFile(self.path) as archive,
            archive.open(f"{name}.npy") as file,
        ):
            origin = f"{name} in {self.path}"
            return _read_values(file, _read_header(file, origin), count, origin)


def read_npy(path: Path) -> np.ndarray:
    """Read an ``.npy`` file as :class:`NpzArrays` reads its members."""
    with _whole(path, "an .npy file"), path.open("rb") as file:
        header = _read_header(file, str(path))
        values = _read_values(file, header, header.size, str(path))
    return values.reshape(header.shape[::-1]).T if header.column_major else values.reshape(header.shape)


def _read_header(file: IO[bytes], origin: str) -> ArrayHeader:
    """Read a header of format 1.0 or 2.0, as one literal of limited length with exactly its three fields."""
    start = file.read(8)
    if len(start) < 8 or not start.startswith(_MAGIC):
        raise ValueError(f"{origin} does not begin with the magic string of an .npy array")
    version = (start[6], start[7])
    if version not in ((1, 0), (2, 0)):
        raise WeightsError(
            f"{origin} has array format {version}, expected 1.0 or 2.0. Fix: save it with np.savez."
        )
    field = file.read(2 if version == (1, 0) else 4)
    length = int.from_bytes(field, "little")
    if length > _MAX_HEADER_BYTES:
        raise WeightsError(
            f"{origin} has a header of {length} bytes, expected at most {_MAX_HEADER_BYTES}. Fix: save plain arrays with np.savez."
        )
    text = file.read(length)
    if len(text) < length:
        raise ValueError(f"{origin} ends in its header")
    try:
        fields = ast.literal_eval(text.decode("latin1").strip())
    except _NO_LITERAL as error:
        raise ValueError(
            f"{origin} has a header that is not a Python literal ({type(error).__name__})"
        ) from error
    if not isinstance(fields, dict) or set(fields) != {"descr", "fortran_order", "shape"}:
        raise ValueError(f"{origin} has a header whose fields are not descr, fortran_order and shape")
    descr, column_major, shape = fields["descr"], fields["fortran_order"], fields["shape"]
    if not isinstance(column_major, bool) or not isinstance(shape, tuple) or len(shape) > _MAX_DIMENSIONS:
        raise ValueError(f"{origin} has an invalid shape or order")
    if not all(type(side) is int and abs(side) < _MAX_SIDE_PX for side in shape):
        raise ValueError(f"{origin} has a shape with too large or non-integer sides")
    dtype = _simple_dtype(descr, origin)
    if dtype.hasobject:
        raise WeightsError(
            f"expected numbers in {origin}, found pickled objects, which could run code. Fix: save plain arrays with np.savez."
        )
    return ArrayHeader(shape, dtype, column_major)


def _simple_dtype(descr: object, origin: str) -> np.dtype:
    """Return a scalar type; refuse fields and sub-arrays."""
    if not isinstance(descr, str) or not _DESCR.fullmatch(descr):
        raise WeightsError(
            f"{origin} holds {repr(descr)[:60]}, expected real numbers. Fix: save plain arrays with np.savez."
        )
    try:
        return np.dtype(descr)
    except TypeError as error:
        raise ValueError(f"{origin} has the unknown type {descr!r}") from error


def _read_values(file: IO[bytes], header: ArrayHeader, count: int, origin: str) -> np.ndarray:
    """Read ``count`` values, at most as many as the header and the limit allow."""
    size = count * header.dtype.itemsize
    if header.dtype.kind not in "fiu":
        raise WeightsError(
            f"{origin} holds {header.dtype}, expected real numbers. Fix: give the authors' file."
        )
    if any(side < 0 for side in header.shape):
        raise WeightsError(
            f"{origin} declares {header.shape}, expected no negative side. Fix: fetch the file again."
        )
    if size > MAX_ARRAY_BYTES:
        raise WeightsError(
            f"{origin} declares {header.shape} {header.dtype}, expected at most {MAX_ARRAY_BYTES >> 20} MiB. Fix: give the authors' file."
        )
    data = file.read(size)
    if len(data) != size:
        raise WeightsError(
            f"{origin} is truncated after {len(data)} of {size} bytes. Fix: fetch the file again."
        )
    return np.frombuffer(data, header.dtype)


@contextlib.contextmanager
def _whole(path: Path, what: str) -> Iterator[None]:
    if not path.is_file():
        raise WeightsError(
            f"{path} is not an existing file, expected {what}. Fix: give the path of the file."
        )
    try:
        yield
    except ZIP_ERRORS as error:
        raise WeightsError(
            f"{path} cannot be read as {what} ({type(error).__name__}: {error}). Fix: fetch it again."
        ) from error

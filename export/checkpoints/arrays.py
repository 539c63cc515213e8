"""NumPy files of strangers: headers first, then only what is asked for and no larger than it should be."""

from __future__ import annotations

import contextlib
import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from fer_edge.errors import WeightsError

#: The largest array that is read whole; those of the papers' networks stay below 110 MB.
MAX_ARRAY_BYTES = 1 << 30

_DAMAGED = (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError, NotImplementedError, RuntimeError)


@dataclass(frozen=True)
class ArrayHeader:
    """What an array's header declares."""

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
    except _DAMAGED:
        return False
    return any(name.endswith(".npy") for name in names) and not any(
        name.endswith("data.pkl") for name in names
    )


class NpzArrays(Mapping[str, np.ndarray]):
    """The arrays of an ``.npz`` file, each read when it is asked for; pickled objects are refused.

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
            for member in archive.namelist():
                if member.endswith(".npy"):
                    with archive.open(member) as file:
                        self.headers[member.removesuffix(".npy")] = _read_header(file, f"{path}: {member}")

    def __getitem__(self, name: str) -> np.ndarray:
        """Read one array, all of it."""
        header = self.headers[name]
        if header.column_major:
            return self._values(name, header.size).reshape(header.shape[::-1]).T
        return self._values(name, header.size).reshape(header.shape)

    def first(self, name: str) -> np.ndarray:
        """Read the first row of one array, however many there are."""
        header = self.headers[name]
        if header.column_major or not header.size:
            raise WeightsError(
                f"{self.path}: {name} is empty or in column-major order, expected rows: save it with np.savez"
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
            origin = f"{self.path}: {name}"
            return _read_values(file, _read_header(file, origin), count, origin)


def read_npy(path: Path) -> np.ndarray:
    """Read an ``.npy`` file as :class:`NpzArrays` reads its members."""
    with _whole(path, "an .npy file"), path.open("rb") as file:
        header = _read_header(file, str(path))
        values = _read_values(file, header, header.size, str(path))
    return values.reshape(header.shape[::-1]).T if header.column_major else values.reshape(header.shape)


def _read_header(file: IO[bytes], origin: str) -> ArrayHeader:
    version = np.lib.format.read_magic(file)
    read: Any = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise WeightsError(f"{origin} has array format {version}, expected 1.0 or 2.0: save it with np.savez")
    shape, column_major, dtype = read(file)
    if dtype.hasobject:
        raise WeightsError(
            f"{origin} is refused: expected numbers, found pickled objects, which could run code: save plain arrays with np.savez"
        )
    return ArrayHeader(shape, dtype, column_major)


def _read_values(file: IO[bytes], header: ArrayHeader, count: int, origin: str) -> np.ndarray:
    """Read ``count`` values: never more than the header and the limit allow, whatever the ZIP unpacks to."""
    size = count * header.dtype.itemsize
    if header.dtype.kind not in "fiu":
        raise WeightsError(f"{origin} holds {header.dtype}, expected real numbers: give the authors' file")
    if size > MAX_ARRAY_BYTES:
        raise WeightsError(
            f"{origin} declares {header.shape} {header.dtype}, more than the {MAX_ARRAY_BYTES >> 20} MiB that are read: give the authors' file"
        )
    data = file.read(size)
    if len(data) != size:
        raise WeightsError(f"{origin} ends after {len(data)} of {size} bytes: fetch the file again")
    return np.frombuffer(data, header.dtype)


@contextlib.contextmanager
def _whole(path: Path, what: str) -> Iterator[None]:
    if not path.is_file():
        raise WeightsError(f"{path} does not exist or is no file, expected {what}: give another path")
    try:
        yield
    except _DAMAGED as error:
        raise WeightsError(
            f"{path} cannot be read as {what} ({type(error).__name__}: {error}): fetch it again"
        ) from error

"""Read files of ``torch.save`` without unpickling: no name is imported, and sizes are checked first.

Stricter than ``torch.load(weights_only=True)``, which calls the functions on its list, keeps that list for the
whole process, trusts the declared sizes, and refuses a whole file for one ``Namespace``.
"""

from __future__ import annotations

import contextlib
import io
import math
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fer_edge._utils.file_kinds import ZIP_ERRORS
from fer_edge._utils.inert_pickle import (
    Contents,
    LimitedReader,
    Made,
    Named,
    NotReadable,
    Stored,
    read_pickle,
)
from fer_edge.errors import WeightsError

#: More values than any network of the papers has (142,943,431): files that declare more are refused.
MAX_VALUES = 1 << 28
SAVE_AGAIN = "save the weights alone with torch.save(model.state_dict(), 'weights.pt')"
_MAX_PICKLE_BYTES = 64 << 20
_MAX_DIMENSIONS = 16
_DAMAGED: tuple[type[Exception], ...] = (NotReadable, *ZIP_ERRORS)
_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_STORAGES = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool, "ComplexFloatStorage": torch.complex64, "ComplexDoubleStorage": torch.complex128,
}  # fmt: skip
_WRAPPERS = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
_STRIDED = (
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
)

#: Harmless Python and NumPy types that scripts store beside the weights. They are not called either.
_DATA = (
    "argparse.Namespace", "builtins.bytearray", "builtins.complex", "builtins.dict", "builtins.float",
    "builtins.frozenset", "builtins.int", "builtins.list", "builtins.object", "builtins.range",
    "builtins.set", "builtins.slice", "builtins.str", "builtins.tuple", "builtins.type",
    "_codecs.encode", "collections.Counter", "collections.OrderedDict", "collections.defaultdict",
    "collections.deque", "copyreg._reconstructor", "datetime.date", "datetime.datetime", "datetime.time",
    "datetime.timedelta", "datetime.timezone", "decimal.Decimal", "fractions.Fraction", "functools.partial",
    "numpy.dtype", "numpy.ndarray", "random.Random", "string.Template", "types.SimpleNamespace", "uuid.UUID",
    "zoneinfo.ZoneInfo", "zoneinfo.ZoneInfo._unpickle",
    "torch.Generator", "torch.Size", "torch.Tensor", "torch.device", "torch.serialization._get_layout",
    "torch._tensor._rebuild_from_type_v2",
)  # fmt: skip
_DATA_OF = {
    "pathlib": ("Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath", "WindowsPath"),
    "numpy.core.multiarray": ("_reconstruct", "scalar"),
    "numpy.core.numeric": ("_frombuffer",),
    "numpy.random._pickle": ("__bit_generator_ctor", "__generator_ctor", "__randomstate_ctor"),
}


@dataclass(frozen=True, eq=False)
class TensorInFile:
    """A tensor of known sizes whose values are read on request."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    read: Callable[[], Tensor]

    def numel(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


class TorchFile:
    """Content of a file of ``torch.save``; tensors are read on request.

    Attributes
    ----------
    value : object
        The saved object: plain values, and :class:`~fer_edge._utils.inert_pickle.Made` for every object.

    Raises
    ------
    WeightsError
        If it is damaged, names code, or declares more than it holds.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._readable("expected a whole PyTorch checkpoint"):
            self._reader: _Archive | _Legacy = _Archive(path) if zipfile.is_zipfile(path) else _Legacy(path)
        self.value = self._reader.contents.value
        _refuse_code(self._reader.contents, path)
        self._storages: dict[str, bytearray] = {}

    def __enter__(self) -> TorchFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

    def tensor(self, value: object) -> TensorInFile | None:
        """Return a dense tensor of this file, or ``None`` for any other object."""
        for _ in range(8):  # a parameter wraps its values
            if not isinstance(value, Made):
                return None
            if value.of in _WRAPPERS and value.args:
                value = value.args[0]
            elif value.of == "torch._tensor._rebuild_from_type_v2" and len(value.args) == 4:
                function, _, args, _ = value.args
                value = Made(function.path, args) if isinstance(function, Named) else None
            else:
                break
        if not isinstance(value, Made) or value.of not in _STRIDED:
            return None
        with self._readable("its tensors do not fit its storages"):
            return self._strided(value)

    def _strided(self, made: Made) -> TensorInFile:
        storage, offset, shape, strides = made.args[:4]
        if not isinstance(storage, Stored):
            raise NotReadable("a tensor has no storage")
        key, dtype, count = _storage(storage)
        if made.of.endswith("_v3"):
            dtype = _dtype(made.args[6])
        if any(made.args[7 if made.of.endswith("_v3") else 6 :]):
            raise NotReadable("a tensor is a negative or conjugate view")
        numbers = (offset, *shape, *strides)
        if len(shape) != len(strides) or len(shape) > _MAX_DIMENSIONS or not all(map(_is_count, numbers)):
            raise NotReadable("a tensor has invalid sizes")
        last = offset + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True))
        held = self._reader.bytes_of(key)
        if count is not None and count * dtype.itemsize != held and not made.of.endswith("_v3"):
            raise NotReadable(f"storage {key} declares {count} values of {dtype} but has {held} bytes")
        if math.prod(shape) and (last + 1) * dtype.itemsize > held:
            raise NotReadable(f"a tensor {tuple(shape)} reaches beyond its storage {key}")

        def read() -> Tensor:
            with self._readable("its values are damaged"):
                if not math.prod(shape):
                    return torch.empty(shape, dtype=dtype)
                if key not in self._storages:  # entries may share one
                    self._storages[key] = self._reader.read(key)
                data = self._storages[key]
                values = torch.frombuffer(data, dtype=dtype, count=len(data) // dtype.itemsize)
                return values.as_strided(shape, strides, offset)

        return TensorInFile(dtype, tuple(shape), read)

    @contextlib.contextmanager
    def _readable(self, trouble: str) -> Iterator[None]:
        try:
            yield
        except _DAMAGED as error:
            reason = str(error).replace("\n", " ")[:300] or type(error).__name__
            raise WeightsError(
                f"{self.path} cannot be read: {trouble} ({reason}; {self.path.stat().st_size} bytes). Fix: fetch it again, or {SAVE_AGAIN}"
            ) from error


class _Archive:
    """A ZIP file of PyTorch 1.6 and later."""

    def __init__(self, path: Path) -> None:
        self._archive = archive = zipfile.ZipFile(path)
        self._members = members = {member.filename: member for member in archive.infolist()}
        unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > path.stat().st_size:
            raise WeightsError(
                f"{path} unpacks to {unpacked} bytes, expected at most its size, since PyTorch does not compress. Fix: get the weights from a source you trust."
            )
        if any(member.compress_type != zipfile.ZIP_STORED for member in members.values()):
            raise NotReadable("it is compressed, which PyTorch does not do")
        pickles = [name for name in members if name.split("/")[1:] == ["data.pkl"]]
        if len(pickles) != 1 or members[pickles[0]].file_size > _MAX_PICKLE_BYTES:
            raise NotReadable(f"expected one data.pkl of up to {_MAX_PICKLE_BYTES >> 20} MiB")
        self._root = pickles[0].removesuffix("data.pkl")
        order = f"{self._root}byteorder"
        if order in members and archive.read(order) != b"little":
            raise NotReadable("it is big-endian")
        data = archive.read(pickles[0])
        self.contents = read_pickle(LimitedReader(io.BytesIO(data), len(data)))

    def close(self) -> None:
        """Close the file."""
        self._archive.close()

    def bytes_of(self, key: str) -> int:
        """Return the size of a storage in the file."""
        name = f"{self._root}data/{key}"
        if name not in self._members:
            raise NotReadable(f"storage {key[:40]} is missing")
        return self._members[name].file_size

    def read(self, key: str) -> bytearray:
        """Read a storage; its checksum is verified."""
        name = f"{self._root}data/{key}"
        with self._archive.open(name) as file:
            return bytearray(file.read())


class _Legacy:
    """A file of PyTorch before 1.6: five pickles, then the storages."""

    def __init__(self, path: Path) -> None:
        self._path = path
        size = path.stat().st_size
        with path.open("rb") as file:
            reader = LimitedReader(file, size)
            magic, protocol, system = (read_pickle(reader, 1000).value for _ in range(3))
            if magic != _MAGIC or protocol != _LEGACY_PROTOCOL or not isinstance(system, dict):
                raise NotReadable("it is a pickle that torch.save did not write")
            if system.get("little_endian") is not True:
                raise NotReadable("it is big-endian")
            self.contents = read_pickle(reader)
            keys = read_pickle(reader).value
            position = reader.tell()
            if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
                raise NotReadable("the list of its storages is missing")
            types = {key: dtype for key, dtype, _ in map(_storage, self.contents.storages)}
            self._places: dict[str, tuple[int, int]] = {}
            for key in keys:
                file.seek(position)
                count = int.from_bytes(file.read(8), "little")
                dtype = types.get(key)
                if dtype is None or key in self._places:
                    raise NotReadable("a storage is unused or repeated")
                self._places[key] = (position + 8, count * dtype.itemsize)
                position += 8 + count * dtype.itemsize
                if position > size:
                    raise NotReadable(f"it is truncated, at least {position - size} bytes are missing")

    def close(self) -> None:
        """Do nothing: no file is open."""

    def bytes_of(self, key: str) -> int:
        """Return the size of a storage in the file."""
        if key not in self._places:
            raise NotReadable(f"storage {key[:40]} is missing")
        return self._places[key][1]

    def read(self, key: str) -> bytearray:
        """Read a storage."""
        offset, count = self._places[key]
        with self._path.open("rb") as file:
            file.seek(offset)
            return bytearray(file.read(count))


def _storage(stored: Stored) -> tuple[str, torch.dtype, int | None]:
    """Return key, type and number of values of a storage; of untyped ones, the number of bytes."""
    kind, key, _, count = stored.identifier[1:5]
    if stored.identifier[0] not in ("storage", b"storage") or not isinstance(kind, Named):
        raise NotReadable("a storage has no type")
    if any(part is not None for part in stored.identifier[5:]):
        raise NotReadable("a storage is a view of another")
    if isinstance(key, int):
        key = str(key)
    if not isinstance(key, str) or not _is_count(count):
        raise NotReadable("a storage has no key or size")
    name = kind.path.rsplit(".", 1)[-1]
    if name == "UntypedStorage":
        return key, torch.uint8, count
    if name not in _STORAGES:
        raise NotReadable(f"a storage is of the unknown type {kind.path[:80]}")
    return key, _STORAGES[name], count


def _dtype(value: object) -> torch.dtype:
    found = getattr(torch, value.path.removeprefix("torch."), None) if isinstance(value, Named) else None
    if not isinstance(found, torch.dtype):
        raise NotReadable("a tensor has no type")
    return found


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 48


def _refuse_code(contents: Contents, path: Path) -> None:
    """Refuse a file with objects other than data. None of them has run, but such a file is suspicious."""
    for name in sorted(contents.named):
        if _is_data(name):
            continue
        library = name.split(".")[0] in sys.stdlib_module_names
        called = name in contents.called and not name.rsplit(".", 1)[-1][0].isupper()
        if library or called:
            raise WeightsError(
                f"expected only tensors and plain values in {path}, found the object {_shown(name)}, which could run code. Fix: get the weights from a source you trust, or, if the file is yours, {SAVE_AGAIN}"
            )
    for name in sorted(contents.named):
        if name.startswith(
            ("torch.distributed.tensor.", "torch.distributed._tensor", "torch.distributed._shard")
        ):
            raise WeightsError(
                f"{path} holds only a shard of the weights ({_shown(name)}). Fix: gather them with get_model_state_dict(model, options=StateDictOptions(full_state_dict=True)) of torch.distributed.checkpoint.state_dict, and save that with torch.save."
            )
    value = contents.value
    if isinstance(value, Made) and not _is_data(value.of) and not value.items:
        raise WeightsError(
            f"expected only tensors and plain values in {path}, found a pickled {_shown(value.of)}, such as a whole model. Fix: load it in its own program and {SAVE_AGAIN}"
        )


def _is_data(name: str) -> bool:
    module, _, last = name.rpartition(".")
    of_module = _DATA_OF.get(module.replace("numpy._core", "numpy.core").removesuffix("._local"), ())
    numbers = module in ("torch", "torch.cuda", "torch.storage") and (
        last in _STORAGES or last == "UntypedStorage" or isinstance(getattr(torch, last, None), torch.dtype)
    )
    return numbers or name in _DATA or name.startswith("torch._utils._rebuild_") or last in of_module


def _shown(name: str) -> str:
    return name[:100] if name.isprintable() else ascii(name)[:100]

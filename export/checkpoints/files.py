"""An author's file of any format, as entries and records; no code in it runs."""

from __future__ import annotations

import math
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fer_edge._files import combined_sha256, sha256_of
from fer_edge.errors import WeightsError
from fer_edge.export.checkpoints.arrays import NpzArrays, is_npz
from fer_edge.export.checkpoints.tensorflow_bundle import TensorFlowCheckpoint, prefix_of

#: More values than any network of the papers has (142,943,431): what declares more is not read.
MAX_VALUES = 1 << 28

#: Records that authors leave beside the weights; they are repeated as the file's claims.
_CLAIMS = (
    "best_val_acc", "best_val_loss", "best_train_acc", "best_train_loss", "test_acc", "best_acc1", "prec", "epoch",
)  # fmt: skip
#: What pickles of NumPy numbers, which scripts leave in their records, are made of: none of it runs code.
_SCALAR = np.float64(0).__reduce__()[0]
_NUMPY_NUMBERS: tuple[Any, ...] = (
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *{type(np.dtype(name)) for name in ("f2", "f4", "f8", "i4", "i8")},
)


@dataclass(frozen=True)
class AuthorFile:
    """What a file holds.

    Attributes
    ----------
    path : Path
        As the user gave it.
    container : str
        Kind of file and where the entries lie in it, for people.
    entries : mapping
        Name → tensor (PyTorch) or array (NumPy, TensorFlow; read when asked for).
    records : mapping
        What lies beside the weights.
    parts : tuple of Path
        The files that make it up.
    """

    path: Path
    container: str
    entries: Mapping[str, Any]
    records: Mapping[str, Any] = field(default_factory=dict)
    parts: tuple[Path, ...] = ()

    def claims(self) -> dict[str, float]:
        """Return the scores that the file claims, which nobody here has measured."""
        numbers = {name: _number(self.records.get(name)) for name in _CLAIMS}
        return {name: number for name, number in numbers.items() if number is not None}

    def sha256(self) -> str:
        """Return the sha256 of the file; of several, that of their ``sha256sum`` list."""
        return combined_sha256({part.name: sha256_of(part) for part in self.parts})


def read_author_file(path: Path) -> AuthorFile:
    """Read a PyTorch checkpoint, an ``.npz`` file, or a TensorFlow checkpoint (its prefix or any of its files).

    Raises
    ------
    WeightsError
        If it is missing, damaged, holds code or declares more than any network has.
    UsageError
        If it needs an extra that is not installed.
    """
    if prefix := prefix_of(path):
        checkpoint = TensorFlowCheckpoint(prefix)
        return AuthorFile(path, "TensorFlow checkpoint", checkpoint, parts=checkpoint.files)
    if not path.is_file():
        raise WeightsError(f"checkpoint {path} does not exist or is no file: give --weights another path")
    if is_npz(path):
        return AuthorFile(path, "NumPy .npz", NpzArrays(path), parts=(path,))
    content = _read_torch(path)
    key = next((k for k in ("net", "state_dict") if k in content), None)
    entries = content if key is None else content[key]
    container = "PyTorch, bare state dict" if key is None else f"PyTorch, {key!r}"
    records = {} if key is None else {name: value for name, value in content.items() if name != key}
    return AuthorFile(path, container, _tensors(entries, key, str(path)), records, (path,))


def _read_torch(path: Path) -> Mapping[str, Any]:
    """Read the file's tensors and plain values."""
    size = path.stat().st_size
    if size == 0:
        raise WeightsError(f"{path} is empty, expected a PyTorch checkpoint: fetch it again")
    try:
        _refuse_compression(path)
        with warnings.catch_warnings(), torch.serialization.safe_globals([*_NUMPY_NUMBERS]):
            warnings.simplefilter("ignore")  # about pickle versions: what cannot be read raises
            content = torch.load(path, map_location="cpu", weights_only=True)
    except WeightsError:
        raise
    except Exception as error:  # damaged bytes can raise anything in the unpickler
        if blocked := re.search(r"GLOBAL (\S+)", str(error)):
            raise WeightsError(
                f"{path} is refused: expected tensors and plain values only, found the object {blocked[1]}, which could run code: get the weights from a source you trust"
            ) from error
        raise WeightsError(
            f"{path} cannot be read ({type(error).__name__}, {size} bytes): expected a whole PyTorch checkpoint: fetch it again"
        ) from error
    if not isinstance(content, dict) or not content:
        raise WeightsError(
            f"{path} holds a {type(content).__name__} of no use, expected a dict with 'net', 'state_dict' or the entries: give a checkpoint"
        )
    return content


def _refuse_compression(path: Path) -> None:
    """PyTorch stores without compression; a file that unpacks to more than itself was made to fill the memory."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > path.stat().st_size:
            raise WeightsError(
                f"{path} unpacks to {unpacked} bytes, expected no more than its size: PyTorch does not compress: get the weights from a source you trust"
            )


def _tensors(entries: object, key: str | None, origin: str) -> dict[str, Tensor]:
    """Check the entries and drop ``module.`` of data-parallel training."""
    if not isinstance(entries, Mapping):
        raise WeightsError(
            f"{origin}: {key!r} is a {type(entries).__name__}, expected a dict of tensors: give a checkpoint"
        )
    for name, value in entries.items():
        if not isinstance(name, str) or not _is_plain(value):
            raise WeightsError(
                f"{origin}: entry {name!r} is not a dense tensor of numbers ({type(value).__name__}): give a checkpoint of weights"
            )
    total = sum(value.numel() for value in entries.values())
    if total > MAX_VALUES:
        raise WeightsError(
            f"{origin} declares {total} values, expected at most {MAX_VALUES}: give the weights of one network"
        )
    return {name.removeprefix("module."): value for name, value in entries.items()}


def _is_plain(value: object) -> bool:
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and (value.is_floating_point() or value.dtype == torch.int64)
    )


def _number(value: object) -> float | None:
    """Return a finite number, also from a tensor or NumPy value of one element."""
    if isinstance(value, (Tensor, np.generic)):
        value = value.item() if math.prod(value.shape) == 1 else None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return value

"""The content of an author's file: entries, records, and the changes made while reading them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from fer_edge._utils.files import combined_sha256, sha256_of
from fer_edge._utils.inert_pickle import Made

#: Records beside the weights that are reported as the file's claims.
_CLAIMS = (
    "best_val_acc", "best_val_loss", "best_train_acc", "best_train_loss", "test_acc", "best_acc1", "prec", "epoch",
)  # fmt: skip
_NUMBERS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")


@dataclass(frozen=True)
class AuthorFile:
    """Entries, records and provenance of one file.

    Attributes
    ----------
    path : Path
        Path given by the user.
    container : str
        Kind of file and where the entries lie in it, for people.
    entries : mapping
        Name → tensor (PyTorch) or array (NumPy, TensorFlow; read when asked for).
    records : mapping
        Other values beside the weights.
    parts : tuple of Path
        Files of the checkpoint.
    changes : mapping
        For the provenance: ``dropped`` entries of other tools, ``converted`` types.
    licence : str or None
        Replaces the licence of the layout, which applies to the published files.
    """

    path: Path
    container: str
    entries: Mapping[str, Any]
    records: Mapping[str, Any] = field(default_factory=dict)
    parts: tuple[Path, ...] = ()
    changes: Mapping[str, Any] = field(default_factory=dict)
    licence: str | None = None

    def claims(self) -> dict[str, float]:
        """Return the scores recorded in the file, which FER-Edge has not measured."""
        numbers = {name: _number(self.records.get(name)) for name in _CLAIMS}
        return {name: number for name, number in numbers.items() if number is not None}

    def sha256(self) -> str:
        """Return the sha256 of the file; of several, that of their ``sha256sum`` list."""
        return combined_sha256({part.name: sha256_of(part) for part in self.parts})


def _number(value: object) -> float | None:
    """Return a finite number, also from a tensor or NumPy value of one element."""
    if isinstance(value, Tensor):
        value = value.item() if value.numel() == 1 else None
    if isinstance(value, Made):
        value = _numpy_number(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:  # an integer beyond the range of float
        return None


def _numpy_number(made: Made) -> float | None:
    """Return the value of a pickled NumPy number: its type, byte order and bytes."""
    if not made.of.endswith(".multiarray.scalar") or len(made.args) != 2:
        return None
    kind, data = made.args
    if isinstance(data, Made) and data.of == "_codecs.encode" and data.args[1:] == ("latin1",):
        text = data.args[0]
        data = text.encode("latin1", "replace") if isinstance(text, str) and len(text) <= 16 else None
    if not isinstance(kind, Made) or not kind.args or kind.args[0] not in _NUMBERS:
        return None
    order = kind.state[1] if isinstance(kind.state, tuple) and len(kind.state) > 1 else "<"
    dtype = np.dtype(kind.args[0]).newbyteorder(">" if order == ">" else "<")
    if not isinstance(data, bytes) or len(data) != dtype.itemsize:
        return None
    found: float = np.frombuffer(data, dtype)[0].item()
    return found

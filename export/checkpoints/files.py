"""An author's file of any format, as entries and records; no code in it runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from fer_edge._utils.file_kinds import is_safetensors, refuse_foreign, tensorflow_prefix
from fer_edge._utils.files import text_path
from fer_edge._utils.inert_pickle import Made
from fer_edge._utils.safetensors_header import read_safetensors_header
from fer_edge.errors import WeightsError
from fer_edge.export.checkpoints.arrays import NpzArrays, is_npz
from fer_edge.export.checkpoints.author_file import AuthorFile
from fer_edge.export.checkpoints.entries import ChosenEntries, choose_entries
from fer_edge.export.checkpoints.layouts import recognise
from fer_edge.export.checkpoints.tensorflow_bundle import TensorFlowCheckpoint
from fer_edge.export.checkpoints.torch_file import MAX_VALUES, TensorInFile, TorchFile


def read_author_file(path: Path) -> AuthorFile:
    """Read a PyTorch checkpoint, plain safetensors, an ``.npz`` file, or a TensorFlow checkpoint (prefix or any file).

    The format is recognised by content, that of TensorFlow's several files by name.

    Raises
    ------
    WeightsError
        If it is missing, damaged or of another format, holds code, or declares more values than any network has.
    MissingExtraError
        If it needs an extra that is not installed.
    """
    refuse_foreign(path)
    if prefix := tensorflow_prefix(path):
        checkpoint = TensorFlowCheckpoint(prefix)
        return AuthorFile(path, "TensorFlow checkpoint", checkpoint, parts=checkpoint.files)
    if is_safetensors(path):
        return _read_safetensors(path)
    if is_npz(path):
        return AuthorFile(path, "NumPy .npz", NpzArrays(path), parts=(path,))
    with TorchFile(path) as file:
        found = choose_entries(file.value, lambda value: file.tensor(value) is not None, recognise, str(path))
        entries = {name: file.tensor(value) or value for name, value in found.entries.items()}
        _check_entries(entries, str(path))
        records = {
            name: tensor.read()
            if (tensor := file.tensor(value)) is not None and tensor.numel() == 1
            else value
            for name, value in found.records.items()
        }
        tensors = {name: entry.read() for name, entry in entries.items()}
    return _author_file(path, "PyTorch", tensors, found, records)


def _read_safetensors(path: Path) -> AuthorFile:
    """Read a safetensors file without our header as an author's file of unstated licence."""
    try:
        header = read_safetensors_header(path)
        total = sum(torch.Size(shape).numel() for _, shape in header.tensors.values())
        if total > MAX_VALUES:
            raise ValueError(f"it declares {total} values, expected at most {MAX_VALUES}")
        with text_path(path) as name:
            entries: dict[str, Tensor] = safetensors.torch.load_file(name)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, OSError, RuntimeError) as error:
        raise WeightsError(
            f"{path} is not a complete safetensors file ({error}). Fix: fetch it again, or train again."
        ) from error
    for name, kept in header.metadata.items():  # safetensors.save_model writes one of two equal entries
        if name not in entries and kept in entries:
            entries[name] = entries[kept]
    found = choose_entries(entries, lambda value: isinstance(value, Tensor), recognise, str(path))
    _check_entries(found.entries, str(path))
    return _author_file(path, "safetensors", dict(found.entries), found, {}, licence="not stated")


def _author_file(
    path: Path,
    kind: str,
    entries: Mapping[str, Tensor],
    found: ChosenEntries,
    records: Mapping[str, Any],
    licence: str | None = None,
) -> AuthorFile:
    where = " / ".join(repr(key[:100]) for key in found.where)
    bare = "bare state dict" if kind == "PyTorch" else ""
    others = f"not {', '.join(found.others[:3])}" if found.others else ""
    container = ", ".join(part for part in (kind, where or bare, others) if part)
    changes: dict[str, Any] = {}
    if found.prefixes:
        changes["prefixes"] = list(found.prefixes)
    if found.dropped:
        changes["dropped"] = dict(found.dropped)
    other = Counter(
        str(value.dtype).removeprefix("torch.")
        for value in entries.values()
        if value.is_floating_point() and value.dtype != torch.float32
    )
    if other:
        changes["converted"] = {f"{dtype} to float32": count for dtype, count in sorted(other.items())}
    return AuthorFile(path, container, entries, records, (path,), changes, licence)


def _check_entries(entries: Mapping[str, Any], origin: str) -> None:
    """Refuse entries that are not dense numeric tensors, before any value is read."""
    for name, value in entries.items():
        if not isinstance(name, str) or not _is_plain(value):
            shown = name if isinstance(name, (str, int)) else type(name).__name__
            kind = value.of if isinstance(value, Made) else getattr(value, "dtype", type(value).__name__)
            raise WeightsError(
                f"entry {shown!r:.100} in {origin} is not a dense tensor of numbers ({kind!s:.100}). Fix: save the weights alone with torch.save(model.state_dict(), 'weights.pt')"
            )
    total = sum(value.numel() for value in entries.values())
    if total > MAX_VALUES:
        raise WeightsError(
            f"{origin} declares {total} values, expected at most {MAX_VALUES}. Fix: give the weights of one network."
        )


def _is_plain(value: object) -> bool:
    return isinstance(value, (Tensor, TensorInFile)) and (
        value.dtype.is_floating_point or value.dtype == torch.int64
    )

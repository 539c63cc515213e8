"""FER2013 (Goodfellow et al., 2013) and the FER+ votes (Barsoum et al., 2016)."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np

from fer_edge._utils.listing import list_folders
from fer_edge.datasets.dataset import FaceDataset
from fer_edge.datasets.loading import Request, checked, unknown_split
from fer_edge.datasets.rows import BadRows
from fer_edge.datasets.tables import (
    Header,
    Table,
    accepted_tables,
    find_tables,
    only_one,
    read_header,
    table_rows,
    tables_of,
)
from fer_edge.errors import DataError, closest
from fer_edge.labels import FER2013, FERPLUS

FERPLUS_FILE = "fer2013new.csv"
HEADER = ("emotion", "pixels", "Usage")
_FERPLUS_HEADER = ("Usage", "Image name", *FERPLUS, "unknown", "NF")
_OTHER_LABELS = frozenset({"label", "labels", "class", "expression", "target"})
_CLASSES = frozenset(map(str, range(len(FER2013))))
_VOTE = re.compile(r"[0-9]{1,4}")
_SIDE = 48
_BAD = -1


def find(path: Path) -> Path | None:
    """Return the CSV file or archive with a column of pixels: ``path``, in that folder, or one folder below.

    Raises
    ------
    DataError
        If several match.
    """
    if path.is_file():
        return path if _table(path) is not None else None
    if not path.is_dir():
        return None
    tables = find_tables(path, _has_pixels)
    if not tables:
        tables = [t for folder in list_folders(path) for t in find_tables(folder, _has_pixels)]
    table = only_one(tables, path)
    return None if table is None else table.path


def training_split(found: Path) -> str | None:
    """Return the split to train on; Kaggle's ``train.csv`` has no splits."""
    table = _table(found)
    return "Training" if table is not None and "usage" in read_header(table).names else None


def load(path: Path, request: Request) -> FaceDataset:
    """Load ``[N, 48, 48]`` gray faces with FER2013 classes, FER+ votes, or no labels."""
    split, labels = request.split, request.labels
    if labels not in ("auto", "ferplus", "fer2013"):
        raise DataError(
            f"unknown labels {labels!r}. Fix: choose auto, ferplus or fer2013{closest(labels, ['ferplus', 'fer2013'])}"
        )
    table = _table(path) or Table(path)
    columns = _columns(table, split)
    votes = _votes(table)
    if labels == "ferplus" and votes is None:
        raise DataError(
            f"{FERPLUS_FILE} is missing. Fix: put the FER+ votes beside {path}, or use labels fer2013"
        )
    if labels == "fer2013" or (labels == "auto" and "emotion" not in columns):
        votes = None

    images: list[np.ndarray] = []
    kept: list[int] = []
    classes: list[int] = []
    usages: list[str | None] = []
    for row in table_rows(table, columns):
        classes.append(_BAD)
        usages.append(None)
        with request.bad_rows.row(row.where):
            values = dict(zip(columns, row.columns(len(columns)), strict=True))
            usage = values.get("Usage", "").strip()
            usages[-1] = usage
            label = values.get("emotion", "0").strip()
            if label not in _CLASSES:
                raise DataError(f"expected a class from 0 to {len(FER2013) - 1}, found {label[:20]!r}")
            if split is None or usage == split:
                images.append(_pixels(values["pixels"]))
                kept.append(len(usages) - 1)
            classes[-1] = int(label)
    if not usages:
        raise DataError(f"{table} has no rows. Fix: download it again")
    choices = sorted({usage for usage in usages if usage is not None})
    if split is not None and split not in choices:
        raise unknown_split(path, split, choices)

    left_out = {}
    distribution: np.ndarray | None = None
    if votes is not None:
        distribution, usable = _ferplus_labels(votes, usages, "Usage" in columns, request.bad_rows)
        unusable = int((~usable[kept]).sum())
        if unusable:
            left_out["no expression of FER+ has most votes"] = unusable
        images = [image for image, i in zip(images, kept, strict=True) if usable[i]]
        kept = [i for i in kept if usable[i]]
    elif "emotion" in columns:
        distribution = np.eye(len(FER2013), dtype=np.float32)[classes]
    class_names = () if distribution is None else FERPLUS if votes is not None else FER2013
    faces = FaceDataset(
        name=("FER2013" if votes is None else "FER+") + (f" {split}" if split else ""),
        images=np.stack(images) if images else np.zeros((0, _SIDE, _SIDE), np.uint8),
        labels=None if distribution is None else distribution[kept],
        class_names=class_names,
        are_crops=True,
        left_out=left_out,
    )
    return checked(faces, request.bad_rows, path if votes is None else votes.path)


def _has_pixels(header: Header) -> bool:
    return "pixels" in header.names


def _table(path: Path) -> Table | None:
    return only_one(accepted_tables(path, _has_pixels), path)


def _columns(table: Table, split: str | None) -> list[str]:
    """Return the columns of HEADER in the table; without emotion there are no labels, without Usage no splits."""
    header = read_header(table)
    columns = [name for name in HEADER if header.find(name.casefold()) is not None]
    labels = [name for name in header.names if name in _OTHER_LABELS]
    if "pixels" not in columns or ("emotion" not in columns and labels):
        # A column of another name may number the classes differently.
        raise DataError(
            f"{table}, line 1: expected the columns {','.join(HEADER)}, found {header.text()!r}. "
            "Fix: rename the columns (Usage and emotion are optional)"
        )
    if split is not None and "Usage" not in columns:
        raise DataError(f"{table} has no column Usage, and so no splits. Fix: leave --split out")
    return columns


def _votes(table: Table) -> Table | None:
    """Return the table of FER+ votes in the same folder or archive."""
    if table.member:
        return only_one([t for t in tables_of(table.path) if t.name == FERPLUS_FILE], table.path)
    path = table.path.with_name(FERPLUS_FILE)
    return Table(path) if path.is_file() else None


def _pixels(text: str) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # NumPy warns about text that is not a number, and stops there
            values = np.fromstring(text, np.int64, sep=" ")
    except (ValueError, DeprecationWarning):
        raise DataError("the pixels are not whole numbers") from None
    if values.size != _SIDE * _SIDE or values.min() < 0 or values.max() > 255:
        raise DataError(f"expected {_SIDE * _SIDE} pixels from 0 to 255, found {values.size} values")
    return values.astype(np.uint8).reshape(_SIDE, _SIDE)


def _ferplus_labels(
    table: Table, usages: list[str | None], has_usage: bool, bad_rows: BadRows
) -> tuple[np.ndarray, np.ndarray]:
    """Return ``[N, 8]`` vote distributions and ``[N]`` bool, ``True`` for usable rows.

    The rule of Barsoum et al. (2016): single votes are dropped as noise; an image whose most frequent
    vote is "unknown" or "no face" is left out; the rest is normalised over the eight classes.
    A bad row keeps its index, since the two files correspond row by row.
    """
    advice = "Fix: give two files that correspond row by row, or leave the votes out with labels fer2013"
    rows: list[list[int]] = []
    for row in table_rows(table, _FERPLUS_HEADER):
        rows.append([0] * (len(FERPLUS) + 2))
        usage = usages[len(rows) - 1] if len(rows) <= len(usages) else None
        found = row.value(0)
        # Never skipped: from here on, every vote would be assigned to another image.
        if has_usage and None not in (usage, found) and found != usage:
            raise DataError(
                f"{row.where}: usage {str(found)[:20]!r} does not match fer2013.csv, which has {usage!r}. {advice}"
            )
        with bad_rows.row(row.where):
            votes = [field.strip() for field in row.columns(len(_FERPLUS_HEADER))[2:]]
            if not all(map(_VOTE.fullmatch, votes)):
                raise DataError("the votes are not whole numbers")
            rows[-1] = [int(v) for v in votes]
    if len(rows) != len(usages):
        raise DataError(f"{table} has {len(rows)} rows, fer2013.csv has {len(usages)}. {advice}")
    counts = np.array(rows, np.float32).reshape(-1, len(FERPLUS) + 2)
    counts[counts <= 1] = 0
    usable = (counts.argmax(axis=1) < len(FERPLUS)) & (counts.max(axis=1) > 0)
    faces = counts[:, : len(FERPLUS)] * usable[:, None]
    total = faces.sum(axis=1, keepdims=True)
    return np.divide(faces, total, out=np.zeros_like(faces), where=total > 0), usable

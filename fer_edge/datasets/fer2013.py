"""FER2013 (Goodfellow et al., 2013) and the votes of FER+ (Barsoum et al., 2016)."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np

from fer_edge.datasets.dataset import FaceDataset
from fer_edge.datasets.request import Request, checked, unknown_split
from fer_edge.datasets.rows import BadRows, csv_rows
from fer_edge.errors import DataError, closest
from fer_edge.labels import FER2013, FERPLUS

FERPLUS_FILE = "fer2013new.csv"
HEADER = ("emotion", "pixels", "Usage")
_FERPLUS_HEADER = ("Usage", "Image name", *FERPLUS, "unknown", "NF")
_CLASSES = frozenset(map(str, range(len(FER2013))))
_VOTE = re.compile(r"[0-9]{1,4}")
_SIDE = 48
_BAD = -1


def find(path: Path) -> Path | None:
    """Return ``fer2013.csv`` or ``fer2013.csv.gz`` of a folder, or the CSV file itself."""
    if path.is_dir():
        return next((p for n in ("fer2013.csv", "fer2013.csv.gz") if (p := path / n).is_file()), None)
    return path if path.name.endswith((".csv", ".csv.gz")) else None


def load(path: Path, request: Request) -> FaceDataset:
    """Read ``[N, 48, 48]`` gray faces with FER2013's classes or the votes of FER+."""
    split, labels = request.split, request.labels
    votes_path = path.with_name(FERPLUS_FILE)
    if labels not in ("auto", "ferplus", "fer2013"):
        raise DataError(
            f"unknown labels {labels!r}: choose auto, ferplus or fer2013{closest(labels, ['ferplus', 'fer2013'])}"
        )
    if labels == "ferplus" and not votes_path.is_file():
        raise DataError(
            f"{votes_path} is missing: put the FER+ votes beside {path.name}, or use labels fer2013"
        )
    use_votes = labels != "fer2013" and votes_path.is_file()

    images: list[np.ndarray] = []
    kept: list[int] = []
    classes: list[int] = []
    usages: list[str | None] = []
    for row in csv_rows(path, HEADER):
        classes.append(_BAD)
        usages.append(None)
        with request.bad_rows.row(row.where):
            label, pixels, usage = row.columns(len(HEADER))
            usages[-1] = usage
            if label not in _CLASSES:
                raise DataError(f"expected a class from 0 to {len(FER2013) - 1}, found {label[:20]!r}")
            if split is None or usage == split:
                images.append(_pixels(pixels))
                kept.append(len(usages) - 1)
            classes[-1] = int(label)
    if not usages:
        raise DataError(f"{path} has no rows: fetch it again")
    choices = sorted({usage for usage in usages if usage is not None})
    if split is not None and split not in choices:
        raise unknown_split(path, split, choices)

    left_out = {}
    if use_votes:
        distribution, usable = _ferplus_labels(votes_path, usages, request.bad_rows)
        unusable = int((~usable[kept]).sum())
        if unusable:
            left_out["no expression of FER+ has most votes"] = unusable
        images = [image for image, i in zip(images, kept, strict=True) if usable[i]]
        kept = [i for i in kept if usable[i]]
    else:
        distribution = np.eye(len(FER2013), dtype=np.float32)[classes]
    faces = FaceDataset(
        name=("FER+" if use_votes else "FER2013") + (f" {split}" if split else ""),
        images=np.stack(images) if images else np.zeros((0, _SIDE, _SIDE), np.uint8),
        labels=distribution[kept],
        class_names=FERPLUS if use_votes else FER2013,
        are_crops=True,
        left_out=left_out,
    )
    return checked(faces, request.bad_rows, votes_path if use_votes else path)


def _pixels(text: str) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # numpy warns, and stops, at text that is no number
            values = np.fromstring(text, np.int64, sep=" ")
    except (ValueError, DeprecationWarning):
        raise DataError("the pixels are not whole numbers") from None
    if values.size != _SIDE * _SIDE or values.min() < 0 or values.max() > 255:
        raise DataError(f"expected {_SIDE * _SIDE} pixels from 0 to 255, found {values.size} values")
    return values.astype(np.uint8).reshape(_SIDE, _SIDE)


def _ferplus_labels(path: Path, usages: list[str | None], bad_rows: BadRows) -> tuple[np.ndarray, np.ndarray]:
    """Return ``[N, 8]`` vote distributions and ``[N]`` bool, which rows are usable.

    The rule of Barsoum et al. (2016): single votes are noise and are dropped; an image whose most
    voted answer is "unknown" or "no face" is left out; the rest is normalised over the eight classes.
    A bad row keeps its place, since the two files go row for row.
    """
    rows: list[list[int]] = []
    for row in csv_rows(path, _FERPLUS_HEADER):
        rows.append([0] * (len(FERPLUS) + 2))
        usage = usages[len(rows) - 1] if len(rows) <= len(usages) else None
        # Not to be skipped: from here on every vote would belong to another image.
        if usage is not None and len(row.fields) == len(_FERPLUS_HEADER) and row.fields[0] != usage:
            raise DataError(
                f"{row.where}: usage {row.fields[0][:20]!r} does not match fer2013.csv, which has {usage!r}: the two files must go row for row"
            )
        with bad_rows.row(row.where):
            votes = row.columns(len(_FERPLUS_HEADER))[2:]
            if not all(map(_VOTE.fullmatch, votes)):
                raise DataError("the votes are not whole numbers")
            rows[-1] = [int(v) for v in votes]
    if len(rows) != len(usages):
        raise DataError(
            f"{path} has {len(rows)} rows, fer2013.csv has {len(usages)}: the two files must go row for row"
        )
    counts = np.array(rows, np.float32)
    counts[counts <= 1] = 0
    usable = (counts.argmax(axis=1) < len(FERPLUS)) & (counts.max(axis=1) > 0)
    faces = counts[:, : len(FERPLUS)] * usable[:, None]
    total = faces.sum(axis=1, keepdims=True)
    return np.divide(faces, total, out=np.zeros_like(faces), where=total > 0), usable

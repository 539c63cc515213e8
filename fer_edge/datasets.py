"""Labelled face images for calibration, evaluation and training.

Three forms are read: the official FER2013 CSV (plain or ``.gz``), with the FER+ votes of
``fer2013new.csv`` where that file lies beside it; a folder with ``legend.csv``; and a folder with one
subfolder per class. A folder of images alone is read without labels.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import re
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from fer_edge.errors import DataError, closest
from fer_edge.labels import FER2013, FERPLUS, canonical

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
FERPLUS_FILE = "fer2013new.csv"
_FERPLUS_HEADER = ("Usage", "Image name", *FERPLUS, "unknown", "NF")
_FER2013_CLASSES = frozenset(map(str, range(len(FER2013))))
_VOTE = re.compile(r"[0-9]{1,4}")
_SIDE = 48


@dataclass(frozen=True)
class FaceDataset:
    """Face images with a label distribution each.

    Attributes
    ----------
    name : str
        What the data is, for reports.
    images : np.ndarray or tuple of Path
        ``[N, H, W]`` uint8 gray, or paths that are decoded on access.
    labels : np.ndarray or None
        ``[N, K]`` float32, rows sum to 1; ``None`` where there are no labels.
    class_names : tuple of str
        Order of the K columns.
    are_crops : bool
        Whether each image is a face crop, so that no detector is needed.
    """

    name: str
    images: np.ndarray | tuple[Path, ...]
    labels: np.ndarray | None
    class_names: tuple[str, ...]
    are_crops: bool

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> np.ndarray:
        """Return image ``index``: ``[H, W]`` gray or ``[H, W, 3]`` BGR, uint8."""
        item = self.images[index]
        return item if isinstance(item, np.ndarray) else read_image(item)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))

    @property
    def targets(self) -> np.ndarray:
        """``[N]`` int64, the class with most votes (the first of equals)."""
        if self.labels is None:
            raise DataError(f"{self.name} has no labels: give labelled data")
        return np.asarray(self.labels.argmax(axis=1), np.int64)

    def subset(self, indices: Sequence[int] | np.ndarray) -> FaceDataset:
        """Return the data set restricted to ``indices``."""
        chosen = np.asarray(indices, np.int64)
        images = (
            self.images[chosen]
            if isinstance(self.images, np.ndarray)
            else tuple(self.images[i] for i in chosen)
        )
        return replace(self, images=images, labels=None if self.labels is None else self.labels[chosen])

    def sample(self, count: int, seed: int = 0) -> FaceDataset:
        """Return at most ``count`` images, drawn without replacement, in a repeatable order."""
        order = np.random.default_rng(seed).permutation(len(self))
        return self.subset(order[:count])

    def fingerprint(self) -> str:
        """Return a sha256 over the image bytes, to record which data a result came from."""
        digest = hashlib.sha256()
        if isinstance(self.images, np.ndarray):
            digest.update(np.ascontiguousarray(self.images).tobytes())
        else:
            for path in self.images:
                digest.update(path.read_bytes())
        return digest.hexdigest()


def read_image(path: Path) -> np.ndarray:
    """Decode an image file to ``[H, W, 3]`` BGR uint8.

    Raises
    ------
    DataError
        If the file is missing, empty or no image that OpenCV can decode.
    """
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except cv2.error:  # a header that claims more pixels than OpenCV accepts
        image = None
    if image is None:
        raise DataError(
            f"{path} is not an image that OpenCV can decode ({data.size} bytes): give JPEG or PNG"
        )
    return image


def load_dataset(path: str | Path, split: str | None = None, labels: str = "auto") -> FaceDataset:
    """Load faces from a CSV file or a folder.

    Parameters
    ----------
    path : str or Path
        ``fer2013.csv`` (plain or ``.gz``), a folder with ``legend.csv``, a folder with a subfolder
        per class, or a folder of images.
    split : str, optional
        A ``Usage`` of FER2013 (``Training``, ``PublicTest``, ``PrivateTest``). Folders have none.
    labels : {"auto", "ferplus", "fer2013"}
        For FER2013: whose labels. ``auto`` takes FER+ where its file lies beside the CSV.

    Raises
    ------
    DataError
        If nothing usable is found; the message names the file, and the line for CSV files.
    """
    path = Path(path)
    if path.is_file() and path.name.endswith((".csv", ".csv.gz")):
        return _load_fer2013(path, split, labels)
    if not path.is_dir():
        found = "is neither a CSV file nor a folder" if path.exists() else "does not exist"
        raise DataError(f"{path} {found}: give fer2013.csv, a folder with legend.csv, or an image folder")
    if split is not None:
        raise DataError(f"{path} is a folder and has no splits: leave --split out")
    if (path / "legend.csv").is_file():
        return _load_legend(path)
    return _load_folder(path)


def list_images(folder: Path) -> tuple[Path, ...]:
    """Return the image files directly in ``folder``, sorted by name."""
    return tuple(sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()))


def _open_text(path: Path) -> io.TextIOBase:
    if path.suffix == ".gz":
        return io.TextIOWrapper(gzip.open(path, "rb"), encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")


def _rows(path: Path, header: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield ``(line, row)`` of a CSV file after checking its header."""
    line = 0
    try:
        with _open_text(path) as file:
            reader = csv.reader(file)
            first = next(reader, [])
            if tuple(first) != tuple(header):
                raise DataError(
                    f"{path}, line 1: expected the columns {','.join(header)}, found {','.join(first)[:80]!r}"
                )
            for row in reader:
                line = reader.line_num
                if len(row) != len(header):
                    raise DataError(f"{path}, line {line}: expected {len(header)} columns, found {len(row)}")
                yield line, row
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read beyond line {line} ({error}): fetch it again") from error


def _load_fer2013(path: Path, split: str | None, labels: str) -> FaceDataset:
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
    classes: list[int] = []
    usages: list[str] = []
    for line, (label, pixels, usage) in _rows(path, ("emotion", "pixels", "Usage")):
        if label not in _FER2013_CLASSES:
            raise DataError(
                f"{path}, line {line}: expected a class from 0 to {len(FER2013) - 1}, found {label[:20]!r}"
            )
        if split is None or usage == split:
            images.append(_pixels(path, line, pixels))
        classes.append(int(label))
        usages.append(usage)
    if not usages:
        raise DataError(f"{path} has no rows: fetch it again")

    usage_of = np.array(usages)
    distribution = (
        _ferplus_labels(votes_path, usage_of)
        if use_votes
        else np.eye(len(FER2013), dtype=np.float32)[classes]
    )
    if not images:
        choices = sorted(set(usages))
        raise DataError(
            f"{path} has no split {split!r}: it has {', '.join(choices)}{closest(str(split), choices)}"
        )
    if split is not None:
        distribution = distribution[usage_of == split]
    keep = distribution.sum(axis=1) > 0
    if not keep.any():
        raise DataError(f"{votes_path} leaves no usable row: use labels fer2013")
    name = ("FER+" if use_votes else "FER2013") + (f" {split}" if split else "")
    return FaceDataset(
        name=name,
        images=np.stack(images)[keep],
        labels=distribution[keep],
        class_names=FERPLUS if use_votes else FER2013,
        are_crops=True,
    )


def _pixels(path: Path, line: int, text: str) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # numpy warns, and stops, at text that is no number
            values = np.fromstring(text, np.int64, sep=" ")
    except (ValueError, DeprecationWarning):
        raise DataError(f"{path}, line {line}: the pixels are not whole numbers") from None
    if values.size != _SIDE * _SIDE or values.min() < 0 or values.max() > 255:
        raise DataError(
            f"{path}, line {line}: expected {_SIDE * _SIDE} pixels from 0 to 255, found {values.size} values"
        )
    return values.astype(np.uint8).reshape(_SIDE, _SIDE)


def _ferplus_labels(path: Path, usage_of: np.ndarray) -> np.ndarray:
    """Return ``[N, 8]`` vote distributions; rows that FER+ drops are zero.

    The rule of Barsoum et al. (2016): single votes are noise and are dropped; an image whose most
    voted answer is "unknown" or "no face" is left out; the rest is normalised over the eight classes.
    """
    rows: list[list[int]] = []
    for line, row in _rows(path, _FERPLUS_HEADER):
        if len(rows) < len(usage_of) and row[0] != usage_of[len(rows)]:
            raise DataError(
                f"{path}, line {line}: usage {row[0]!r} does not match fer2013.csv, which has {usage_of[len(rows)]!r}: the two files must go row for row"
            )
        if not all(map(_VOTE.fullmatch, row[2:])):
            raise DataError(f"{path}, line {line}: the votes are not whole numbers")
        rows.append([int(v) for v in row[2:]])
    if len(rows) != len(usage_of):
        raise DataError(
            f"{path} has {len(rows)} rows, fer2013.csv has {len(usage_of)}: the two files must go row for row"
        )
    votes = np.array(rows, np.float32)
    votes[votes <= 1] = 0
    usable = (votes.argmax(axis=1) < len(FERPLUS)) & (votes.max(axis=1) > 0)
    faces = votes[:, : len(FERPLUS)] * usable[:, None]
    total = faces.sum(axis=1, keepdims=True)
    return np.divide(faces, total, out=np.zeros_like(faces), where=total > 0)


def _expression(name: str, where: str) -> str:
    try:
        return canonical(name)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def _one_hot(names: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    order = tuple(name for name in FERPLUS if name in names)
    index = {name: i for i, name in enumerate(order)}
    return np.eye(len(order), dtype=np.float32)[[index[name] for name in names]], order


def _load_legend(folder: Path) -> FaceDataset:
    legend = folder / "legend.csv"
    root = (folder / "images" if (folder / "images").is_dir() else folder).resolve()
    paths: list[Path] = []
    names: list[str] = []
    for line, (image, emotion) in _rows(legend, ("image", "emotion")):
        try:
            path = (root / image).resolve()
            exists = path.is_file()
        except (OSError, ValueError, RuntimeError):  # NUL, a name that is too long, a link to itself
            raise DataError(f"{legend}, line {line}: {image[:80]!r} is no file name") from None
        if not path.is_relative_to(root):
            raise DataError(f"{legend}, line {line}: {image!r} lies outside {root}")
        if not exists:
            raise DataError(f"{legend}, line {line}: {path} does not exist")
        paths.append(path)
        names.append(_expression(emotion, f"{legend}, line {line}"))
    if not paths:
        raise DataError(f"{legend} has no rows: add image,emotion lines")
    labels, class_names = _one_hot(names)
    return FaceDataset(folder.name, tuple(paths), labels, class_names, are_crops=False)


def _load_folder(folder: Path) -> FaceDataset:
    by_class = {p.name: list_images(p) for p in sorted(folder.iterdir()) if p.is_dir()}
    by_class = {name: paths for name, paths in by_class.items() if paths}
    if by_class:
        paths = tuple(p for group in by_class.values() for p in group)
        names = [_expression(name, str(folder / name)) for name, group in by_class.items() for _ in group]
        labels, class_names = _one_hot(names)
        return FaceDataset(folder.name, paths, labels, class_names, are_crops=True)
    paths = list_images(folder)
    if not paths:
        raise DataError(
            f"{folder} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}): give another folder"
        )
    return FaceDataset(folder.name, paths, None, (), are_crops=True)

"""The request of ``load_dataset``, and helpers that the loaders of all formats share."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fer_edge.datasets.dataset import FaceDataset
from fer_edge.datasets.rows import BadRows
from fer_edge.errors import DataError, UsageError, closest, without_fix
from fer_edge.labels import FERPLUS, canonical

#: Images decoded in parallel; the largest take 0.2 GiB each.
_DECODERS = 4


@dataclass(frozen=True)
class Request:
    """Arguments of :func:`fer_edge.datasets.load_dataset`."""

    split: str | None
    labels: str
    bad_rows: BadRows
    peak_frames: int = 1
    subjects_from_names: bool = False
    class_order: tuple[str, ...] = ()

    def require_numbers(self, found: bool, where: Path) -> None:
        """Refuse a class order for classes that have names."""
        if self.class_order and not found:
            raise UsageError(
                f"class_order is for numbered classes, those of {where} have names. Fix: leave it out"
            )


def no_split(path: Path, split: str | None) -> None:
    """Refuse a split for a format that has none."""
    if split is not None:
        raise DataError(f"{path} is a folder and has no splits. Fix: leave --split out")


def unknown_split(path: Path, split: str, choices: Sequence[str]) -> DataError:
    """Return the error for a split that the data does not have."""
    fix = f"choose from {', '.join(choices)}{closest(split, choices)}" if choices else "leave --split out"
    return DataError(f"{path} has no split {split!r}. Fix: {fix}")


def one_hot(names: Sequence[str], order: Sequence[str] | None = None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return ``[N, K]`` float32 labels of canonical names, and the K names.

    ``order`` is the published class order; without it, the classes that occur are in FER+ order.
    """
    order = tuple(name for name in FERPLUS if name in names) if order is None else tuple(order)
    index = {canonical(name): i for i, name in enumerate(order)}
    return np.eye(len(order), dtype=np.float32)[[index[name] for name in names]], tuple(order)


def checked(faces: FaceDataset, bad_rows: BadRows, where: Path) -> FaceDataset:
    """Return the data set with its record of skipped rows; if bad rows are skipped, every image is decoded once.

    Otherwise, an image that cannot be decoded raises when it is read.

    Raises
    ------
    DataError
        If no row is left.
    """
    if bad_rows.skips and isinstance(faces.images, tuple):
        with ThreadPoolExecutor(_DECODERS) as pool:  # OpenCV decodes without the interpreter lock
            problems = list(pool.map(lambda i: _problem(faces, i), range(len(faces))))
        for problem in filter(None, problems):
            bad_rows.skip(problem)
        faces = faces.subset([i for i, problem in enumerate(problems) if problem is None])
    faces = replace(faces, skipped=bad_rows.skipped)
    if not len(faces):
        first = "".join(f", the first {text}" for text in faces.skipped.first[:1])
        reasons = "".join(f"; {count} × {reason}" for reason, count in faces.left_out.items())
        raise DataError(
            f"{where} has no usable row, {faces.skipped.count} are bad{first}{reasons}. Fix: give other data"
        )
    return faces


def _problem(faces: FaceDataset, index: int) -> str | None:
    try:
        faces.decode(index)
    except DataError as error:
        return without_fix(error)
    return None

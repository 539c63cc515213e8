"""Folds whose training and test sets share no subject."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fer_edge._utils.checks import MAX_IMAGES, require_whole
from fer_edge.datasets.dataset import FaceDataset
from fer_edge.errors import DataError

_DIGITS = re.compile(r"([0-9]+)")


@dataclass(frozen=True)
class Fold:
    """One split by subject.

    Attributes
    ----------
    subjects : tuple of str
        Test subjects, sorted; numbers by value.
    train, test : np.ndarray
        int64 indices of the data set, ascending.
    """

    subjects: tuple[str, ...]
    train: np.ndarray
    test: np.ndarray


def subject_folds(dataset: FaceDataset, folds: int = 5) -> tuple[Fold, ...]:
    """Return contiguous groups of the sorted subjects, as equal as possible, the larger ones last.

    For the 67 models of RaFD (numbers 1 to 73 less 6, 13, 17, 34, 62, 66) and five folds these are the
    groups of Sun et al.: 1–15, 16–29, 30–43, 44–57, 58–73.

    Raises
    ------
    DataError
        If the data has no subjects, or fewer than ``folds``.
    UsageError
        If ``folds`` is less than 2.
    """
    require_whole("folds", folds, 2, MAX_IMAGES)
    order = _sorted_subjects(dataset)
    if len(order) < folds:
        raise DataError(
            f"{dataset.name} has {len(order)} subjects, fewer than {folds} folds. Fix: use fewer folds"
        )
    size, larger = divmod(len(order), folds)
    bounds = np.cumsum([0] + [size] * (folds - larger) + [size + 1] * larger)
    return _folds(dataset, order, bounds)


def leave_subjects_out(dataset: FaceDataset, count: int = 10) -> tuple[Fold, ...]:
    """Return folds that each hold out the next ``count`` of the sorted subjects, as in the evaluation of FERAtt.

    The last fold holds out the remaining subjects, which may be fewer.

    Raises
    ------
    DataError
        If the data has no subjects, or not more than ``count``.
    UsageError
        If ``count`` is less than 1.
    """
    require_whole("count", count, 1, MAX_IMAGES)
    order = _sorted_subjects(dataset)
    if len(order) <= count:
        raise DataError(
            f"{dataset.name} has {len(order)} subjects, too few to hold out {count}. Fix: hold out fewer"
        )
    return _folds(dataset, order, np.append(np.arange(0, len(order), count), len(order)))


def _sorted_subjects(dataset: FaceDataset) -> list[str]:
    if dataset.subjects is None:
        raise DataError(
            f"{dataset.name} has no subjects. Fix: give the CK+ layout, or an image folder with files named "
            "SUBJECT_anything.png and subjects_from_names"
        )
    return sorted(set(dataset.subjects.tolist()), key=_natural)


def _natural(subject: str) -> tuple[tuple[tuple[int, int, str], ...], str]:
    """Return a key that orders digits by value, S5 before S10; the name itself breaks ties such as 07 and 7."""
    parts = (p for p in _DIGITS.split(subject) if p)
    return tuple((0, int(p), "") if p.isascii() and p.isdigit() else (1, 0, p) for p in parts), subject


def _folds(dataset: FaceDataset, order: Sequence[str], bounds: np.ndarray) -> tuple[Fold, ...]:
    result = []
    for start, end in itertools.pairwise(bounds):
        chosen = tuple(order[start:end])
        tested = np.isin(dataset.subjects, chosen)  # type: ignore[arg-type]
        result.append(Fold(chosen, np.flatnonzero(~tested), np.flatnonzero(tested)))
    return tuple(result)

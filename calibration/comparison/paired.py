"""Paired comparison of FP32 and INT8 on the same labelled faces, with confidence intervals.

Both networks run on the same faces, so most of the sampling noise of each accuracy cancels in the difference. The
uncertainty of the difference depends only on the faces on which the two disagree.

The noise of every figure here is its 95 % interval under one paired bootstrap (Efron & Tibshirani, 1993):
as many faces as there are, N, are drawn with replacement, each with its label and both predictions; every
figure is computed again from those; that is done ``resamples`` times, with a fixed seed; the interval runs
from the 2.5th to the 97.5th percentile. All figures use the same resamples. They are computed from the
number of faces with each (label, FP32 class, INT8 class), so a resample of N faces is one draw of those
numbers from a multinomial distribution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import comb
from typing import Any

import numpy as np

from fer_edge.errors import DataError, UsageError

RESAMPLES = 10_000
_PERCENTILES = (2.5, 97.5)


@dataclass(frozen=True)
class ClassChange:
    """F1 of one class in FP32 and INT8, as shares, and its change in percentage points.

    ``low_pp`` to ``high_pp`` is the 95 % interval of the change. ``beyond_noise`` is true if it excludes 0; of K
    classes without any true change, 0.05 K are expected to be beyond noise by chance.
    """

    name: str
    faces: int
    fp32_f1: float
    int8_f1: float
    change_pp: float
    low_pp: float
    high_pp: float
    beyond_noise: bool


@dataclass(frozen=True)
class PairedComparison:
    """Differences between the predictions of INT8 and FP32 on the same faces.

    Attributes
    ----------
    faces, resamples : int
        Number of labelled faces, and of bootstrap resamples.
    change_pp : float
        Accuracy of INT8 less that of FP32, in percentage points.
    low_pp, high_pp : float
        Its 95 % interval, of zero width if no face is right in one precision only.
    beyond_noise : bool
        ``True`` if the interval excludes 0.
    only_fp32_right, only_int8_right : int
        Faces that only one precision classifies correctly.
    mcnemar_p : float
        p-value of the exact McNemar test: the probability that two equally good networks split those faces at
        least as unevenly; 1 if there are none.
    classes : tuple of ClassChange
        In the network's order.
    """

    faces: int
    resamples: int
    change_pp: float
    low_pp: float
    high_pp: float
    beyond_noise: bool
    only_fp32_right: int
    only_int8_right: int
    mcnemar_p: float
    classes: tuple[ClassChange, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)


def compare_paired(
    fp32_predicted: np.ndarray,
    int8_predicted: np.ndarray,
    targets: np.ndarray,
    class_names: Sequence[str],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> PairedComparison:
    """Compare two predictions per face, ``[N]`` class indices like the ``[N]`` ``targets``.

    Raises
    ------
    DataError
        If there are no faces, the three lengths differ, or an index is no class.
    UsageError
        If ``resamples`` is below 2000, too few for the ends of a 95 % interval.
    """
    if resamples < 2000:
        raise UsageError(
            f"a 95 % interval needs at least 2000 resamples, found {resamples}. Fix: set resamples to 2000 or more"
        )
    faces = np.stack(_checked(fp32_predicted, int8_predicted, targets, len(class_names)), axis=1)
    kinds, counts = np.unique(faces, axis=0, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(faces), counts / len(faces), size=resamples)
    fp32, int8, target = kinds.T
    right = np.stack([fp32 == target, int8 == target])

    def change_pp(kind_counts: np.ndarray) -> np.ndarray:
        return 100 * (kind_counts @ (right[1].astype(float) - right[0])) / len(faces)

    measured = float(change_pp(counts))
    low, high = _interval(change_pp(drawn))
    only_fp32, only_int8 = (int(counts[one & ~other].sum()) for one, other in (right, right[::-1]))
    classes = []
    for index, name in enumerate(class_names):
        fp32_f1, int8_f1 = (_f1(counts, predicted, target, index) for predicted in (fp32, int8))
        changes = 100 * (_f1(drawn, int8, target, index) - _f1(drawn, fp32, target, index))
        class_low, class_high = _interval(changes)
        classes.append(
            ClassChange(
                name=name,
                faces=int(counts[target == index].sum()),
                fp32_f1=float(fp32_f1),
                int8_f1=float(int8_f1),
                change_pp=float(100 * (int8_f1 - fp32_f1)),
                low_pp=class_low,
                high_pp=class_high,
                beyond_noise=not class_low <= 0 <= class_high,
            )
        )
    return PairedComparison(
        faces=len(faces),
        resamples=resamples,
        change_pp=measured,
        low_pp=low,
        high_pp=high,
        beyond_noise=not low <= 0 <= high,
        only_fp32_right=only_fp32,
        only_int8_right=only_int8,
        mcnemar_p=_mcnemar_p(only_fp32, only_int8),
        classes=tuple(classes),
    )


def _checked(
    fp32: np.ndarray, int8: np.ndarray, targets: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if not len(fp32) == len(int8) == len(targets) > 0:
        raise DataError(
            f"expected two predictions for each labelled face, found {len(fp32)} of FP32, {len(int8)} of INT8 "
            f"and {len(targets)} labels. Fix: pass three arrays of the same length, at least 1"
        )
    for values in (fp32, int8, targets):
        if np.min(values) < 0 or np.max(values) >= classes:
            raise DataError(
                f"expected class indices from 0 to {classes - 1}, found {np.min(values)} to {np.max(values)}. "
                "Fix: pass indices into the class names"
            )
    return fp32, int8, targets


def _f1(counts: np.ndarray, predicted: np.ndarray, target: np.ndarray, index: int) -> np.ndarray:
    """Return F1 of one class from ``[..., kinds]`` counts; 0 where the class is neither true nor predicted."""
    is_predicted, is_true = predicted == index, target == index
    hits = counts @ (is_predicted & is_true).astype(float)
    total = counts @ (is_predicted.astype(float) + is_true)
    return np.asarray(2 * hits / np.maximum(total, 1))


def _interval(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, _PERCENTILES)
    return float(low), float(high)


def _mcnemar_p(only_fp32: int, only_int8: int) -> float:
    split = only_fp32 + only_int8
    tail = sum(comb(split, k) for k in range(min(only_fp32, only_int8) + 1))
    return min(1.0, 2 * tail / 2**split)

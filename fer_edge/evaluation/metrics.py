"""Classification metrics: accuracy, balanced accuracy, macro-F1, calibration error, confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fer_edge.errors import DataError


@dataclass(frozen=True)
class ReliabilityBin:
    """Faces of similar confidence: count, total weight, weighted mean confidence and weighted accuracy."""

    count: int
    confidence: float
    accuracy: float
    weight: float


def reliability_bins(
    probabilities: np.ndarray, targets: np.ndarray, bins: int = 15, weights: np.ndarray | None = None
) -> tuple[ReliabilityBin, ...]:
    """Return the non-empty ones of ``bins`` equal-width bins of confidence, least confident first.

    Parameters
    ----------
    probabilities : np.ndarray
        ``[N, K]``.
    targets : np.ndarray
        ``[N]`` class indices.
    bins : int
        Number of bins.
    weights : np.ndarray, optional
        ``[N]``, non-negative weight of each face; 1 by default. A bin of total weight 0 is left out.
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == targets
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(index, minlength=bins)
    weight = np.ones(len(targets)) if weights is None else weights
    sums = (np.bincount(index, v * weight, bins) for v in (np.ones(len(targets)), confidence, correct))
    return tuple(
        ReliabilityBin(int(count), float(confident / total), float(right / total), float(total))
        for count, total, confident, right in zip(counts, *sums, strict=True)
        if total > 0
    )


def expected_calibration_error(
    probabilities: np.ndarray, targets: np.ndarray, bins: int = 15, weights: np.ndarray | None = None
) -> float:
    """Return Σ_b |accuracy_b − confidence_b| · w_b / Σ w_b over equal-width bins (Guo et al., 2017).

    w_b is the number of faces in a bin, or the sum of their ``weights``.
    """
    return _calibration_error(reliability_bins(probabilities, targets, bins, weights))


def _calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    return sum(abs(b.accuracy - b.confidence) * b.weight for b in bins) / sum(b.weight for b in bins)


@dataclass(frozen=True)
class Metrics:
    """Metrics of one evaluation.

    Rows of ``confusion`` are true classes, columns predictions. ``recall`` of a class without faces is ``None``.
    ``reliability`` are the bins of ``ece``; ``ece_unweighted`` is the calibration error without the weights.
    """

    class_names: tuple[str, ...]
    count: int
    accuracy: float
    balanced_accuracy: float
    macro_f1: float
    ece: float
    ece_unweighted: float
    f1: tuple[float, ...]
    recall: tuple[float | None, ...]
    confusion: tuple[tuple[int, ...], ...]
    reliability: tuple[ReliabilityBin, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, per-class metrics keyed by class name; those of a class without faces are ``None``."""
        known = [recall is not None for recall in self.recall]
        return {
            "count": self.count,
            "accuracy": self.accuracy,
            "balanced_accuracy": self.balanced_accuracy,
            "macro_f1": self.macro_f1,
            "ece": self.ece,
            "ece_unweighted": self.ece_unweighted,
            "f1": {
                name: f1 if is_known else None
                for name, f1, is_known in zip(self.class_names, self.f1, known, strict=True)
            },
            "recall": dict(zip(self.class_names, self.recall, strict=True)),
            "class_names": list(self.class_names),
            "confusion": [list(row) for row in self.confusion],
            "reliability": [asdict(b) for b in self.reliability],
        }


def compute_metrics(
    probabilities: np.ndarray,
    targets: np.ndarray,
    class_names: Sequence[str],
    weights: np.ndarray | None = None,
) -> Metrics:
    """Compute all metrics from ``[N, K]`` probabilities and ``[N]`` true class indices.

    Balanced accuracy and macro-F1 average over the classes that occur in ``targets``. ``weights`` ``[N]``, such as
    :attr:`fer_edge.probabilities.ProbabilityRule.importance`, apply only to the calibration error and ``reliability``.

    Raises
    ------
    DataError
        If there are no faces, or the total weight is 0.
    """
    count = len(targets)
    if count == 0:
        raise DataError("there are no labelled faces to measure. Fix: give other data")
    classes = len(class_names)
    if probabilities.shape != (count, classes) or not np.isfinite(probabilities).all():
        raise DataError(
            f"expected finite probabilities [{count}, {classes}], found the shape {list(probabilities.shape)}"
            f"{'' if np.isfinite(probabilities).all() else ' with NaN or infinity'}. Fix: check the model's outputs"
        )
    if np.min(targets) < 0 or np.max(targets) >= classes:
        raise DataError(
            f"the true classes must be from 0 to {classes - 1}, found {np.min(targets)} to {np.max(targets)}. "
            "Fix: leave other faces out"
        )
    if weights is not None and not (np.isfinite(weights).all() and np.min(weights) >= 0 < np.sum(weights)):
        raise DataError(
            "the calibration error needs a labelled face of a class whose prior is above 0. Fix: give other data or "
            "another prior"
        )
    predicted = probabilities.argmax(axis=1)
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (targets, predicted), 1)
    hits, true, guessed = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    recall = hits / np.maximum(true, 1)
    f1 = 2 * hits / np.maximum(true + guessed, 1)
    present = true > 0
    reliability = reliability_bins(probabilities, targets, weights=weights)
    return Metrics(
        class_names=tuple(class_names),
        count=count,
        accuracy=float(hits.sum() / count),
        balanced_accuracy=float(recall[present].mean()),
        macro_f1=float(f1[present].mean()),
        ece=_calibration_error(reliability),
        ece_unweighted=expected_calibration_error(probabilities, targets),
        f1=tuple(map(float, f1)),
        recall=tuple(float(r) if faces else None for r, faces in zip(recall, true, strict=True)),
        confusion=tuple(tuple(map(int, row)) for row in confusion),
        reliability=reliability,
    )

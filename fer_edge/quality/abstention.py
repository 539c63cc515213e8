"""Reasons to give no label for a face: thresholds on its quality, and on the confidence in its label.

The confidence is the estimated probability that the label is right, by a logistic regression on the distribution of the
classes and on the quality. It was fitted on faces and degraded copies of them, ``python benchmarks/abstention.py``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fer_edge._utils.checks import require_number
from fer_edge.errors import DataError
from fer_edge.quality.measure import Quality

#: Values of :attr:`fer_edge.results.Face.reason` that this module gives, in the order in which they are tested.
REASONS = ("too_small", "too_dark", "too_bright", "blurred", "profile", "uncertain")

#: Term → weight of the log-odds; :func:`confidence_terms` computes the terms.
COEFFICIENTS = {
    "constant": 0.547,
    "log_odds": 0.639,
    "entropy": -0.335,
    "blur": -0.397,
    "noise": -1.216,
    "yaw": 0.096,
    "roll": -0.446,
}


@dataclass(frozen=True)
class QualityThresholds:
    """Limits beyond which a face gets no label. A limit at the end of its range tests nothing.

    The defaults were fitted on held-out faces of FER2013 ``Training`` and degraded copies: beyond each, more than half of
    the labels are wrong.

    Attributes
    ----------
    min_side_px : float
        Shorter side of the crop; below, ``too_small``.
    min_luma, max_luma : float
        0 to 255; beyond, ``too_dark`` or ``too_bright``.
    min_sharpness : float
        Below, ``blurred``.
    max_yaw_deg : float
        Beyond, ``profile``. Detectors without landmarks give no pose, which passes.
    min_confidence : float
        0 to 1; below (:func:`estimate_confidence`), ``uncertain``.
    """

    min_side_px: float = 16.0
    min_luma: float = 20.0
    max_luma: float = 235.0
    min_sharpness: float = 0.03
    max_yaw_deg: float = 60.0
    min_confidence: float = 0.0

    def __post_init__(self) -> None:
        for name, most in (
            ("min_side_px", 1e5),
            ("min_luma", 255),
            ("max_luma", 255),
            ("min_sharpness", 1e3),
            ("max_yaw_deg", 180),
            ("min_confidence", 1),
        ):
            require_number(name, getattr(self, name), 0, most)

    @classmethod
    def none(cls) -> QualityThresholds:
        """Return limits that every face passes."""
        return cls(0, 0, 255, 0, 180, 0)


def reason(
    quality: Quality, probabilities: np.ndarray | None, thresholds: QualityThresholds | None = None
) -> str | None:
    """Return why a face gets no label, one of :data:`REASONS`, or ``None`` if it gets one.

    Parameters
    ----------
    quality : Quality
        Quality of its crop.
    probabilities : np.ndarray or None
        ``[K]``, sum 1; ``None`` tests the quality alone, for example before the network runs.
    thresholds : QualityThresholds or None
        Limits; ``None`` is the defaults.
    """
    limits = thresholds or QualityThresholds()
    if quality.side_px < limits.min_side_px:
        return "too_small"
    if quality.luma < limits.min_luma:
        return "too_dark"
    if quality.luma > limits.max_luma:
        return "too_bright"
    if quality.sharpness < limits.min_sharpness:
        return "blurred"
    if quality.yaw_deg is not None and abs(quality.yaw_deg) > limits.max_yaw_deg:
        return "profile"
    if (
        probabilities is not None
        and limits.min_confidence > 0
        and estimate_confidence(quality, probabilities) < limits.min_confidence
    ):
        return "uncertain"
    return None


def estimate_confidence(quality: Quality, probabilities: np.ndarray) -> float:
    """Return the estimated probability that the most probable class is the right one.

    Parameters
    ----------
    quality : Quality
        Quality of the crop.
    probabilities : np.ndarray
        ``[K]``, sum 1.

    Raises
    ------
    DataError
        If the probabilities are not a distribution over two classes or more.
    """
    terms = confidence_terms(quality, probabilities)
    return 1 / (1 + math.exp(-sum(COEFFICIENTS[name] * value for name, value in terms.items())))


def confidence_terms(quality: Quality, probabilities: np.ndarray) -> dict[str, float]:
    """Return the terms of the log-odds, each within limits, so that no value extrapolates."""
    p = np.asarray(probabilities, np.float64)
    if p.ndim != 1 or len(p) < 2 or not (p >= 0).all() or abs(p.sum() - 1) > 1e-3:
        raise DataError(
            f"expected [K] probabilities with sum 1, found {list(p.shape)} with sum {p.sum():.4g}. "
            "Fix: give those of a face whose outputs are finite"
        )
    best = min(max(float(p.max()), 1e-3), 1 - 1e-4)
    sharpness = math.log(min(max(quality.sharpness, 0.005), 20))
    return {
        "constant": 1.0,
        "log_odds": math.log(best / (1 - best)),
        "entropy": float(-(p * np.log(np.maximum(p, 1e-12))).sum() / math.log(len(p))),
        "blur": max(math.log(0.3) - sharpness, 0.0),
        "noise": max(sharpness - math.log(0.8), 0.0),
        "yaw": _beyond(quality.yaw_deg),
        "roll": _beyond(quality.roll_deg),
    }


def _beyond(angle_deg: float | None) -> float:
    """Return how far an angle exceeds 10°, in units of 30°; 0 if it is unknown."""
    return 0.0 if angle_deg is None else max(min(abs(angle_deg), 60) - 10, 0) / 30

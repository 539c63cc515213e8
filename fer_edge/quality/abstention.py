"""Reasons to give no label for a face: limits of its quality, and of the confidence in its label.

The confidence is an estimate of the probability that the label is right: a logistic regression on the largest
probability and on the quality. Limits and weights were fitted by ``python benchmarks/abstention.py`` on 1000 faces of
FER2013 ``Training`` that the default network was not trained on, and on degraded copies of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fer_edge._utils.checks import require_number
from fer_edge.errors import DataError
from fer_edge.quality.measure import Quality

#: Values of :attr:`fer_edge.results.Face.reason` that this module gives, in the order in which they are tested.
REASONS = ("too_small", "too_dark", "too_bright", "noisy", "blurred", "profile", "uncertain")
#: Term of :func:`confidence_terms` → weight of the log-odds.
WEIGHTS = {
    "constant": 0.04,
    "log_odds": 0.929,
    "noise": -0.358,
    "blur": -0.17,
    "bright": -1.073,
    "roll": -0.705,
    "log_odds × noise": -0.556,
    "log_odds × blur": -0.193,
}
#: Share of faces that keep a label → ``min_confidence``, with the other limits at their defaults, on a set of which half
#: is degraded.
CONFIDENCE_OF_COVERAGE = {0.5: 0.721, 0.6: 0.62, 0.7: 0.536, 0.8: 0.404}


@dataclass(frozen=True)
class QualityThresholds:
    """Limits beyond which a face gets no label. A limit at the end of its range tests nothing.

    Beyond each default limit of size, light, noise and sharpness, at least half of the labels were wrong. The default of
    the confidence refuses 1 % of the faces that are not degraded. ``max_yaw_deg`` is not fitted: of the turned faces that
    the detectors find, less than half of the labels were wrong at every angle.

    Attributes
    ----------
    min_side_px : float
        Shorter side of the crop; below, ``too_small``.
    min_luma, max_luma : float
        0 to 255; beyond, ``too_dark`` or ``too_bright``.
    max_noise : float
        Noise over contrast; above, ``noisy``.
    min_sharpness : float
        Below, ``blurred``.
    max_yaw_deg : float
        Above, ``profile``. A detector without landmarks gives no pose, which passes.
    min_confidence : float
        0 to 1; below (:func:`estimate_confidence`), ``uncertain``.
    """

    min_side_px: float = 16.0
    min_luma: float = 20.3
    max_luma: float = 234.0
    max_noise: float = 0.278
    min_sharpness: float = 0.00692
    max_yaw_deg: float = 65.0
    min_confidence: float = 0.39

    def __post_init__(self) -> None:
        for name, most in _LARGEST.items():
            require_number(name, getattr(self, name), 0, most)

    @classmethod
    def none(cls) -> QualityThresholds:
        """Return limits that every face passes."""
        return cls(**{name: most if name.startswith("max") else 0.0 for name, most in _LARGEST.items()})

    @classmethod
    def for_coverage(cls, coverage: float) -> QualityThresholds:
        """Return the default limits with the ``min_confidence`` that leaves a share of the faces their labels.

        Parameters
        ----------
        coverage : float
            0.5 to 0.8. The share holds for the set of the fit, of which half is degraded; it is larger with good
            pictures.

        Raises
        ------
        UsageError
            If the coverage is outside this range.
        """
        shares = sorted(CONFIDENCE_OF_COVERAGE)
        require_number("coverage", coverage, shares[0], shares[-1])
        found = np.interp(coverage, shares, [CONFIDENCE_OF_COVERAGE[share] for share in shares])
        return cls(min_confidence=float(found))


#: Limit → end of its range.
_LARGEST = {
    "min_side_px": 32766.0,
    "min_luma": 255.0,
    "max_luma": 255.0,
    "max_noise": 1000.0,
    "min_sharpness": 1000.0,
    "max_yaw_deg": 180.0,
    "min_confidence": 1.0,
}


def reason(
    quality: Quality, probabilities: np.ndarray | None = None, thresholds: QualityThresholds | None = None
) -> str | None:
    """Return why a face gets no label, one of :data:`REASONS`; ``None`` if it gets one.

    Parameters
    ----------
    quality : Quality
        Quality of its crop.
    probabilities : np.ndarray or None
        ``[K]``, sum 1; ``None`` tests the quality alone.
    thresholds : QualityThresholds or None
        Limits; ``None`` is the defaults.

    Raises
    ------
    DataError
        If the probabilities are not a distribution over two classes or more.
    """
    limits = thresholds or QualityThresholds()
    if quality.side_px < limits.min_side_px:
        return "too_small"
    if quality.luma < limits.min_luma:
        return "too_dark"
    if quality.luma > limits.max_luma:
        return "too_bright"
    if quality.noise > limits.max_noise:
        return "noisy"
    if quality.sharpness < limits.min_sharpness:
        return "blurred"
    if quality.yaw_deg is not None and abs(quality.yaw_deg) > limits.max_yaw_deg:
        return "profile"
    if probabilities is not None and estimate_confidence(quality, probabilities) < limits.min_confidence:
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
    return 1 / (1 + math.exp(-sum(WEIGHTS[name] * value for name, value in terms.items())))


def confidence_terms(quality: Quality, probabilities: np.ndarray) -> dict[str, float]:
    """Return the terms of the log-odds: 0 for a clean crop but for the first two, and within limits."""
    p = np.asarray(probabilities, np.float64)
    if p.ndim != 1 or len(p) < 2 or not (p >= 0).all() or not abs(p.sum() - 1) < 1e-3:
        raise DataError(
            f"expected [K] probabilities with sum 1, found {list(p.shape)} with sum {p.sum():.4g}. "
            "Fix: give those of a face whose outputs are finite"
        )
    best = _within(float(p.max()), 1e-3, 1 - 1e-4)
    log_odds = math.log(best / (1 - best))
    noise = math.log(_within(quality.noise, 0.1, 1) / 0.1)
    blur = math.log(0.08 / _within(quality.sharpness, 0.0016, 0.08))
    return {
        "constant": 1.0,
        "log_odds": log_odds,
        "noise": noise,
        "blur": blur,
        "bright": (_within(quality.luma, 180, 250) - 180) / 50,
        "roll": (_within(abs(quality.roll_deg or 0.0), 20, 70) - 20) / 30,
        "log_odds × noise": log_odds * noise,
        "log_odds × blur": log_odds * blur,
    }


def _within(value: float, least: float, most: float) -> float:
    return min(max(value, least), most)

"""Observers: what a tensor's values look like over many images, and the range to keep.

Memory does not grow with the number of images: a histogram of fixed length doubles its span when a
larger value arrives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from fer_edge.errors import CalibrationError

BINS = 4096
#: Levels of a signed 8-bit number without its sign: what TensorRT's entropy calibration keeps.
_LEVELS = 128
_STRIDE = 16


class Observer:
    """Streaming minimum, maximum and histogram of absolute values of one tensor."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.minimum = np.inf
        self.maximum = -np.inf
        self.counts = np.zeros(BINS, np.int64)
        self.span = 0.0  # the histogram covers [0, span)

    def update(self, values: np.ndarray) -> None:
        """Add the values of one batch.

        Raises
        ------
        CalibrationError
            If a value is not finite.
        """
        low, high = float(values.min()), float(values.max())
        if not np.isfinite(low) or not np.isfinite(high):
            raise CalibrationError(
                f"tensor {self.name} has values that are not finite: the FP32 model is broken, or the images are"
            )
        self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)
        largest = max(-low, high)
        if largest == 0:
            self.counts[0] += values.size
            return
        if self.span == 0:
            self.span = largest * (1 + 1e-6)
        while largest >= self.span:
            self.span *= 2
            self.counts = np.concatenate(
                [self.counts.reshape(-1, 2).sum(axis=1), np.zeros(BINS // 2, np.int64)]
            )
        flat = np.abs(np.ravel(values)).astype(np.float32, copy=False)
        # cv2.calcHist is an order of magnitude faster than numpy's; its float32 counts are exact to 2²⁴.
        for part in np.array_split(flat, flat.size // (1 << 23) + 1):
            self.counts += cv2.calcHist([part], [0], None, [BINS], [0.0, self.span]).ravel().astype(np.int64)


@dataclass(frozen=True)
class TensorRange:
    """Observed minimum and maximum, and the range [low, high] that INT8 keeps; values beyond are clipped."""

    min: float
    max: float
    low: float
    high: float


def _clip(observer: Observer, amax: float) -> TensorRange:
    low, high = max(observer.minimum, -amax), min(observer.maximum, amax)
    return TensorRange(observer.minimum, observer.maximum, low, high)


def minmax_range(observer: Observer) -> TensorRange:
    """Keep everything that was seen."""
    return _clip(observer, np.inf)


def entropy_range(observer: Observer) -> TensorRange:
    """Clip |x| where the KL divergence between the values and their 128-level image is least.

    The definition of TensorRT's entropy calibrator: for each candidate threshold the reference P is the
    histogram up to it, with the outliers added to its last bin; Q is P's bins without them, merged to 128
    levels and spread back over the bins that are not empty.
    """
    counts = observer.counts.astype(np.float64)
    used = int(np.nonzero(counts)[0].max(initial=0)) + 1
    if used <= _LEVELS:
        return minmax_range(observer)
    # Zeros (behind a ReLU: most values) are exact in any scale and say nothing about the threshold.
    counts[0] = counts[1]
    tail = np.concatenate([np.cumsum(counts[::-1])[::-1], [0.0]])
    candidates = np.unique(np.append(np.arange(_LEVELS, used, _STRIDE), used))
    divergences = [_divergence(counts[:stop], tail[stop]) for stop in candidates]
    best = int(candidates[int(np.argmin(divergences))])
    return _clip(observer, best * observer.span / BINS)


def _divergence(kept: np.ndarray, outliers: float) -> float:
    """KL(P ‖ Q) of one candidate; both normalised."""
    stop = len(kept)
    group = np.minimum(np.arange(stop) * _LEVELS // stop, _LEVELS - 1)
    occupied = kept > 0
    sums = np.bincount(group, kept, _LEVELS)
    filled = np.bincount(group, occupied, _LEVELS)
    q = np.where(occupied, (sums / np.maximum(filled, 1))[group], 0.0)
    p = kept.copy()
    p[-1] += outliers
    p, q = p / p.sum(), q / max(q.sum(), 1e-300)
    mask = p > 0
    # A bin that P has and Q lacks costs as much as a count of one in a million, as in ONNX Runtime.
    return float((p[mask] * np.log(p[mask] / np.maximum(q[mask], 1e-6 / stop))).sum())


METHODS: Mapping[str, Callable[[Observer], TensorRange]] = {
    "entropy": entropy_range,
    "minmax": minmax_range,
}

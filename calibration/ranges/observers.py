"""Observers: statistics of a tensor's values over many images.

Memory does not grow with the number of images: a histogram of fixed length doubles its span when a
larger value arrives.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from fer_edge.errors import CalibrationError

BINS = 4096


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
                f"tensor {self.name} has values that are not finite. Fix: check the weights and the images"
            )
        self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)
        largest = max(-low, high)
        if largest == 0:
            self.counts[0] += values.size
            return
        if self.span == 0:
            # A power of two, so that the bins do not depend on the division into batches.
            self.span = 2.0 ** np.ceil(np.log2(largest))
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
    """Observed minimum and maximum, and the range [low, high] that INT8 keeps; values outside are clipped."""

    min: float
    max: float
    low: float
    high: float

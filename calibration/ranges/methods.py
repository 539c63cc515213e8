"""Calibration methods by name: compute the range that INT8 keeps from the statistics of a tensor.

All but ``minmax`` clip |x| at one threshold for both signs, as a symmetric dialect stores it; an asymmetric dialect
intersects that range with the observed minimum and maximum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from fer_edge.calibration.ranges.observers import BINS, Observer, TensorRange

#: Stands in for a method: measure all methods and the corrections, and keep the best.
AUTO_METHOD = "auto"
#: Magnitude levels of a signed 8-bit number, as in TensorRT's entropy calibration.
_LEVELS = 128
_STRIDE = 16
#: Values that ``percentile`` keeps, in percent; the default of NVIDIA's Model Optimizer.
PERCENTILE = 99.99


def _clip(observer: Observer, amax: float) -> TensorRange:
    low, high = max(observer.minimum, -amax), min(observer.maximum, amax)
    return TensorRange(observer.minimum, observer.maximum, low, high)


def minmax_range(observer: Observer) -> TensorRange:
    """Keep the range from the observed minimum to the maximum."""
    return _clip(observer, np.inf)


def entropy_range(observer: Observer) -> TensorRange:
    """Clip |x| where the KL divergence between the histogram and its 128-level quantisation is least.

    As in TensorRT's entropy calibrator: for each candidate threshold the reference P is the histogram up to it,
    with the outliers added to its last bin; Q is the same bins without the outliers, merged to 128 levels and
    spread back over the bins that are not empty.
    """
    counts = observer.counts.astype(np.float64)
    used = int(np.nonzero(counts)[0].max(initial=0)) + 1
    if used <= _LEVELS:
        return minmax_range(observer)
    # Zeros (most values behind a ReLU) are exact in any scale, so they do not affect the threshold.
    counts[0] = counts[1]
    tail = np.concatenate([np.cumsum(counts[::-1])[::-1], [0.0]])
    candidates = np.unique(np.append(np.arange(_LEVELS, used, _STRIDE), used))
    divergences = [_divergence(counts[:stop], tail[stop]) for stop in candidates]
    best = int(candidates[int(np.argmin(divergences))])
    return _clip(observer, best * observer.span / BINS)


def _divergence(kept: np.ndarray, outliers: float) -> float:
    """Return KL(P ‖ Q) of one candidate, both normalised."""
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
    # A bin that is empty in Q but not in P counts as 1e-6 of the total, as in ONNX Runtime.
    return float((p[mask] * np.log(p[mask] / np.maximum(q[mask], 1e-6 / stop))).sum())


def percentile_range(observer: Observer, percentile: float = PERCENTILE) -> TensorRange:
    """Clip |x| where ``percentile`` percent of all values lie below."""
    total = np.cumsum(observer.counts)
    bins = int(np.searchsorted(total, percentile / 100 * total[-1])) + 1
    return _clip(observer, bins * observer.span / BINS) if observer.span else minmax_range(observer)


def mse_range(observer: Observer) -> TensorRange:
    """Clip |x| where the mean squared error of rounding to 127 steps and clipping is least."""
    used = int(np.nonzero(observer.counts)[0].max(initial=0)) + 1
    if used <= _LEVELS:
        return minmax_range(observer)
    width = observer.span / BINS
    values = (np.arange(used) + 0.5) * width
    counts = observer.counts[:used].astype(np.float64)
    counts[0] = 0  # mostly exact zeros, which have no rounding error
    thresholds = np.unique(np.append(np.arange(_LEVELS, used, _STRIDE), used)) * width
    errors = [_square_error(values, counts, t / (_LEVELS - 1)) for t in thresholds]
    return _clip(observer, float(thresholds[int(np.argmin(errors))]))


def _square_error(values: np.ndarray, counts: np.ndarray, step: float) -> float:
    stored = np.minimum(np.rint(values / step), _LEVELS - 1) * step
    return float((counts * (values - stored) ** 2).sum())


METHODS: Mapping[str, Callable[[Observer], TensorRange]] = {
    "entropy": entropy_range,
    "minmax": minmax_range,
    "mse": mse_range,
    "percentile": percentile_range,
}

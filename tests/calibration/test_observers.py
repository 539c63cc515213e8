"""Observers against numpy and against the definition of the entropy method written another way."""

from __future__ import annotations

import numpy as np
import pytest

from fer_edge.calibration.observers import BINS, METHODS, Observer, entropy_range, minmax_range
from fer_edge.errors import CalibrationError


def observe(*batches: np.ndarray) -> Observer:
    observer = Observer("tensor")
    for batch in batches:
        observer.update(batch)
    return observer


def test_minimum_and_maximum_are_exact() -> None:
    rng = np.random.default_rng(0)
    batches = [rng.normal(size=(4, 3, 5)).astype(np.float32) * k for k in (1, 5, 2)]
    r = minmax_range(observe(*batches))
    everything = np.concatenate([b.ravel() for b in batches])
    assert (r.min, r.max) == (everything.min(), everything.max())
    assert (r.low, r.high) == (r.min, r.max)


def test_histogram_doubles_its_span_and_loses_no_value() -> None:
    rng = np.random.default_rng(1)
    batches = [rng.normal(size=20_000).astype(np.float32) * k for k in (0.1, 1.0, 7.0)]
    observer = observe(*batches)
    everything = np.abs(np.concatenate(batches))
    expected, _ = np.histogram(everything, BINS, (0, observer.span))
    assert observer.counts.sum() == everything.size
    assert observer.counts.shape == (BINS,)
    # Values that lie on a bin's edge may fall on either side in float32.
    assert np.abs(np.cumsum(observer.counts) - np.cumsum(expected)).max() <= 5


def test_zeros_first_then_values() -> None:
    observer = observe(np.zeros(100, np.float32), np.ones(10, np.float32))
    assert observer.counts[0] == 100
    assert observer.counts.sum() == 110


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(CalibrationError, match="tensor has values that are not finite"):
        observe(np.array([1.0, bad], np.float32))


def reference_threshold(counts: np.ndarray, span: float, stride: int) -> float:
    """The entropy calibration of TensorRT, with plain loops over groups."""
    counts = counts.astype(np.float64).copy()
    counts[0] = counts[1]
    used = int(np.nonzero(counts)[0].max()) + 1
    best, threshold = np.inf, used
    for stop in sorted({*range(128, used, stride), used}):
        p = counts[:stop].copy()
        p[-1] += counts[stop:].sum()
        q = np.zeros(stop)
        groups = [[i for i in range(stop) if min(i * 128 // stop, 127) == g] for g in range(128)]
        for group in groups:
            filled = [i for i in group if counts[i] > 0]
            for i in filled:
                q[i] = sum(counts[j] for j in group) / len(filled)
        p, q = p / p.sum(), q / q.sum()
        divergence = sum(a * np.log(a / max(b, 1e-6 / stop)) for a, b in zip(p, q, strict=True) if a > 0)
        if divergence < best:
            best, threshold = divergence, stop
    return threshold * span / len(counts)


def test_entropy_matches_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    values = np.abs(rng.laplace(size=50_000)).astype(np.float32)
    values[:3] = 30.0
    observer = observe(values)
    # Coarser bins keep the loops of the reference short.
    observer.counts = observer.counts.reshape(-1, 8).sum(axis=1)
    monkeypatch.setattr("fer_edge.calibration.observers.BINS", len(observer.counts))
    threshold = reference_threshold(observer.counts, observer.span, 16)
    assert entropy_range(observer).high == pytest.approx(threshold, rel=1e-9)


def test_entropy_clips_outliers_and_never_widens() -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(size=200_000).astype(np.float32)
    values[0] = 60.0
    r = entropy_range(observe(values))
    assert r.max == 60.0
    assert 2.0 < r.high < 20.0
    assert r.low == pytest.approx(values.min(), abs=2.5)
    assert r.low >= values.min()


def test_few_distinct_values_are_kept_whole() -> None:
    observer = observe(np.zeros(50, np.float32))
    assert entropy_range(observer).high == 0
    assert set(METHODS) >= {"entropy", "minmax"}

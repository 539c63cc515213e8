"""Observers against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from small_graphs import observe

from fer_edge.calibration.ranges.observers import BINS, Observer
from fer_edge.errors import CalibrationError


def test_minimum_and_maximum_are_exact() -> None:
    rng = np.random.default_rng(0)
    batches = [rng.normal(size=(4, 3, 5)).astype(np.float32) * k for k in (1, 5, 2)]
    observer = observe(*batches)
    everything = np.concatenate([b.ravel() for b in batches])
    assert (observer.minimum, observer.maximum) == (everything.min(), everything.max())


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


def test_memory_does_not_grow_with_the_number_of_images() -> None:
    """The memory of an observer is the same after 2 and after 200 batches of any range."""
    rng = np.random.default_rng(2)

    def held(batches: int) -> int:
        observer = Observer("tensor")
        for i in range(batches):
            observer.update((rng.normal(size=(2, 3, 40)) * (1 + i)).astype(np.float32))
        assert observer.counts.sum() == batches * 240
        arrays = [value for value in vars(observer).values() if isinstance(value, np.ndarray)]
        others = [value for value in vars(observer).values() if not isinstance(value, np.ndarray)]
        assert all(isinstance(value, (str, float)) for value in others)
        assert all(array.base is None for array in arrays)  # no views of larger arrays
        return sum(array.nbytes for array in arrays)

    assert held(2) == held(200) == BINS * 8

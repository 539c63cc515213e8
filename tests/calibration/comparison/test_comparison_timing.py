"""The ratio of two latencies: its interval, its words and the warning about a disturbed timing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fer_edge.calibration.comparison.timing import LatencyComparison, compare_latency, time_in_turn
from fer_edge.errors import DataError
from fer_edge.results import LatencySummary


def runs(median_ms: float, count: int = 60, spread: float = 0.05, seed: int = 0) -> list[float]:
    noise = np.random.default_rng(seed).normal(0, spread, count)
    return list(median_ms * np.exp(noise))


def test_the_interval_holds_the_true_ratio_about_as_often_as_it_says() -> None:
    held = sum(
        found.low <= 2.0 <= found.high
        for seed in range(100)
        for found in [compare_latency(runs(8, seed=seed), runs(4, seed=seed + 1000))]
    )
    assert 88 <= held <= 100  # 95 expected; the bootstrap of a median is a little too wide


def test_pairs_that_are_slow_together_widen_the_interval_less() -> None:
    """The bootstrap is paired: a change of the machine's speed that meets both leaves their ratio alone."""
    speed = np.where(np.arange(60) < 29, 1.0, 3.0)
    fp32, int8 = (np.array(runs(ms, spread=0.01, seed=ms)) * speed for ms in (8, 4))
    paired = compare_latency(list(fp32), list(int8))
    shuffled = compare_latency(list(fp32), list(np.random.default_rng(0).permutation(int8)))
    assert paired.high - paired.low < (shuffled.high - shuffled.low) / 4


@pytest.mark.parametrize(
    ("fp32_ms", "int8_ms", "said"),
    [
        (8, 4, "INT8 is 2.0"),
        (4, 8, "INT8 is slower than FP32: 0.5"),
        (4, 4.01, "no difference of latency beyond noise"),
    ],
)
def test_the_verdict_says_which_is_slower(fp32_ms: float, int8_ms: float, said: str) -> None:
    found = compare_latency(runs(fp32_ms), runs(int8_ms, seed=1))
    assert found.verdict.startswith(said)
    assert f"95 % interval {found.low:.2f} to {found.high:.2f}, 60 runs of each" in found.verdict
    assert "faster" not in found.verdict
    assert found.n == 60


def test_a_busy_machine_and_a_wide_interval_are_warned_of() -> None:
    quiet = LatencySummary(30, 4, 5, 6), LatencySummary(30, 2, 3, 4), 2.0
    assert LatencyComparison(*quiet, 1.95, 2.05, 0.05).warning == ""
    assert LatencyComparison(*quiet, 1.95, 2.05, None).warning == ""
    assert "took 35 % of the processors" in LatencyComparison(*quiet, 1.95, 2.05, 0.35).warning
    assert "interval of their ratio is wide" in LatencyComparison(*quiet, 1.5, 2.5, 0.05).warning


@pytest.mark.parametrize(
    ("fp32_ms", "int8_ms"),
    [([], []), ([1.0], [1.0, 2.0]), ([math.nan], [1.0]), ([1.0], [0.0]), ([-1.0], [1.0])],
)
def test_times_that_are_no_pairs_are_refused(fp32_ms: list[float], int8_ms: list[float]) -> None:
    with pytest.raises(DataError, match="pairs of positive times"):
        compare_latency(fp32_ms, int8_ms)


def test_sessions_take_turns() -> None:
    calls: list[str] = []

    class Recorder:
        def __init__(self, name: str) -> None:
            self.name = name

        def run(self, batch: np.ndarray) -> None:
            calls.append(self.name)

    taken = time_in_turn([Recorder("a"), Recorder("b")], np.zeros(1))  # type: ignore[list-item]
    assert calls == ["a", "b"] * (len(calls) // 2)
    assert len(taken[0]) == len(taken[1]) >= 5

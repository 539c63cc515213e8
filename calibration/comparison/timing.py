"""Interleaved latency measurement of several sessions, and the ratio of two latencies with its interval."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fer_edge.backends import Session
from fer_edge.errors import DataError
from fer_edge.results import LatencySummary, summarise
from fer_edge.system.load import describe_load

_WARM_UP_RUNS = 3
_LATENCY_RUNS = 100
#: A large network gets fewer runs; the report holds the number.
_MIN_RUNS, _LATENCY_BUDGET_S = 5, 3.0
_RESAMPLES = 4000
_PERCENTILES = (2.5, 97.5)
#: Width of the interval relative to the ratio above which the timing was disturbed.
_WIDE = 0.25


def time_in_turn(sessions: Sequence[Session], batch: np.ndarray) -> list[list[float]]:
    """Time the sessions interleaved, so that a change of the machine's speed affects all equally.

    Returns
    -------
    list of list of float
        Milliseconds of each run, for each session; entries of the same index ran one after the other.
    """
    taken: list[list[float]] = [[] for _ in sessions]
    begun = time.perf_counter()
    for _ in range(_WARM_UP_RUNS):
        for session in sessions:
            session.run(batch)
        if time.perf_counter() - begun > _LATENCY_BUDGET_S:
            break
    begun = time.perf_counter()
    for run in range(_LATENCY_RUNS):
        if run >= _MIN_RUNS and time.perf_counter() - begun > _LATENCY_BUDGET_S:
            break
        for session, times in zip(sessions, taken, strict=True):
            started = time.perf_counter()
            session.run(batch)
            times.append((time.perf_counter() - started) * 1e3)
    return taken


@dataclass(frozen=True)
class LatencyComparison:
    """Latencies of FP32 and INT8, measured interleaved, and the ratio of their medians.

    Attributes
    ----------
    fp32, int8 : LatencySummary
        Latencies of one face.
    speedup : float
        p50 of FP32 divided by p50 of INT8; below 1, INT8 is slower.
    low, high : float
        Its 95 % interval, by a paired bootstrap (Efron & Tibshirani, 1993) over the ``n`` pairs of runs. It holds
        for this measurement on this machine: a slow change of the machine's speed is not in it.
    load : float or None
        Share of the processors that other processes took meanwhile; ``None`` if unknown.
    """

    fp32: LatencySummary
    int8: LatencySummary
    speedup: float
    low: float
    high: float
    load: float | None = None

    @property
    def n(self) -> int:
        """Number of pairs of runs."""
        return self.fp32.n

    @property
    def verdict(self) -> str:
        """The ratio, its interval and the number of runs in words."""
        interval = f"95 % interval {self.low:.2f} to {self.high:.2f}, {self.n} runs of each"
        if self.low <= 1 <= self.high:
            return f"no difference of latency beyond noise: FP32 takes {self.speedup:.2f}× the time of INT8 ({interval})"
        if self.speedup > 1:
            return f"INT8 is {self.speedup:.2f}× as fast as FP32 ({interval})"
        return f"INT8 is slower than FP32: {self.speedup:.2f}× as fast ({interval})"

    @property
    def warning(self) -> str:
        """A sentence about a disturbed timing, with a remedy; empty for a quiet one."""
        reason = describe_load(self.load)
        if not reason and self.high - self.low > _WIDE * self.speedup:
            reason = "the interval of their ratio is wide"
        return reason and f"the latencies are uncertain: {reason}. Fix: build again when the machine is idle"


def compare_latency(
    fp32_ms: Sequence[float], int8_ms: Sequence[float], load: float | None = None, seed: int = 0
) -> LatencyComparison:
    """Compare the times of pairs of runs, as :func:`time_in_turn` returns them.

    Raises
    ------
    DataError
        If there are no runs, the two lengths differ, or a time is not a positive number.
    """
    pairs = np.asarray([fp32_ms, int8_ms], np.float64) if len(fp32_ms) == len(int8_ms) else np.zeros((2, 0))
    if not pairs.size or not (np.isfinite(pairs) & (pairs > 0)).all():
        raise DataError(
            f"expected pairs of positive times, found {len(fp32_ms)} of FP32 and {len(int8_ms)} of INT8. "
            "Fix: pass the result of time_in_turn"
        )
    count = pairs.shape[1]
    drawn = np.random.default_rng(seed).integers(count, size=(_RESAMPLES, count))
    medians = np.median(pairs[:, drawn], axis=2)
    low, high = np.percentile(medians[0] / medians[1], _PERCENTILES)
    fp32, int8 = (summarise(times) for times in pairs)
    return LatencyComparison(fp32, int8, fp32.p50_ms / int8.p50_ms, float(low), float(high), load)

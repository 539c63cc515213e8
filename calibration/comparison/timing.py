"""Interleaved latency measurement of several sessions."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from fer_edge.backends import Session
from fer_edge.results import LatencySummary, summarise

_WARM_UP_RUNS = 3
_LATENCY_RUNS = 30
#: A large network gets fewer runs; the report holds the number.
_MIN_RUNS, _LATENCY_BUDGET_S = 5, 3.0


def time_in_turn(sessions: Sequence[Session], batch: np.ndarray) -> list[LatencySummary]:
    """Time the sessions interleaved, so that a change of the machine's speed affects all equally."""
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
    return [summarise(times) for times in taken]

"""Times of the stages of a frame."""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Mapping

from fer_edge.results import LatencySummary, summarise

STAGES = ("detect", "prepare", "classify", "total")
#: Number of timings kept for percentiles.
_HISTORY = 1000


class StageClock:
    """Clock of one frame: :meth:`mark` ends a stage and starts the next."""

    def __init__(self) -> None:
        self._marks = [time.perf_counter()]

    def mark(self) -> None:
        """End a stage."""
        self._marks.append(time.perf_counter())

    def timings_ms(self) -> dict[str, float]:
        """Return stage → milliseconds, after the last stage; ``total`` is their sum."""
        marks = self._marks
        spans = [b - a for a, b in itertools.pairwise(marks)]
        return {name: 1e3 * span for name, span in zip(STAGES, (*spans, marks[-1] - marks[0]), strict=True)}


class StageHistory:
    """Timings of the last frames. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: Mapping[str, deque[float]] = {stage: deque(maxlen=_HISTORY) for stage in STAGES}

    def add(self, timings_ms: Mapping[str, float]) -> None:
        """Add the timings of one frame."""
        with self._lock:
            for stage, value in timings_ms.items():
                self._kept[stage].append(value)

    def summaries(self) -> dict[str, LatencySummary]:
        """Return n, p50, p90 and p99 of each stage."""
        with self._lock:
            kept = {stage: list(values) for stage, values in self._kept.items()}
        return {stage: summarise(values) for stage, values in kept.items()}

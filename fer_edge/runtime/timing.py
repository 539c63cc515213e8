"""Timing of one candidate, and the time per face that ranks candidates.

The time per face is the mean of the median for one face and a quarter of the median for four faces in one call. Equal
weights keep a candidate that is fast only for single faces from winning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fer_edge.runtime.choice import Candidate

#: Faces per larger call.
SEVERAL = 4
#: Minimum relative gain over the plain choice.
MIN_GAIN = 0.05
_RESAMPLES = 500
_PERCENTILES = (2.5, 97.5)
_MIN_SPREAD_CALLS = 10


@dataclass(frozen=True)
class Timing:
    """Timing of one candidate.

    Attributes
    ----------
    candidate : Candidate
        The timed configuration.
    state : str
        ``measured``, ``dropped`` after its first run, or ``left out``.
    reason : str
        Reason why it was left out or dropped.
    one_face_ms, four_faces_ms : float or None
        Medians of calls with one and with four faces; the first run of a dropped candidate.
    n : int
        Number of calls of each size.
    spread : float or None
        p90 of the calls with one face divided by their median; ``None`` for fewer than 10 calls.
    """

    candidate: Candidate
    state: str
    reason: str = ""
    one_face_ms: float | None = None
    four_faces_ms: float | None = None
    n: int = 0
    spread: float | None = None

    @property
    def face_ms(self) -> float | None:
        """Time per face; ``None`` if not measured."""
        if self.one_face_ms is None or self.four_faces_ms is None:
            return None
        return time_per_face(self.one_face_ms, self.four_faces_ms)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {**asdict(self), "face_ms": self.face_ms}


def time_per_face(one_face_ms: float, four_faces_ms: float) -> float:
    """Return the time per face of a candidate from its two medians."""
    return (one_face_ms + four_faces_ms / SEVERAL) / 2


def ratio_interval(
    calls_ms: tuple[Sequence[float], Sequence[float]], plain_ms: tuple[Sequence[float], Sequence[float]]
) -> tuple[float, float]:
    """Return the 95 % interval of a candidate's time per face divided by that of the plain choice.

    Parameters
    ----------
    calls_ms, plain_ms : tuple of two sequences
        Calls with one and with four faces. Entries of the same index are from the same round: the bootstrap
        (Efron & Tibshirani, 1993) draws rounds, so that a change of the machine's speed affects both.
    """
    count = min(map(len, (*calls_ms, *plain_ms)))
    drawn = np.random.default_rng(0).integers(count, size=(_RESAMPLES, count))
    times = []
    for calls in (calls_ms, plain_ms):
        one, several = (np.median(np.asarray(c)[drawn], axis=1) for c in calls)
        times.append((one + several / SEVERAL) / 2)
    low, high = np.percentile(times[0] / times[1], _PERCENTILES)
    return float(low), float(high)


def spread_of(calls_ms: Sequence[float]) -> float | None:
    """Return p90 over the median; ``None`` for fewer than 10 calls."""
    if len(calls_ms) < _MIN_SPREAD_CALLS:
        return None
    p50, p90 = np.percentile(calls_ms, (50, 90))
    return round(float(p90 / p50), 3) if p50 > 0 else None

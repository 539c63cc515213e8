"""Timing of one candidate, and the time per face that ranks candidates.

The time per face is the mean of the median for one face and a quarter of the median for four faces in one call. Equal
weights keep a candidate that is fast only for single faces from winning.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from fer_edge.runtime.choice import Candidate

#: Faces per larger call.
SEVERAL = 4


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
    """

    candidate: Candidate
    state: str
    reason: str = ""
    one_face_ms: float | None = None
    four_faces_ms: float | None = None
    n: int = 0

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

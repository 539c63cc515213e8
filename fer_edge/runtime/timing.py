"""The measurement of one candidate, and the figure that compares candidates.

The figure is the time per face: the mean of the median for one face, and a quarter of the median for four faces in
one call. Both count alike, so that what is fast for single faces only does not win at the cost of frames with several.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from fer_edge.runtime.choice import Candidate

#: Faces of the larger call.
SEVERAL = 4


@dataclass(frozen=True)
class Timing:
    """What was found of one candidate.

    Attributes
    ----------
    candidate : Candidate
        See there.
    state : str
        ``measured``; ``dropped`` by its first run; ``left out`` for ``reason``.
    reason : str
        Why it was left out or dropped.
    one_face_ms, four_faces_ms : float or None
        Medians of calls with one and with four faces; of a dropped one its first run.
    n : int
        Calls of each.
    """

    candidate: Candidate
    state: str
    reason: str = ""
    one_face_ms: float | None = None
    four_faces_ms: float | None = None
    n: int = 0

    @property
    def face_ms(self) -> float | None:
        """The figure by which candidates are compared; ``None`` where it was not measured."""
        if self.one_face_ms is None or self.four_faces_ms is None:
            return None
        return time_per_face(self.one_face_ms, self.four_faces_ms)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {**asdict(self), "face_ms": self.face_ms}


def time_per_face(one_face_ms: float, four_faces_ms: float) -> float:
    """Return the figure of a candidate from its two medians."""
    return (one_face_ms + four_faces_ms / SEVERAL) / 2

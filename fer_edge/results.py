"""Results of the runtime: frozen dataclasses that convert to plain JSON types."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

Box = tuple[float, float, float, float]


class RuntimeState(str, enum.Enum):
    """Health of the runtime."""

    RUNNING = "running"
    DEGRADED = "degraded"
    FAILED = "failed"


class EventKind(str, enum.Enum):
    """Change of a track."""

    APPEARED = "appeared"
    LEFT = "left"
    LABEL_CHANGED = "label_changed"


@dataclass(frozen=True)
class Event:
    """A change of one track between two frames.

    Attributes
    ----------
    kind : EventKind
        Kind of change.
    track_id : int
        Track that changed.
    at_s : float
        Time of the frame, see :attr:`fer_edge.frames.Frame.time_s`.
    label, previous_label : str or None
        Steady label after and before the change; ``None`` if there was none.
    """

    kind: EventKind
    track_id: int
    at_s: float
    label: str | None = None
    previous_label: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {**asdict(self), "kind": self.kind.value, "at_s": round(self.at_s, 6)}


@dataclass(frozen=True)
class Detection:
    """One face found in a frame.

    Attributes
    ----------
    box_xyxy : tuple of float
        Left, top, right, bottom in pixels, inside the frame.
    score : float
        The detector's confidence in [0, 1].
    landmarks : np.ndarray or None
        ``[5, 2]`` float32 pixels: eyes, nose, mouth corners, left of the image first.
    roll_deg : float
        Clockwise turn of the face in the image plane, as far as the detector measures it. The box of a turned face has
        the sides that it would have upright, about the same centre.
    """

    box_xyxy: Box
    score: float
    landmarks: np.ndarray | None = None
    roll_deg: float = 0.0


@dataclass(frozen=True)
class Face:
    """One face and its apparent expression.

    ``label`` is ``None`` if the expression is not certain enough; ``reason`` then says why.
    ``attention`` is ``[h, w]`` float32 in [0, 1] over ``crop_xyxy``, the rectangle that the network classified, which
    may extend beyond the frame; ``None`` unless the runtime computes attention.

    With tracking, ``track_id`` identifies the face over frames, ``label`` and ``probabilities`` are smoothed over time,
    and ``stable_for_ms`` tells how long the label has held. ``classified_at_s`` is the time of the last frame whose crop
    the network classified (:attr:`fer_edge.frames.Frame.time_s`); ``None`` if there was none.
    """

    box_xyxy: Box
    detection_score: float
    label: str | None
    probability: float
    probabilities: Mapping[str, float]
    landmarks: np.ndarray | None = None
    track_id: int | None = None
    reason: str | None = None
    attention: np.ndarray | None = None
    crop_xyxy: Box | None = None
    stable_for_ms: float | None = None
    classified_at_s: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; pixels to one decimal, probabilities to four, attention to three.

        ``attention`` and ``crop_xyxy`` are present only if the runtime computes attention.
        """
        value: dict[str, Any] = {
            "box_xyxy": [round(float(v), 1) for v in self.box_xyxy],
            "detection_score": round(float(self.detection_score), 4),
            "track_id": self.track_id,
            "label": self.label,
            "probability": round(self.probability, 4),
            "probabilities": {name: round(p, 4) for name, p in self.probabilities.items()},
            "reason": self.reason,
            "stable_for_ms": None if self.stable_for_ms is None else round(self.stable_for_ms, 1),
            "classified_at_s": None if self.classified_at_s is None else round(self.classified_at_s, 6),
            "landmarks": None if self.landmarks is None else self.landmarks.astype(float).round(1).tolist(),
        }
        if self.attention is not None and self.crop_xyxy is not None:
            value["attention"] = self.attention.astype(float).round(3).tolist()
            value["crop_xyxy"] = [round(float(v), 1) for v in self.crop_xyxy]
        return value


@dataclass(frozen=True)
class FrameResult:
    """All faces of one frame, with the time each stage took and the changes of tracks since the frame before.

    ``captured_at_s`` is ``time.monotonic()`` at capture, ``media_time_s`` the position in a video file. ``more_faces`` is
    ``True`` if the detector or the tracker reached its largest number of faces: the frame may show more.
    """

    index: int
    captured_at_s: float
    frame_age_ms: float
    dropped: int
    faces: tuple[Face, ...]
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    state: RuntimeState = RuntimeState.RUNNING
    source: str = ""
    events: tuple[Event, ...] = ()
    media_time_s: float | None = None
    more_faces: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "index": self.index,
            "source": self.source,
            "captured_at_s": round(self.captured_at_s, 6),
            "media_time_s": None if self.media_time_s is None else round(self.media_time_s, 6),
            "frame_age_ms": round(self.frame_age_ms, 3),
            "dropped": self.dropped,
            "state": self.state.value,
            "faces": [face.to_dict() for face in self.faces],
            "more_faces": self.more_faces,
            "events": [event.to_dict() for event in self.events],
            "timings_ms": {name: round(v, 3) for name, v in self.timings_ms.items()},
        }

    def annotate(self, frame_bgr: np.ndarray, *, landmarks: bool = False) -> np.ndarray:
        """Return a copy of the frame ``[H, W, 3]`` uint8 BGR with boxes and labels: :func:`fer_edge.annotate`."""
        from fer_edge.drawing.annotate import annotate  # loads OpenCV, which results do not need

        return annotate(frame_bgr, self, landmarks=landmarks)


@dataclass(frozen=True)
class LatencySummary:
    """Percentiles of ``n`` latencies, in milliseconds."""

    n: int
    p50_ms: float
    p90_ms: float
    p99_ms: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, rounded to a microsecond; ``None`` for values that were not measured."""
        return {name: None if math.isnan(value) else round(value, 3) for name, value in asdict(self).items()}


def summarise(latencies_ms: Sequence[float]) -> LatencySummary:
    """Return n, p50, p90 and p99; the percentiles of no latencies are NaN."""
    if not len(latencies_ms):
        return LatencySummary(0, float("nan"), float("nan"), float("nan"))
    p50, p90, p99 = np.percentile(np.asarray(latencies_ms, np.float64), (50, 90, 99))
    return LatencySummary(len(latencies_ms), float(p50), float(p90), float(p99))

"""Schedule of a stream: when the whole frame is searched for faces, and which tracks the network classifies again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fer_edge._utils.checks import require_number, require_whole
from fer_edge.detection.base import Effort
from fer_edge.tracking.change import CHANGED_DISTANCE

MAX_INTERVAL_MS = 60_000
_MAX_FACES = 4096


@dataclass(frozen=True)
class ScheduleOptions:
    """Intervals of detection and classification; 0 means every frame.

    Attributes
    ----------
    detect_every_ms : float
        Longest time between two searches of the whole frame. A face that enters is found after this time at the latest.
    follow_every_ms : float
        Longest time between two searches of the surroundings of each face, in between. The frames between those have
        the predicted boxes.
    classify_every_ms : float
        Longest time between two classifications of a track.
    settle_every_ms : float
        The same for a track that is new, has just changed visibly, or whose label is about to change; and the longest
        time between two searches while a track is not found or not confirmed.
    change : float
        Distance between the crop of the last classification and that of now, above which a track has changed visibly
        (:func:`fer_edge.tracking.change.patch_distance`): it is classified at once, but for this reason not again
        within ``settle_every_ms``.
    max_faces : int or None
        Largest number of faces classified in one frame; the others wait for the next frames. ``None``: no limit.
    """

    detect_every_ms: float = 330.0
    follow_every_ms: float = 60.0
    classify_every_ms: float = 400.0
    settle_every_ms: float = 60.0
    change: float = CHANGED_DISTANCE
    max_faces: int | None = None

    def __post_init__(self) -> None:
        for name in ("detect_every_ms", "follow_every_ms", "classify_every_ms", "settle_every_ms"):
            require_number(name, getattr(self, name), 0, MAX_INTERVAL_MS)
        require_number("change", self.change, 0, 1e6)
        require_whole("max_faces", self.max_faces, 1, _MAX_FACES, optional=True)


@dataclass(frozen=True)
class Candidate:
    """A track that could be classified in this frame.

    Attributes
    ----------
    track_id : int
        The track.
    classified_at_s : float or None
        Time of its last classification; ``None`` for a new track, or one whose face was hidden.
    is_unsettled : bool
        Its label may change soon.
    has_changed : bool
        Its crop differs visibly from the last classified one: it is due.
    """

    track_id: int
    classified_at_s: float | None
    is_unsettled: bool = False
    has_changed: bool = False


def due_tracks(candidates: Sequence[Candidate], at_s: float, options: ScheduleOptions) -> list[int]:
    """Return the tracks to classify now, at most ``max_faces``: new ones first, then changed ones, then by age.

    As the oldest come first, no track waits for ever: with F faces and a limit of m, each is classified in
    every ⌈F / m⌉-th frame in which all are due.
    """
    ranked = []
    for candidate in candidates:
        if candidate.classified_at_s is None:
            ranked.append((0, 0.0, candidate.track_id))
            continue
        age_ms = (at_s - candidate.classified_at_s) * 1e3
        interval_ms = options.classify_every_ms
        if candidate.is_unsettled:
            interval_ms = min(interval_ms, options.settle_every_ms)
        # A clock that stands still or jumped back makes a track due.
        if candidate.has_changed or age_ms <= 0 or age_ms >= interval_ms - _SLACK_MS:
            waited = -age_ms if age_ms > 0 else float("-inf")
            # A change hurries a track, but only until another one has waited too long.
            late = age_ms >= 2 * options.classify_every_ms
            ranked.append((1 if candidate.has_changed or late else 2, waited, candidate.track_id))
    ranked.sort()
    return [track_id for *_, track_id in ranked[: options.max_faces]]


# Frames come at intervals that vary by a few milliseconds: an interval of 100 ms must not miss every third frame of a
# camera at 30 frames/s.
_SLACK_MS = 5.0


class DetectionSchedule:
    """Decides for each frame of a stream whether, and how thoroughly, the whole frame is searched for faces."""

    def __init__(self, options: ScheduleOptions) -> None:
        self._options = options
        self._searched_at_s: float | None = None
        self._followed_at_s = -math.inf
        self._thorough_at_s: float | None = None

    def effort(self, at_s: float, uncertain: bool) -> Effort | None:
        """Return the effort of the search that is due, or ``None``.

        A thorough one is due for the first frame, after ``detect_every_ms``, and if the clock stands still or
        jumped back. If a
        track is uncertain, a quick one is due after ``settle_every_ms``: a face that is hidden for a second must not
        cost a search of every frame.
        """
        if self._searched_at_s is None or self._thorough_at_s is None:
            return Effort.THOROUGH
        age_ms = (at_s - self._thorough_at_s) * 1e3
        if age_ms <= 0 or age_ms >= self._options.detect_every_ms - _SLACK_MS:
            return Effort.THOROUGH
        age_ms = (at_s - self._searched_at_s) * 1e3
        return Effort.QUICK if uncertain and age_ms >= self._options.settle_every_ms - _SLACK_MS else None

    def is_follow_due(self, at_s: float) -> bool:
        """Return ``True`` if the surroundings of the faces are to be searched."""
        age_ms = (at_s - self._followed_at_s) * 1e3
        return age_ms <= 0 or age_ms >= self._options.follow_every_ms - _SLACK_MS

    def followed(self, at_s: float) -> None:
        """Record that the surroundings of the faces were searched."""
        self._followed_at_s = at_s

    def detected(self, at_s: float, effort: Effort | None) -> None:
        """Record that the frame of ``at_s`` was searched; an effort of ``None`` was not due, and counts as thorough."""
        self._searched_at_s = self._followed_at_s = at_s
        if effort is not Effort.QUICK:
            self._thorough_at_s = at_s

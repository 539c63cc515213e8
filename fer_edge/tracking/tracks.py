"""Tracks of one frame, as a tracker returns them."""

from __future__ import annotations

from dataclasses import dataclass

from fer_edge.results import Detection


@dataclass(frozen=True)
class Track:
    """One track at one time.

    Attributes
    ----------
    track_id : int
        Number of the track, at least 1. A tracker never uses a number again.
    detection : Detection
        Box, score and landmarks in this frame. Of a face that was not seen: the predicted box inside the frame,
        the last score, no landmarks.
    is_seen : bool
        ``True`` if the face was detected or refined in this frame.
    first_seen_s, last_seen_s : float
        Times of the first and the last frame in which the face was seen.
    was_occluded : bool
        ``True`` in the first frame with the face after at least one without: its smoothing restarts.
    """

    track_id: int
    detection: Detection
    is_seen: bool
    first_seen_s: float
    last_seen_s: float
    was_occluded: bool


@dataclass(frozen=True)
class TrackerUpdate:
    """Tracks of one frame.

    Attributes
    ----------
    tracks : tuple of Track
        Confirmed tracks whose faces were seen in this frame, largest first.
    appeared, left : tuple of int
        Tracks confirmed and confirmed tracks ended in this frame.
    uncertain : bool
        ``True`` if a track was not found or not confirmed yet, or two could be confused: detect in the next frame.
    """

    tracks: tuple[Track, ...]
    appeared: tuple[int, ...]
    left: tuple[int, ...]
    uncertain: bool

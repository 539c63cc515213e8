"""Options of tracks: association, and all options of a stream together."""

from __future__ import annotations

from dataclasses import dataclass, field

from fer_edge._utils.checks import require_number, require_whole
from fer_edge.errors import UsageError
from fer_edge.tracking.schedule import ScheduleOptions
from fer_edge.tracking.smoothing import SmoothingOptions

_MAX_GAP_MS = 60_000
_MAX_TRACKS = 1024


@dataclass(frozen=True)
class TrackerOptions:
    """Options of :class:`fer_edge.tracking.tracker.Tracker`.

    Attributes
    ----------
    max_gap_ms : float
        Longest time without a sighting after which a face is still the same track: the occlusion that is survived.
    border_gap_ms : float
        The same for a face that was last seen at the border of the frame and moved outwards, and for a track that is
        not confirmed.
    min_hits : int
        Detections that confirm a track. With 1, every false detection is a track.
    sure_score : float
        A detection with at least this score confirms its track at once; 1: none does.
    min_new_score : float
        Smallest score of a detection that starts a track; weaker ones only continue a track.
    max_new_overlap : float
        A detection that overlaps a face of the same frame by more (intersection over union) starts no track: it is
        a second box of that face.
    max_speed : float
        Fastest movement between two sightings, beyond the predicted one, in face sizes per second.
    max_size_ratio : float
        Largest ratio of a detection's size and the predicted size.
    max_tracks : int
        Bound of memory and time: tracks at once, and detections of one frame, those with the best score. While there
        are as many tracks, new faces start none.
    """

    max_gap_ms: float = 1000.0
    border_gap_ms: float = 200.0
    min_hits: int = 2
    sure_score: float = 0.85
    min_new_score: float = 0.0
    max_new_overlap: float = 0.5
    max_speed: float = 4.0
    max_size_ratio: float = 1.8
    max_tracks: int = 64

    def __post_init__(self) -> None:
        require_number("max_gap_ms", self.max_gap_ms, 0, _MAX_GAP_MS)
        require_number("border_gap_ms", self.border_gap_ms, 0, _MAX_GAP_MS)
        require_whole("min_hits", self.min_hits, 1, 100)
        require_number("sure_score", self.sure_score, 0, 1)
        require_number("min_new_score", self.min_new_score, 0, 1)
        require_number("max_new_overlap", self.max_new_overlap, 0, 1)
        require_number("max_speed", self.max_speed, 0, 1000)
        require_number("max_size_ratio", self.max_size_ratio, 1, 100)
        require_whole("max_tracks", self.max_tracks, 1, _MAX_TRACKS)


@dataclass(frozen=True)
class TrackingOptions:
    """Options of tracks, steady labels and schedule of a stream.

    Attributes
    ----------
    tracker : TrackerOptions
        Which detections continue a track.
    smoothing : SmoothingOptions
        How the label of a track follows its classifications.
    schedule : ScheduleOptions
        When frames are searched and tracks are classified.
    """

    tracker: TrackerOptions = field(default_factory=TrackerOptions)
    smoothing: SmoothingOptions = field(default_factory=SmoothingOptions)
    schedule: ScheduleOptions = field(default_factory=ScheduleOptions)

    def __post_init__(self) -> None:
        for name, kind in (
            ("tracker", TrackerOptions),
            ("smoothing", SmoothingOptions),
            ("schedule", ScheduleOptions),
        ):
            if not isinstance(getattr(self, name), kind):
                raise UsageError(
                    f"{name} must be {kind.__name__}, found {getattr(self, name)!r:.60}. Fix: give {kind.__name__}(…)"
                )

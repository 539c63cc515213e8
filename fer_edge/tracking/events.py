"""Events of the tracks of one stream: appeared, label changed, left."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fer_edge.errors import UsageError
from fer_edge.results import Event, EventKind


class TrackEvents:
    """Comparison of the tracks and their labels in a frame with those before. Not thread-safe.

    It holds the label of each track that is present, thus no more than the tracker holds tracks.
    """

    def __init__(self) -> None:
        self._labels: dict[int, str | None] = {}

    @property
    def present(self) -> frozenset[int]:
        """Tracks that have appeared and not left."""
        return frozenset(self._labels)

    def update(
        self,
        at_s: float,
        *,
        appeared: Iterable[int] = (),
        labels: Mapping[int, str | None] | None = None,
        left: Iterable[int] = (),
    ) -> tuple[Event, ...]:
        """Return the events of one frame, in the order appeared, label changed, left.

        Parameters
        ----------
        at_s : float
            Capture time of the frame.
        appeared, left : iterable of int
            Identifiers of the tracks that begin and end with this frame. The event ``left`` has the last label as
            ``previous_label``.
        labels : mapping
            Track → its steady label; a track that is not in it keeps its label. The first label of a track is a change
            from ``None``, and a label that is lost a change to ``None``.

        Raises
        ------
        UsageError
            If a track appears twice, or has a label or leaves before it has appeared; nothing is changed then.
        """
        appeared, left, labels = tuple(appeared), tuple(left), labels or {}
        self._require_consistent(appeared, labels, left)
        events = [Event(EventKind.APPEARED, track_id, at_s) for track_id in appeared]
        self._labels.update(dict.fromkeys(appeared))
        for track_id, label in labels.items():
            previous = self._labels[track_id]
            if label != previous:
                events.append(Event(EventKind.LABEL_CHANGED, track_id, at_s, label, previous))
                self._labels[track_id] = label
        for track_id in left:
            previous = self._labels.pop(track_id)
            events.append(Event(EventKind.LEFT, track_id, at_s, None, previous))
        return tuple(events)

    def _require_consistent(
        self, appeared: tuple[int, ...], labels: Mapping[int, str | None], left: tuple[int, ...]
    ) -> None:
        begun = set(appeared)
        if len(begun) < len(appeared) or begun & self._labels.keys():
            raise UsageError(
                f"expected new tracks to appear, found {list(appeared)} with {sorted(self._labels)} present. "
                "Fix: give each track once, and give its identifier to no other"
            )
        present = begun | self._labels.keys()
        if (unknown := (set(labels) | set(left)) - present) or len(set(left)) < len(left):
            raise UsageError(
                f"expected labels and ends of tracks that have appeared, found {sorted(unknown or left)}. "
                "Fix: give each track to appeared first, and once to left"
            )

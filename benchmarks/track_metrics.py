"""Metrics of tracks against known faces: identity switches, misses, false tracks, fragmentations, MOTA, IDF1.

Used by tracking.py. The CLEAR metrics: Bernardin and Stiefelhagen, EURASIP J. Image and Video Processing, 2008. IDF1: Ristani
et al., ECCV workshops, 2016.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from fer_edge.tracking.association import assign, overlaps

#: Number → box.
Boxes = Mapping[int, Sequence[float]]
#: Overlap of a track's box and a face's box, from which the track is right in a frame.
MIN_OVERLAP = 0.5
#: Overlap with a face that is mostly hidden, from which a track's box is neither right nor wrong.
IGNORED_OVERLAP = 0.3


@dataclass(frozen=True)
class TrackCounts:
    """Counts over one or more sequences.

    Attributes
    ----------
    faces : int
        Visible faces, summed over frames.
    misses, false_boxes : int
        Visible faces without a track, and boxes of tracks without a face, summed over frames.
    switches : int
        Times at which the track of a person is not the one that the person had before.
    fragmentations : int
        Times at which a person is found again after frames in which it was visible and missed.
    tracks, false_tracks : int
        Number of tracks, and number of tracks that are wrong in more than half of their frames.
    identity_hits, boxes : int
        Frames in which persons have the one track that fits them best over the sequence, and boxes of tracks.
    """

    faces: int = 0
    misses: int = 0
    false_boxes: int = 0
    switches: int = 0
    fragmentations: int = 0
    tracks: int = 0
    false_tracks: int = 0
    identity_hits: int = 0
    boxes: int = 0

    def __add__(self, other: TrackCounts) -> TrackCounts:
        return TrackCounts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @property
    def mota(self) -> float:
        """Return 1 − (misses + false boxes + switches) / faces."""
        return 1 - (self.misses + self.false_boxes + self.switches) / max(self.faces, 1)

    @property
    def idf1(self) -> float:
        """Return the F1 score of identities."""
        return 2 * self.identity_hits / max(self.faces + self.boxes, 1)


def count(frames: Iterable[tuple[Boxes, Boxes, Boxes]]) -> TrackCounts:
    """Return the counts of one sequence.

    Parameters
    ----------
    frames : iterable
        For each frame: visible faces by person, mostly hidden faces by person, and boxes by track.
    """
    faces = misses = false_boxes = switches = fragmentations = 0
    last: dict[int, int] = {}  # person → its last track
    missed: set[int] = set()  # persons that were visible and not found when last visible
    together: Counter[tuple[int, int]] = Counter()
    right: Counter[int] = Counter()
    wrong: Counter[int] = Counter()
    for visible, hidden, tracks in frames:
        persons, numbers = list(visible), list(tracks)
        shared = _overlaps(visible, tracks)
        pairs = _continued(shared, persons, numbers, last)
        faces += len(persons)
        for person, number in pairs.items():
            switches += person in last and last[person] != number
            fragmentations += person in missed
            last[person] = number
        missed = (missed | set(persons)) - set(pairs)
        missed &= set(last)  # the time before a person is first found is no gap
        misses += len(persons) - len(pairs)
        for i, j in np.argwhere(shared >= MIN_OVERLAP):
            together[persons[i], numbers[j]] += 1
        near_hidden = (_overlaps(hidden, tracks) >= IGNORED_OVERLAP).any(axis=0)
        for j, number in enumerate(numbers):
            if number in pairs.values():
                right[number] += 1
            elif not near_hidden[j]:
                wrong[number] += 1
                false_boxes += 1
    persons, numbers = sorted({p for p, _ in together}), sorted({n for _, n in together})
    table = np.array([[-together[p, n] for n in numbers] for p in persons], float).reshape(len(persons), -1)
    hits = int(-sum(table[pair] for pair in assign(table)))
    ever = set(right) | set(wrong)
    return TrackCounts(
        faces,
        misses,
        false_boxes,
        switches,
        fragmentations,
        len(ever),
        sum(wrong[number] > right[number] for number in ever),
        hits,
        sum(right.values()) + sum(wrong.values()),
    )


def _overlaps(rows: Boxes, columns: Boxes) -> np.ndarray:
    a, b = (np.array(list(boxes.values()), float).reshape(-1, 4) for boxes in (rows, columns))
    return overlaps(a, b)


def _continued(
    shared: np.ndarray, persons: list[int], numbers: list[int], last: Mapping[int, int]
) -> dict[int, int]:
    """Return person → track: those of the frame before as long as they fit, the others by most overlap."""
    gains = np.where(shared >= MIN_OVERLAP, shared, -np.inf)
    for i, person in enumerate(persons):
        if last.get(person) in numbers:
            gains[i, numbers.index(last[person])] += 10
    return {persons[i]: numbers[j] for i, j in assign(-gains)}

"""Tracks of faces: the same number for the same face over frames."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fer_edge._utils.checks import is_number, require_whole
from fer_edge.errors import UsageError
from fer_edge.results import Box, Detection
from fer_edge.tracking.association import assign, overlaps
from fer_edge.tracking.border import leaving_tracks, pair_states
from fer_edge.tracking.likelihood import is_ambiguous, pair_costs
from fer_edge.tracking.motion import Motion, box_of, corners, measured
from fer_edge.tracking.options import TrackerOptions
from fer_edge.tracking.tracks import Track, TrackerUpdate

__all__ = ["Track", "Tracker", "TrackerOptions", "TrackerUpdate"]

#: Cost below which a detection continues a track rather than being a new face.
_NEW_FACE_COST = 2.0
#: Advantage in cost of a track that was seen in the frame before: while one face hides another, the detection does not
#: jump to the hidden one.
_SEEN_BONUS = 3.0
#: A second assignment whose cost is closer to the best than this is plausible too.
_AMBIGUOUS_MARGIN = 3.0
#: Two boxes found between detections that overlap by more are of one face.
_SAME_FACE_OVERLAP = 0.6
#: Distance from the prediction, in face sizes, that every box may have; two false boxes are rarely as near.
_NEAR = 0.6


@dataclass
class _Record:
    """One track, beside its motion."""

    track_id: int
    first_seen_s: float
    last_seen_s: float
    detection: Detection
    hits: int = 1
    misses: int = 0
    unseen_s: float = 0.0
    is_confirmed: bool = False
    was_occluded: bool = False


class Tracker:
    """Tracker of faces by their motion, for frames at any times. Not thread-safe.

    A Kalman filter predicts each box from centre, size and decaying velocities. Detections are assigned to tracks
    with the least sum of negative log-likelihoods (Bar-Shalom, Willett and Tian, Tracking and Data Fusion, 2011), so
    a face that has been hidden for long competes less for a detection than one that was just seen. A track that was
    seen in the frame before goes first, so that a detection does not jump to a hidden face.

    ``at_s`` may repeat and be irregular: all bounds are times. If it jumps ahead by more than ``max_gap_ms``, all
    tracks end. If it jumps back by more, or the frame size changes, the stream has restarted, and all tracks end too;
    a smaller step back counts as no time.

    Parameters
    ----------
    options : TrackerOptions, optional
        Options; default: those of :class:`TrackerOptions`.
    """

    def __init__(self, options: TrackerOptions | None = None) -> None:
        self.options = options or TrackerOptions()
        self._motion = Motion()
        self._records: list[_Record] = []
        self._next_id = 1
        self._at_s: float | None = None
        self._frame_size = (0, 0)

    @property
    def tracks(self) -> tuple[Track, ...]:
        """Confirmed tracks, also those not seen in the last frame, largest first."""
        return self._described(record.is_confirmed for record in self._records)

    def update(
        self, detections: Sequence[Detection], at_s: float, frame_size: tuple[int, int]
    ) -> TrackerUpdate:
        """Continue tracks with the detections of a whole frame, and start tracks of new faces.

        Parameters
        ----------
        detections : sequence of Detection
            All faces found, in any order.
        at_s : float
            Capture time of the frame in seconds.
        frame_size : tuple of int
            Width and height of the frame in pixels.

        Raises
        ------
        UsageError
            If a box is not finite or empty, or the time is not a finite number.
        """
        boxes = _boxes(detections)
        # In an order of their own, so that the result does not depend on the order in which they are given.
        order = np.lexsort((*boxes.T, [-d.score for d in detections]))[: self.options.max_tracks]
        found, boxes = [detections[i] for i in order], boxes[order]
        left = self._advance(at_s, frame_size)
        states = pair_states(self._motion.position, boxes, frame_size)
        costs = self._costs(states)
        unseen = np.array([record.misses > 1 for record in self._records], bool)
        pairs = assign(costs - _NEW_FACE_COST - np.where(unseen, 0.0, _SEEN_BONUS)[:, None])
        uncertain = is_ambiguous(costs, pairs, _AMBIGUOUS_MARGIN)
        for row, _ in pairs:
            self._records[row].hits += 1
        self._see(pairs, found, states)
        left += self._end_lost()
        self._start(found, boxes, [column for _, column in pairs])
        return self._result(left, uncertain)

    def predict(self, at_s: float) -> Mapping[int, Box]:
        """Return the predicted box of each track that is alive at ``at_s``; boxes may extend beyond the frame."""
        elapsed = self._elapsed(at_s)
        if elapsed is None:
            return {}
        boxes = corners(self._motion.predicted(elapsed))
        return {
            record.track_id: box_of(box)
            for record, box in zip(self._records, boxes, strict=True)
            if record.unseen_s + elapsed <= self.options.max_gap_ms / 1000
        }

    def carry(
        self, found: Mapping[int, Detection | None], at_s: float, frame_size: tuple[int, int]
    ) -> TrackerUpdate:
        """Continue tracks in a frame between detections.

        Parameters
        ----------
        found : mapping
            Track → its face in this frame, or ``None`` if it was lost; a track that is left out is lost. A box
            that does not fit the motion of its track, or that is the face of another track, counts as lost.
        at_s, frame_size : float, tuple of int
            As for :meth:`update`.

        Raises
        ------
        UsageError
            As from :meth:`update`, and if a key is not a track that is alive.
        """
        alive = {record.track_id for record in self._records}
        for track_id in found:
            if track_id not in alive:
                raise UsageError(
                    f"found must have keys that predict() returned, found {track_id!r:.60}. Fix: leave it out"
                )
        given = {track_id: detection for track_id, detection in found.items() if detection is not None}
        boxes = _boxes(list(given.values()))
        left = self._advance(at_s, frame_size)
        rows = {record.track_id: row for row, record in enumerate(self._records)}
        states = pair_states(self._motion.position, boxes, frame_size)
        costs = self._costs(states)
        own = [(rows[track_id], column) for column, track_id in enumerate(given) if track_id in rows]
        together = overlaps(boxes, boxes) > _SAME_FACE_OVERLAP
        pairs: list[tuple[int, int]] = []
        for row, column in sorted(own, key=lambda pair: (costs[pair], pair)):
            taken = [other for _, other in pairs]
            if np.isfinite(costs[row, column]) and not together[column, taken].any():
                pairs.append((row, column))
        self._see(pairs, list(given.values()), states)
        left += self._end_lost()
        return self._result(left, uncertain=False)

    def _elapsed(self, at_s: float) -> float | None:
        """Return the time since the last frame, at least 0; ``None`` if the stream has restarted."""
        if not is_number(at_s):
            raise UsageError(
                f"at_s must be a finite number of seconds, found {at_s!r:.60}. Fix: give the capture time"
            )
        elapsed = 0.0 if self._at_s is None else float(at_s) - self._at_s
        return None if elapsed < -self.options.max_gap_ms / 1000 else max(elapsed, 0.0)

    def _advance(self, at_s: float, frame_size: tuple[int, int]) -> list[int]:
        """Predict all tracks; return those that end because nothing of them was seen for too long."""
        elapsed = self._elapsed(at_s)
        width, height = frame_size
        require_whole("frame width", width, 1, 1 << 20)
        require_whole("frame height", height, 1, 1 << 20)
        restarted = elapsed is None or (self._at_s is not None and (width, height) != self._frame_size)
        self._at_s, self._frame_size = float(at_s), (int(width), int(height))
        for record in self._records:
            record.unseen_s += elapsed or 0.0
            record.misses += 1
            record.was_occluded = False
        if restarted:
            return self._end(np.ones(len(self._records), bool))
        unseen_s = np.array([record.unseen_s for record in self._records])
        left = self._end(unseen_s > self.options.max_gap_ms / 1000)
        self._motion.advance(elapsed or 0.0)
        return left

    def _costs(self, states: np.ndarray) -> np.ndarray:
        unseen_s = np.array([record.unseen_s for record in self._records])
        confirmed = np.array([record.is_confirmed for record in self._records], bool)
        reach = _NEAR + np.where(confirmed, self.options.max_speed * unseen_s, 0.0)
        return pair_costs(self._motion, states, reach, self.options.max_size_ratio)

    def _see(self, pairs: Sequence[tuple[int, int]], found: Sequence[Detection], states: np.ndarray) -> None:
        """Correct the tracks of ``pairs`` (row, column) by their detections."""
        rows = np.array([row for row, _ in pairs], int)
        columns = np.array([column for _, column in pairs], int)
        self._motion.correct(rows, states[rows, columns])
        for row, column in pairs:
            record = self._records[row]
            record.was_occluded = record.misses > 1
            record.detection, record.last_seen_s = found[column], self._at_s or 0.0
            record.unseen_s, record.misses = 0.0, 0

    def _end_lost(self) -> list[int]:
        """End tracks that were not seen and have left the frame, or were never confirmed."""
        outside, leaving = leaving_tracks(self._motion, self._frame_size)
        short_s = self.options.border_gap_ms / 1000
        lost = [
            record.misses > 0
            and (outside[i] or (record.unseen_s > short_s and (leaving[i] or not record.is_confirmed)))
            for i, record in enumerate(self._records)
        ]
        return self._end(np.array(lost, bool))

    def _start(self, found: Sequence[Detection], boxes: np.ndarray, taken: Sequence[int]) -> None:
        """Start tracks of detections that continue none."""
        faces = boxes[list(taken)]
        for column, detection in enumerate(found):
            box = boxes[column : column + 1]
            is_full = len(self._records) == self.options.max_tracks
            if column in taken or is_full or detection.score < self.options.min_new_score:
                continue
            if (overlaps(box, faces) > self.options.max_new_overlap).any():
                continue
            at_s = self._at_s or 0.0
            self._motion.append(measured(box))
            self._records.append(_Record(self._next_id, at_s, at_s, detection))
            self._next_id += 1
            faces = np.concatenate((faces, box))

    def _end(self, mask: np.ndarray) -> list[int]:
        """Drop the tracks of ``[N]`` bool; return the numbers of those that were confirmed."""
        ended = [record for record, ends in zip(self._records, mask, strict=True) if ends]
        self._records = [record for record, ends in zip(self._records, mask, strict=True) if not ends]
        self._motion.keep(~mask)
        return [record.track_id for record in ended if record.is_confirmed]

    def _result(self, left: Sequence[int], uncertain: bool) -> TrackerUpdate:
        appeared = []
        for record in self._records:
            is_sure = self.options.sure_score < 1 and record.detection.score >= self.options.sure_score
            if not record.is_confirmed and (is_sure or record.hits >= self.options.min_hits):
                record.is_confirmed = True
                appeared.append(record.track_id)
        return TrackerUpdate(
            tracks=self._described(record.is_confirmed and record.misses == 0 for record in self._records),
            appeared=tuple(appeared),
            left=tuple(left),
            uncertain=uncertain or any(r.misses or not r.is_confirmed for r in self._records),
        )

    def _described(self, wanted: Iterable[bool]) -> tuple[Track, ...]:
        boxes = corners(self._motion.position)
        width, height = self._frame_size
        tracks = []
        for record, box, take in zip(self._records, boxes, wanted, strict=True):
            if not take:
                continue
            detection = record.detection
            if record.misses:
                inside = np.clip(box, 0, (width, height, width, height))
                detection = Detection(box_of(inside), detection.score)
            tracks.append(
                Track(
                    record.track_id,
                    detection,
                    not record.misses,
                    record.first_seen_s,
                    record.last_seen_s,
                    record.was_occluded,
                )
            )
        return tuple(sorted(tracks, key=lambda track: (-_area(track.detection.box_xyxy), track.track_id)))


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _boxes(detections: Sequence[Detection]) -> np.ndarray:
    """Return ``[N, 4]`` float64 boxes, or raise a :class:`UsageError`."""
    boxes = np.array([detection.box_xyxy for detection in detections], np.float64).reshape(-1, 4)
    usable = (np.abs(boxes) < 1 << 20).all(axis=1) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    for box in boxes[~usable][:1]:
        raise UsageError(
            f"boxes must be finite and have left < right and top < bottom, found {box.tolist()}. "
            "Fix: leave the detection out"
        )
    return boxes

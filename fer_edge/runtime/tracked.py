"""Faces of the successive frames of one camera or video: tracks, steady labels and events."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np

from fer_edge._utils.checks import require_number
from fer_edge._utils.guard import Guard
from fer_edge.detection.base import Effort
from fer_edge.errors import UsageError
from fer_edge.frames import Frame
from fer_edge.preprocess import crop_rectangle
from fer_edge.results import Box, Detection, Face, FrameResult
from fer_edge.runtime.pipeline import Pipeline
from fer_edge.runtime.stages import StageClock
from fer_edge.runtime.track_state import TrackState
from fer_edge.tracking.box_sizes import SizeRatios
from fer_edge.tracking.events import TrackEvents
from fer_edge.tracking.options import TrackingOptions
from fer_edge.tracking.refine import Refiner
from fer_edge.tracking.schedule import Candidate, DetectionSchedule, due_tracks
from fer_edge.tracking.tracker import Track, Tracker, TrackerUpdate

#: Largest time of a frame, thousands of years.
MAX_TIME_S = 1e12


class TrackedFrames:
    """Faces of successive frames, made by :meth:`fer_edge.Runtime.tracked`.

    Each call takes the next frame of one camera. Faces are followed from frame to frame; the network classifies a
    face when it is new, has changed visibly, or its turn has come; its label follows the smoothed probabilities.
    The faces of a result are those seen in the frame, or predicted from the one before, largest first. A face that was
    hidden starts anew.

    Calls are serialised. Several cameras of one runtime need one object each.
    """

    def __init__(
        self,
        opened: Guard[ExitStack],
        pipeline: Pipeline,
        refiner: Refiner | None,
        options: TrackingOptions,
    ) -> None:
        if not isinstance(options, TrackingOptions):
            raise UsageError(
                f"options must be TrackingOptions, found {options!r:.60}. Fix: give TrackingOptions(…)"
            )
        self.options = options
        self._opened, self._pipeline, self._refiner = opened, pipeline, refiner
        self._camera = pipeline.new_camera()
        self._tracker = Tracker(options.tracker)
        self._searches = DetectionSchedule(options.schedule)
        self._events = TrackEvents()
        self._states: dict[int, TrackState] = {}
        self._sizes = SizeRatios()
        self._uncertain = False
        self._is_cut = False
        self._size = (0, 0)
        self._followed: tuple[Track, ...] = ()
        self._calls = 0
        self._lock = threading.Lock()

    def __call__(self, frame_bgr: Any, captured_at_s: float | None = None) -> FrameResult:
        """Process the next frame.

        Parameters
        ----------
        frame_bgr : array, path, bytes or PIL image
            As for a call of the runtime.
        captured_at_s : float, optional
            Capture time in seconds on the clock of ``time.monotonic()``; default: now.
        """
        self._opened.require_process()
        with self._lock:
            index, self._calls = self._calls, self._calls + 1
        require_number("captured_at_s", captured_at_s, -MAX_TIME_S, MAX_TIME_S, optional=True)
        now_s = time.monotonic() if captured_at_s is None else float(captured_at_s)
        return self.process(Frame(frame_bgr, index, now_s))

    def process(self, frame: Frame) -> FrameResult:
        """Process the next frame; errors as from :meth:`fer_edge.Runtime.process`."""
        require_number("time_s of a frame", frame.time_s, -MAX_TIME_S, MAX_TIME_S)
        with self._opened, self._lock:
            return self._process(frame)

    def _process(self, frame: Frame) -> FrameResult:
        clock, pipeline = StageClock(), self._pipeline
        upright = self._camera.upright(frame)
        frame = upright.frame
        classifier = pipeline.classifier_of(frame.image)
        image = classifier.host_image(frame.image)
        update = self._follow(image, frame.time_s)
        clock.mark()
        due = self._due(image, update.tracks, frame.time_s)
        detections = [track.detection for track in due]
        answers = classifier.classify(frame.image, image, detections, on_prepared=clock.mark)
        pipeline.count_non_finite(answers)
        for track, answer in zip(due, answers, strict=True):
            self._states[track.track_id].add(answer, frame.time_s)
        faces = tuple(self._face(track, image, frame.time_s) for track in update.tracks)
        # By comparison, so that an error in one frame loses no event.
        alive = {track.track_id for track in self._tracker.tracks}
        events = self._events.update(
            frame.time_s,
            appeared=sorted(alive - self._events.present),
            labels={
                # A face that is hidden has no label; when it returns, it starts anew.
                **dict.fromkeys(sorted(alive)),
                **{face.track_id: face.label for face in faces if face.track_id in alive},
            },
            left=sorted(self._events.present - alive),
        )
        for track_id in self._states.keys() - alive:
            del self._states[track_id]
        return upright.turn_back(pipeline.result(frame, faces, clock, events, self._is_cut))

    def _follow(self, image: np.ndarray, at_s: float) -> TrackerUpdate:
        """Search the whole frame or the surroundings of the tracks if due, else predict their boxes."""
        size = (image.shape[1], image.shape[0])
        effort = self._searches.effort(at_s, self._uncertain)
        if size != self._size:  # predictions are of another frame
            self._size, effort = size, Effort.THOROUGH
        if self._refiner is None or effort is not None:
            detector = self._pipeline.detector
            if self._refiner is None or effort is None:  # every frame is searched
                found = detector.detect(image)
            else:
                found = detector.detect(image, effort)
            self._is_cut = self._pipeline.is_cut(len(found)) or len(found) > self.options.tracker.max_tracks
            update = self._tracker.update(found, at_s, size)
            self._searches.detected(at_s, effort)
        else:
            last = {track.track_id: track.detection for track in self._tracker.tracks}
            expected = {
                track_id: _moved(last.get(track_id), box)
                for track_id, box in self._tracker.predict(at_s).items()
            }
            if not self._searches.is_follow_due(at_s):
                return self._predicted(expected, size)
            found_again = self._refiner.refine(image, expected)
            update = self._tracker.carry(self._sizes.corrected(found_again, size), at_s, size)
            self._searches.followed(at_s)
        self._followed = update.tracks
        if self._refiner is not None and effort is Effort.THOROUGH:
            seen = {track.track_id: track.detection for track in update.tracks}
            self._sizes.learn(seen, self._refiner.refine(image, seen))
        self._uncertain = update.uncertain
        return update

    def _predicted(self, expected: Mapping[int, Detection], size: tuple[int, int]) -> TrackerUpdate:
        """Return the tracks of the last followed frame at their predicted boxes, as far as they are inside the frame."""
        tracks = []
        for track in self._followed:
            moved = expected.get(track.track_id)
            if moved is None:
                continue
            left, top, right, bottom = moved.box_xyxy
            box = (max(left, 0.0), max(top, 0.0), min(right, float(size[0])), min(bottom, float(size[1])))
            if box[2] - box[0] >= 1 and box[3] - box[1] >= 1:
                detection = replace(moved, box_xyxy=box, score=track.detection.score)
                tracks.append(replace(track, detection=detection, is_seen=False, was_occluded=False))
        return TrackerUpdate(tuple(tracks), (), (), self._uncertain)

    def _due(self, image: np.ndarray, tracks: Sequence[Track], at_s: float) -> list[Track]:
        candidates = []
        for track in tracks:
            state = self._states.get(track.track_id)
            if state is None:
                state = self._states[track.track_id] = TrackState(self._pipeline, self.options.smoothing)
            if track.was_occluded:
                state.restart()
            changed = state.look(image, track.detection, self.options.schedule, at_s)
            candidates.append(
                Candidate(track.track_id, state.classified_at_s, state.is_unsettled(at_s, changed), changed)
            )
        chosen = due_tracks(candidates, at_s, self.options.schedule)
        by_id: Mapping[int, Track] = {track.track_id: track for track in tracks}
        return [by_id[track_id] for track_id in chosen]

    def _face(self, track: Track, image: np.ndarray, at_s: float) -> Face:
        state = self._states[track.track_id]
        steady = state.answer(at_s)
        detection = track.detection
        crop = None
        if state.attention is not None:
            rule = self._pipeline.spec.crop
            height, width = image.shape[:2]
            crop = crop_rectangle(detection.box_xyxy, rule, height, width, detection.roll_deg)
        return Face(
            box_xyxy=detection.box_xyxy,
            detection_score=detection.score,
            label=steady.label,
            probability=steady.probability,
            probabilities=steady.probabilities,
            landmarks=detection.landmarks,
            track_id=track.track_id,
            reason=steady.reason,
            attention=state.attention if crop is not None else None,
            crop_xyxy=crop,
            stable_for_ms=steady.stable_for_ms,
            classified_at_s=steady.classified_at_s,
        )


def _moved(last: Detection | None, box: Box) -> Detection:
    """Return the expected face at a predicted box, with the landmarks seen last moved there."""
    if last is None or last.landmarks is None:
        return Detection(box, 1.0, roll_deg=0.0 if last is None else last.roll_deg)
    before, now = np.reshape(last.box_xyxy, (2, 2)), np.reshape(box, (2, 2))
    scale = (now[1] - now[0]) / np.maximum(before[1] - before[0], 1e-3)
    return replace(last, box_xyxy=box, landmarks=(last.landmarks - before[0]) * scale + now[0])

"""Tracks keep their numbers through crossings, occlusions and irregular times, and end where faces leave."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from fer_edge.errors import UsageError
from fer_edge.results import Box, Detection
from fer_edge.tracking.options import TrackerOptions
from fer_edge.tracking.tracker import Tracker, TrackerUpdate

SIZE = (640, 480)
FPS = 30.0
SIDE = 80.0


def face(x: float, y: float = 240.0, side: float = SIDE, score: float = 0.84) -> Detection:
    """Return the detection of a face around (x, y)."""
    half = side / 2
    return Detection((x - half, y - half, x + half, y + half), score)


def numbers(update: TrackerUpdate) -> list[int]:
    return [track.track_id for track in update.tracks]


def number_at(update: TrackerUpdate, x: float) -> int:
    """Return the track whose centre is nearest to x."""
    centre = {t.track_id: (t.detection.box_xyxy[0] + t.detection.box_xyxy[2]) / 2 for t in update.tracks}
    return min(centre, key=lambda number: abs(centre[number] - x))


def play(
    tracker: Tracker, seconds: float, faces: Callable[[float], Sequence[Detection]], start_s: float = 0.0
) -> list[TrackerUpdate]:
    """Update with the faces at each time."""
    times = start_s + np.arange(round(seconds * FPS)) / FPS
    return [tracker.update(faces(float(at_s)), float(at_s), SIZE) for at_s in times]


def test_one_face_is_one_track() -> None:
    updates = play(Tracker(), 2, lambda at_s: [face(200 + 60 * at_s)])
    assert updates[0].tracks == ()  # not confirmed yet
    assert updates[0].uncertain
    assert updates[1].appeared == (1,)
    assert {tuple(numbers(update)) for update in updates[1:]} == {(1,)}
    assert not any(update.left or update.uncertain for update in updates[2:])
    (track,) = updates[-1].tracks
    assert (track.first_seen_s, track.last_seen_s) == pytest.approx((0, 59 / FPS))
    assert track.is_seen
    assert not track.was_occluded


def test_the_detection_is_returned_untouched() -> None:
    marks = np.zeros((5, 2), np.float32)
    given = dataclasses.replace(face(200), landmarks=marks)
    tracker = Tracker(TrackerOptions(min_hits=1))
    (track,) = tracker.update([given], 0.0, SIZE).tracks
    assert track.detection is given


def test_largest_first() -> None:
    tracker = Tracker(TrackerOptions(min_hits=1))
    update = tracker.update([face(100, side=50), face(300, side=90), face(500, side=70)], 0.0, SIZE)
    sides = [t.detection.box_xyxy[2] - t.detection.box_xyxy[0] for t in update.tracks]
    assert sides == [90, 70, 50]


@pytest.mark.parametrize("speed", [1.0, 2.5, 4.0])  # face sizes per second, of each
@pytest.mark.parametrize("seed", range(3))
def test_crossing_faces_keep_their_numbers(speed: float, seed: int) -> None:
    """The farther face is not detected while the nearer one covers more than half of it."""
    rng = np.random.default_rng(seed)
    half_way = 3.0 / speed

    def faces(at_s: float) -> list[Detection]:
        offset = speed * SIDE * (at_s - half_way)
        near, far = 320 + offset, 320 - offset
        found = [face(near + rng.normal(0, 1.5), 240 + rng.normal(0, 1.5))]
        if abs(near - far) > 0.5 * SIDE:
            found.append(face(far + rng.normal(0, 1.5), 244 + rng.normal(0, 1.5)))
        return found

    updates = play(Tracker(), 2 * half_way, faces)
    before, after = updates[5], updates[-1]
    assert number_at(before, 0) == number_at(after, 640)
    assert number_at(before, 640) == number_at(after, 0)
    assert {number for update in updates for number in numbers(update)} == {1, 2}


def test_a_short_occlusion_is_survived() -> None:
    def faces(at_s: float) -> list[Detection]:
        return [] if 1.0 <= at_s < 1.6 else [face(150 + 120 * at_s)]

    tracker = Tracker()
    hidden = play(tracker, 1.5, faces)
    assert hidden[-1].tracks == ()
    assert hidden[-1].uncertain
    (track,) = tracker.tracks
    assert not track.is_seen
    assert track.detection.landmarks is None
    assert np.mean(track.detection.box_xyxy[::2]) == pytest.approx(150 + 120 * 1.5, abs=40)
    shown = play(tracker, 1, faces, start_s=1.5)
    assert {number for update in shown for number in numbers(update)} == {1}
    first = next(update for update in shown if update.tracks)
    assert first.tracks[0].was_occluded
    assert not shown[-1].tracks[0].was_occluded


def test_one_missed_update_is_an_occlusion() -> None:
    tracker = Tracker()
    play(tracker, 0.5, lambda _: [face(200)])
    tracker.update([], 0.5, SIZE)
    assert tracker.update([face(200)], 0.53, SIZE).tracks[0].was_occluded


def test_a_long_occlusion_ends_the_track() -> None:
    tracker = Tracker()
    play(tracker, 0.5, lambda _: [face(200)])
    gone = play(tracker, 1.5, lambda _: [], start_s=0.5)
    assert [update.left for update in gone if update.left] == [(1,)]
    assert numbers(play(tracker, 0.5, lambda _: [face(200)], start_s=2.0)[-1]) == [2]


@pytest.mark.parametrize("side", ["left", "right", "top", "bottom"])
def test_a_face_that_leaves_ends_soon_and_comes_back_as_another(side: str) -> None:
    def faces(at_s: float) -> list[Detection]:
        way = 3 * SIDE * at_s
        x, y = {
            "left": (160 - way, 240),
            "right": (480 + way, 240),
            "top": (320, 160 - way),
            "bottom": (320, 320 + way),
        }[side]
        low, high = np.array((x, y)) - SIDE / 2, np.array((x, y)) + SIDE / 2
        box = np.concatenate((low, high)).clip(0, SIZE * 2)
        seen = (box[2:] - box[:2]).prod() / SIDE**2
        return [Detection(tuple(box.tolist()), 0.9)] if seen > 0.5 else []

    tracker = Tracker()
    updates = play(tracker, 1.0, faces)
    last = max(i for i, update in enumerate(updates) if update.tracks)
    (ended,) = (i for i, update in enumerate(updates) if update.left)
    assert {number for update in updates for number in numbers(update)} == {1}
    assert (ended - last) / FPS <= 0.25
    back = play(tracker, 0.5, lambda at_s: faces(max(1.3 - at_s, 0)), start_s=1.0)
    assert {number for update in back for number in numbers(update)} == {2}


def test_a_face_elsewhere_does_not_take_over_a_hidden_track() -> None:
    tracker = Tracker()
    play(tracker, 1.0, lambda _: [face(120, 120)])
    updates = play(tracker, 0.5, lambda _: [face(520, 360)], start_s=1.0)
    assert numbers(updates[-1]) == [2]
    assert {t.track_id for t in tracker.tracks} == {1, 2}


def test_a_face_of_another_size_does_not_take_over() -> None:
    tracker = Tracker()
    play(tracker, 1.0, lambda _: [face(300, side=60)])
    assert numbers(play(tracker, 0.5, lambda _: [face(310, side=200)], start_s=1.3)[-1]) == [2]


def test_a_sure_detection_is_a_track_at_once() -> None:
    assert len(Tracker().update([face(200, score=0.85)], 0.0, SIZE).tracks) == 1
    assert Tracker().update([face(200, score=0.84)], 0.0, SIZE).tracks == ()
    assert Tracker(TrackerOptions(sure_score=1)).update([face(200, score=1.0)], 0.0, SIZE).tracks == ()


def test_false_boxes_are_no_tracks() -> None:
    """A false box in every second frame, each away from the one before."""
    places = [(90, 90), (270, 90), (450, 90), (90, 300), (270, 300)]

    def faces(at_s: float) -> list[Detection]:
        step = round(at_s * FPS)
        return [face(550, 400)] + [face(*places[step // 2 % 5])] * (step % 2)

    updates = play(Tracker(), 3, faces)
    assert {number for update in updates for number in numbers(update)} == {1}


def test_weak_detections_continue_tracks_but_start_none() -> None:
    tracker = Tracker(TrackerOptions(min_new_score=0.6))
    play(tracker, 0.3, lambda _: [face(200)])
    updates = play(tracker, 0.3, lambda _: [face(200, score=0.4), face(500, score=0.5)], start_s=0.3)
    assert numbers(updates[-1]) == [1]


def test_a_second_box_of_a_face_is_no_track() -> None:
    updates = play(Tracker(), 1.0, lambda _: [face(200), face(208, score=0.8)])
    assert {number for update in updates for number in numbers(update)} == {1}


def test_irregular_times() -> None:
    """The motion is that of the times, not of the frames: gaps of up to 0.3 s at 2.5 face sizes per second."""
    rng = np.random.default_rng(1)
    times = np.cumsum(rng.choice([0.0, 0.01, 0.033, 0.1, 0.3], 60))
    tracker = Tracker()
    seen = set()
    for at_s in times:
        phase = 300 * np.array([0.2, 0.8]) * np.sin(0.7 * at_s)
        found = [face(320 + phase[0], 120), face(320 - phase[1], 360)]
        seen |= set(numbers(tracker.update(found, float(at_s), SIZE)))
    assert seen == {1, 2}


def test_a_repeated_time_is_allowed() -> None:
    tracker = Tracker()
    for _ in range(5):
        update = tracker.update([face(200)], 3.0, SIZE)
    assert numbers(update) == [1]


@pytest.mark.parametrize("jump_s", [5.0, 1e12, -5.0, -1e12])
def test_a_jump_of_time_ends_all_tracks(jump_s: float) -> None:
    tracker = Tracker()
    play(tracker, 0.5, lambda _: [face(200), face(400)])
    assert tracker.predict(0.5 + jump_s) == {}
    update = tracker.update([face(200)], 0.5 + jump_s, SIZE)
    assert sorted(update.left) == [1, 2]
    assert numbers(tracker.update([face(200)], 0.5 + jump_s, SIZE)) == [3]


def test_a_small_step_back_counts_as_no_time() -> None:
    tracker = Tracker()
    play(tracker, 0.5, lambda at_s: [face(200 + 90 * at_s)])
    update = tracker.update([face(243)], 0.1, SIZE)
    assert numbers(update) == [1]
    assert update.left == ()
    assert numbers(tracker.update([face(246)], 0.133, SIZE)) == [1]


def test_another_frame_size_ends_all_tracks() -> None:
    tracker = Tracker()
    play(tracker, 0.5, lambda _: [face(200)])
    assert tracker.update([face(200)], 0.5, (1280, 720)).left == (1,)


class TestCarry:
    def follow(self, tracker: Tracker, seconds: float, start_s: float) -> TrackerUpdate:
        """Carry all tracks where they are predicted."""
        for at_s in start_s + np.arange(round(seconds * FPS)) / FPS:
            boxes = tracker.predict(float(at_s))
            update = tracker.carry({n: Detection(b, 0.8) for n, b in boxes.items()}, float(at_s), SIZE)
        return update

    def test_tracks_go_on_without_detection(self) -> None:
        tracker = Tracker()
        play(tracker, 0.5, lambda at_s: [face(200 + 100 * at_s), face(450)])
        update = self.follow(tracker, 0.3, 0.5)
        assert sorted(numbers(update)) == [1, 2]
        assert not update.uncertain
        assert numbers(tracker.update([face(278), face(450)], 0.8, SIZE)) in ([1, 2], [2, 1])

    def test_predicts_the_motion(self) -> None:
        tracker = Tracker()
        play(tracker, 1.0, lambda at_s: [face(200 + 100 * at_s)])
        (box,) = tracker.predict(1.1).values()
        assert (box[0] + box[2]) / 2 == pytest.approx(310, abs=3)
        assert tracker.predict(1.1) == tracker.predict(1.1)

    @pytest.mark.parametrize("found", [{1: None}, {}])
    def test_a_lost_track_is_uncertain(self, found: Mapping[int, Detection | None]) -> None:
        tracker = Tracker()
        play(tracker, 0.5, lambda _: [face(200)])
        update = tracker.carry(found, 0.53, SIZE)
        assert update.tracks == ()
        assert update.uncertain
        assert update.left == ()
        again = tracker.carry({1: face(200)}, 0.56, SIZE)
        assert again.tracks[0].was_occluded

    def test_two_tracks_do_not_share_a_face(self) -> None:
        tracker = Tracker()
        play(tracker, 0.5, lambda _: [face(200), face(290)])
        update = tracker.carry({1: face(200), 2: face(215)}, 0.53, SIZE)
        assert numbers(update) == [1]
        assert update.uncertain

    def test_a_box_far_away_is_lost(self) -> None:
        tracker = Tracker()
        play(tracker, 0.5, lambda _: [face(200)])
        update = tracker.carry({1: face(500)}, 0.53, SIZE)
        assert update.tracks == ()
        assert update.uncertain

    def test_carried_frames_do_not_confirm(self) -> None:
        tracker = Tracker()
        tracker.update([face(200)], 0.0, SIZE)
        update = tracker.carry({1: face(200)}, 0.03, SIZE)
        assert update.tracks == ()
        assert update.uncertain
        assert tracker.update([face(200)], 0.06, SIZE).appeared == (1,)

    def test_refuses_an_unknown_track(self) -> None:
        with pytest.raises(UsageError, match="found must have keys that predict.*found 7"):
            Tracker().carry({7: None}, 0.0, SIZE)

    def test_after_a_jump_of_time_all_have_left(self) -> None:
        tracker = Tracker()
        play(tracker, 0.5, lambda _: [face(200)])
        update = tracker.carry({1: face(200)}, 9.0, SIZE)
        assert update.left == (1,)
        assert update.tracks == ()


def random_faces(rng: np.random.Generator) -> list[Detection]:
    low = rng.uniform(-50, 600, (int(rng.integers(0, 40)), 2))
    boxes = np.concatenate((low, low + np.exp(rng.uniform(-3, 8, low.shape))), axis=1)
    if len(boxes) > 4:
        boxes[1] = boxes[0]  # the same box twice
    return [Detection(tuple(box.tolist()), float(rng.random())) for box in boxes]


@pytest.mark.parametrize("seed", range(5))
def test_random_detections(seed: int) -> None:
    """Numbers are unique and never come back, tracks are bounded, and boxes stay finite."""
    rng = np.random.default_rng(seed)
    tracker = Tracker(TrackerOptions(max_tracks=16, min_hits=1 + seed % 2))
    ended: set[int] = set()
    confirmed: set[int] = set()
    at_s = 0.0
    for _ in range(150):
        at_s += float(
            rng.choice([0, 0.01, 0.05, 0.5, -0.2, 3.0, -9.0], p=[0.1, 0.2, 0.4, 0.15, 0.1, 0.03, 0.02])
        )
        boxes = tracker.predict(at_s)
        assert len(boxes) <= 16
        assert np.isfinite(np.array(list(boxes.values()))).all()
        if rng.random() < 0.3:
            found = {n: Detection(b, 0.5) if rng.random() < 0.8 else None for n, b in boxes.items()}
            update = tracker.carry(found, at_s, SIZE)
            assert update.appeared == ()
        else:
            update = tracker.update(random_faces(rng), at_s, SIZE)
        live = numbers(update)
        assert len(set(live)) == len(live) <= 16
        assert not set(update.appeared) & confirmed
        confirmed |= set(update.appeared)
        assert set(update.left) <= confirmed - ended
        ended |= set(update.left)
        assert set(live) <= confirmed - ended
        assert {track.track_id for track in tracker.tracks} == confirmed - ended


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_detections_does_not_matter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    given, shuffled = Tracker(TrackerOptions(max_tracks=16)), Tracker(TrackerOptions(max_tracks=16))
    for step in range(40):
        found = random_faces(rng) if step % 5 else [face(200), face(400)]
        order = rng.permutation(len(found))
        assert given.update(found, step / FPS, SIZE) == shuffled.update(
            [found[i] for i in order], step / FPS, SIZE
        )


def test_the_best_detections_are_tracked_when_there_are_too_many() -> None:
    tracker = Tracker(TrackerOptions(max_tracks=2, min_hits=1))
    update = tracker.update([face(100, score=0.5), face(300, score=0.9), face(500, score=0.8)], 0.0, SIZE)
    assert {track.detection.score for track in update.tracks} == {0.9, 0.8}


@pytest.mark.parametrize(
    "box",
    [
        (float("nan"), 0, 10, 10),
        (0, 0, float("inf"), 10),
        (0, 0, 1e30, 10),
        (10, 0, 10, 10),
        (10, 10, 0, 0),
    ],
)
def test_refuses_unusable_boxes(box: Box) -> None:
    tracker = Tracker()
    play(tracker, 0.5, lambda _: [face(200)])
    with pytest.raises(UsageError, match="boxes must be finite and have left < right"):
        tracker.update([face(200), Detection(box, 0.9)], 0.5, SIZE)
    with pytest.raises(UsageError, match="boxes must be finite"):
        tracker.carry({1: Detection(box, 0.9)}, 0.5, SIZE)
    assert numbers(tracker.update([face(200)], 0.5, SIZE)) == [1]  # nothing has changed


@pytest.mark.parametrize("at_s", [float("nan"), float("inf"), "1", None])
def test_refuses_unusable_times(at_s: Any) -> None:
    tracker = Tracker()
    with pytest.raises(UsageError, match="at_s must be a finite number"):
        tracker.update([], at_s, SIZE)
    with pytest.raises(UsageError, match="at_s must be a finite number"):
        tracker.predict(at_s)


@pytest.mark.parametrize("size", [(0, 480), (640, -1), (640.5, 480), (1 << 30, 10)])
def test_refuses_unusable_frame_sizes(size: Any) -> None:
    with pytest.raises(UsageError, match="frame (width|height) must be a whole number"):
        Tracker().update([], 0.0, size)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(TrackerOptions)])
@pytest.mark.parametrize("value", [float("nan"), -1, 10**9, "1", True, None])
def test_refuses_bad_options(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"{name} must be"):
        TrackerOptions(**{name: value})

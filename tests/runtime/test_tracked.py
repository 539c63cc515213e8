"""Tracks, steady labels and schedule of streams, on a real face that is moved, hidden and exchanged."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest
from fixed_detector import FixedDetector

from fer_edge import Frame, Runtime
from fer_edge.errors import BackendError, UsageError
from fer_edge.results import EventKind, Face, FrameResult
from fer_edge.synthetic import render_faces
from fer_edge.tracking.options import TrackerOptions, TrackingOptions
from fer_edge.tracking.schedule import ScheduleOptions

SIDE_PX = 120
FACE_XYXY = (160, 30, 310, 220)  # of the astronaut


class CountingSession:
    """Session that counts the faces of its batches."""

    def __init__(self, session: object) -> None:
        self._session, self.batches = session, list[int]()

    def run(self, batch: np.ndarray) -> Mapping[str, np.ndarray]:
        self.batches.append(len(batch))
        return self._session.run(batch)


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    with Runtime(backend="onnxruntime", detector="haar", tune=False, threads=1) as opened:
        opened._pipeline.host.session = CountingSession(opened._pipeline.host.session)
        yield opened


@pytest.fixture(scope="module")
def smile(astronaut: np.ndarray) -> np.ndarray:
    left, top, right, bottom = FACE_XYXY
    return cv2.resize(astronaut[top:bottom, left:right], (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA)


@pytest.fixture(scope="module")
def other() -> np.ndarray:
    return render_faces(1, 0, side=SIDE_PX)[0]


class Stage:
    """Frames with pictures at places, whose boxes the detector of the runtime finds."""

    def __init__(self, runtime: Runtime, options: TrackingOptions | None = None) -> None:
        self.tracked = runtime.tracked(options)
        self._runtime, self._at_s = runtime, 100.0

    def show(self, *faces: tuple[np.ndarray, float, float], noise: int = 0) -> FrameResult:
        """Process a frame with pictures at (x, y), 33 ms after the last one."""
        frame = np.full((480, 640, 3), 90, np.uint8)
        boxes = []
        for picture, x, y in faces:
            left, top = round(x), round(y)
            frame[top : top + SIDE_PX, left : left + SIDE_PX] = picture
            boxes.append((float(left), float(top), float(left + SIDE_PX), float(top + SIDE_PX)))
        self._runtime._pipeline.detector = FixedDetector(*boxes)
        self._at_s += 1 / 30
        return self.tracked(frame, self._at_s)

    @property
    def at_s(self) -> float:
        return self._at_s


def only(result: FrameResult) -> Face:
    (face,) = result.faces
    return face


def kinds(results: list[FrameResult]) -> list[tuple[EventKind, int]]:
    return [(event.kind, event.track_id) for result in results for event in result.events]


def test_a_moving_face_is_one_track_that_is_seldom_classified(runtime: Runtime, smile: np.ndarray) -> None:
    stage = Stage(runtime)
    results = [stage.show((smile, 50 + 4 * i, 100 + i)) for i in range(60)]
    seen = [only(result) for result in results if result.faces]
    assert len(seen) >= 58
    assert {face.track_id for face in seen} == {1}
    assert {face.label for face in seen} == {"happiness"}
    assert sum(runtime._pipeline.host.session.batches) <= 20
    stable = [face.stable_for_ms for face in seen]
    assert np.diff(stable) == pytest.approx(1000 / 30)
    ages = [stage.at_s - (59 - i) / 30 - face.classified_at_s for i, face in enumerate(seen, 60 - len(seen))]
    assert min(ages) == pytest.approx(0, abs=1e-6)
    assert max(ages) <= 0.45
    assert kinds(results) == [(EventKind.APPEARED, 1), (EventKind.LABEL_CHANGED, 1)]


def test_a_face_that_leaves_is_an_event(runtime: Runtime, smile: np.ndarray) -> None:
    stage = Stage(runtime)
    results = [stage.show((smile, 260, 180)) for _ in range(10)] + [stage.show() for _ in range(60)]
    assert kinds(results)[-2:] == [(EventKind.LABEL_CHANGED, 1), (EventKind.LEFT, 1)]
    assert all(result.faces == () for result in results[10:])
    (event,) = results[-1].events or [e for r in results for e in r.events if e.kind is EventKind.LEFT]
    assert event.previous_label is None  # it was hidden before
    again = [stage.show((smile, 260, 180)) for _ in range(5)]
    assert only(again[-1]).track_id == 2


def test_a_distribution_does_not_outlive_an_occlusion(
    runtime: Runtime, smile: np.ndarray, other: np.ndarray
) -> None:
    """Another face that steps out where one was hidden is classified by itself."""
    stage = Stage(runtime)
    for _ in range(30):
        before = only_or_none(stage.show((smile, 260, 180)))
    hidden = [stage.show() for _ in range(5)]
    assert [result.faces for result in hidden] == [()] * 5
    (event,) = hidden[0].events
    assert (event.kind, event.label, event.previous_label) == (EventKind.LABEL_CHANGED, None, "happiness")
    result = stage.show((other, 262, 180))
    after = only(result)
    assert [(event.label, event.previous_label) for event in result.events] == [(after.label, None)] * bool(
        after.label
    )
    alone = only(runtime.process(Frame(frame_with(other, 262, 180), 0, 0.0)))
    assert before is not None
    assert after.probabilities == pytest.approx(alone.probabilities, abs=1e-6)
    assert after.classified_at_s == pytest.approx(stage.at_s)


def test_a_visible_change_is_classified_at_once(
    runtime: Runtime, smile: np.ndarray, other: np.ndarray
) -> None:
    stage = Stage(runtime)
    for _ in range(40):
        stage.show((smile, 260, 180))
    face = only(stage.show((other, 260, 180)))
    assert face.classified_at_s == pytest.approx(stage.at_s)


def test_all_faces_get_their_turn_under_a_budget(runtime: Runtime, smile: np.ndarray) -> None:
    options = TrackingOptions(schedule=ScheduleOptions(max_faces=1))
    stage = Stage(runtime, options)
    places = [(smile, x, y) for x in (10, 170, 330, 490) for y in (20, 200)]
    results = [stage.show(*places) for _ in range(60)]
    assert max(runtime._pipeline.host.session.batches) == 1
    last = results[-1].faces
    assert len(last) == 8
    assert max(stage.at_s - face.classified_at_s for face in last) <= 0.8
    assert {face.label for face in last} == {"happiness"}
    unclassified = [face for result in results[:6] for face in result.faces if face.label is None]
    assert {face.reason for face in unclassified} == {"not_classified"}


def test_streams_do_not_disturb_each_other(runtime: Runtime, smile: np.ndarray, other: np.ndarray) -> None:
    """Two cameras of one runtime in two threads answer as each alone."""
    runtime._pipeline.detector = FixedDetector((260.0, 180.0, 260.0 + SIDE_PX, 180.0 + SIDE_PX))
    frames = {0: frame_with(smile, 260, 180), 1: frame_with(other, 260, 180)}

    def watch(camera: int) -> list[dict[str, object]]:
        tracked = runtime.tracked()
        results = [tracked(frames[camera], 5 + i / 30) for i in range(40)]
        return [face.to_dict() for result in results for face in result.faces]

    alone = [watch(0), watch(1)]
    found: dict[int, list[dict[str, object]]] = {}
    threads = [threading.Thread(target=lambda c=camera: found.update({c: watch(c)})) for camera in frames]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[0], found[1]] == alone


def test_a_video_is_tracked_by_its_own_time(runtime: Runtime, smile: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "a.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (640, 480))
    for i in range(50):
        writer.write(frame_with(smile, 100 + 4 * i, 150))
    writer.release()
    runtime._pipeline.detector = MovingDetector()
    results = list(runtime.stream(path))
    assert {face.track_id for result in results for face in result.faces} == {1}
    assert results[-1].faces[0].stable_for_ms == pytest.approx(1000 * 48 / 25, abs=45)
    assert results[-1].media_time_s == pytest.approx(49 / 25)
    assert sum(runtime._pipeline.host.session.batches) < 25


class MovingDetector(FixedDetector):
    """Finds the box of the face that moves by 4 pixels a frame."""

    def __init__(self) -> None:
        self.calls = 0

    def detect(self, frame_bgr: np.ndarray) -> list:
        x = 100.0 + 4 * self.calls
        self.calls += 1
        self.boxes = ((x, 150.0, x + SIDE_PX, 150.0 + SIDE_PX),)
        return super().detect(frame_bgr)


def test_pictures_and_streams_without_tracking_are_independent(
    runtime: Runtime, smile: np.ndarray, tmp_path: Path
) -> None:
    runtime._pipeline.detector = FixedDetector((260.0, 180.0, 260.0 + SIDE_PX, 180.0 + SIDE_PX))
    for name in "ab":
        cv2.imwrite(str(tmp_path / f"{name}.png"), frame_with(smile, 260, 180))
    results = list(runtime.stream(tmp_path))
    assert [(face.track_id, face.stable_for_ms) for r in results for face in r.faces] == [(None, None)] * 2
    runtime.options = dataclasses.replace(runtime.options, tracking=None)
    (result,) = runtime.stream(tmp_path / "a.png")
    assert result.events == ()


def test_a_network_that_gives_no_numbers(runtime: Runtime, smile: np.ndarray) -> None:
    class Broken:
        def run(self, batch: np.ndarray) -> Mapping[str, np.ndarray]:
            return {"logits": np.full((len(batch), len(runtime.spec.class_names)), np.nan, np.float32)}

    runtime._pipeline.host.session = Broken()
    stage = Stage(runtime)
    results = [stage.show((smile, 260, 180)) for _ in range(10)]
    assert {(face.label, face.reason) for r in results for face in r.faces} == {(None, "not_finite")}
    assert runtime.non_finite > 0


def test_time_that_does_not_go_on(runtime: Runtime, smile: np.ndarray) -> None:
    """A clock that repeats, steps back, or jumps is no error and leaves one track or starts anew."""
    runtime._pipeline.detector = FixedDetector((260.0, 180.0, 260.0 + SIDE_PX, 180.0 + SIDE_PX))
    tracked, frame = runtime.tracked(), frame_with(smile, 260, 180)
    for at_s in (5.0, 5.03, 5.03, 5.03, 4.9, 5.1, 900.0, 900.03, 900.06, 3.0, 3.03, 3.06):
        result = tracked(frame, at_s)
    assert only(result).label == "happiness"
    with pytest.raises(UsageError, match="at_s"):
        tracked(frame, float("nan"))


def test_a_closed_runtime_refuses(smile: np.ndarray) -> None:
    runtime = Runtime(backend="onnxruntime", detector="haar", tune=False)
    tracked = runtime.tracked()
    runtime.close()
    with pytest.raises(BackendError, match="closed"):
        tracked(frame_with(smile, 260, 180))
    with pytest.raises(UsageError, match="tracking must be TrackingOptions"):
        Runtime(tracking=True)


def only_or_none(result: FrameResult) -> Face | None:
    return result.faces[0] if result.faces else None


def frame_with(picture: np.ndarray, x: int, y: int) -> np.ndarray:
    frame = np.full((480, 640, 3), 90, np.uint8)
    frame[y : y + SIDE_PX, x : x + SIDE_PX] = picture
    return frame


def test_a_limit_of_faces_is_reported(runtime: Runtime, smile: np.ndarray) -> None:
    frame, boxes = frame_with(smile, 260, 180), [(float(x), 10.0, x + 50.0, 60.0) for x in range(0, 600, 60)]
    for most, more in ((10, True), (11, False), (None, False)):
        runtime._pipeline.detector = FixedDetector(*boxes)
        runtime._pipeline.detector.max_faces = most
        assert runtime(frame).more_faces is more
    options = TrackingOptions(tracker=TrackerOptions(max_tracks=9))
    result = runtime.tracked(options)(frame, 5.0)
    assert (len(result.faces), result.more_faces) == (9, True)
    assert result.to_dict()["more_faces"] is True


@pytest.mark.parametrize("error", [BackendError("lost"), KeyboardInterrupt()])
def test_an_error_in_one_frame_does_not_spoil_the_next(
    error: BaseException, runtime: Runtime, smile: np.ndarray
) -> None:
    stage, session = Stage(runtime), runtime._pipeline.host.session

    class Fails:
        def run(self, batch: np.ndarray) -> Mapping[str, np.ndarray]:
            raise error

    runtime._pipeline.host.session = Fails()
    with pytest.raises(type(error)):
        stage.show((smile, 260, 180))
    runtime._pipeline.host.session = session
    results = [stage.show((smile, 260, 180)) for _ in range(3)] + [stage.show() for _ in range(60)]
    assert only(results[0]).label == "happiness"
    assert [kind for kind, _ in kinds(results)] == [
        EventKind.APPEARED, EventKind.LABEL_CHANGED, EventKind.LABEL_CHANGED, EventKind.LEFT,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def yunet_runtime() -> Iterator[Runtime]:
    """With the default detector, whose faces are followed between searches."""
    with Runtime(backend="onnxruntime", tune=False, threads=1) as opened:
        yield opened


def test_a_frame_of_another_size_is_searched(yunet_runtime: Runtime, astronaut: np.ndarray) -> None:
    tracked, large = yunet_runtime.tracked(), cv2.resize(astronaut, (1024, 1024))
    for index in range(40):
        frame = large if index % 3 == 2 else astronaut
        face = only(tracked(frame, index / 30))
        scale = frame.shape[0] / 512
        assert np.allclose(np.array(face.box_xyxy) / scale, (181, 63, 268, 175), atol=12), index


def test_a_clock_that_stands_still_does_not_freeze_the_faces(
    yunet_runtime: Runtime, astronaut: np.ndarray
) -> None:
    tracked = yunet_runtime.tracked()
    assert [len(tracked(astronaut, 5.0).faces) for _ in range(5)] == [1] * 5
    assert [len(tracked(np.zeros_like(astronaut), 5.0).faces) for _ in range(5)] == [0] * 5


def test_boxes_of_a_still_face_keep_their_size(yunet_runtime: Runtime, astronaut: np.ndarray) -> None:
    tracked, rng = yunet_runtime.tracked(), np.random.default_rng(0)
    widths = []
    for index in range(45):
        frame = np.clip(astronaut + rng.normal(0, 3, astronaut.shape), 0, 255).astype(np.uint8)
        left, _, right, _ = only(tracked(frame, index / 30)).box_xyxy
        widths.append(right - left)
    assert np.ptp(widths) < 0.08 * np.mean(widths)


@pytest.mark.parametrize("wrong", ["a", [1], 1j, 10**400, 1e308, float("inf")])
def test_a_time_that_is_none_is_named(wrong: object, yunet_runtime: Runtime, astronaut: np.ndarray) -> None:
    tracked = yunet_runtime.tracked()
    tracked(astronaut, 1.0)
    with pytest.raises(UsageError, match="captured_at_s must be"):
        tracked(astronaut, wrong)
    with pytest.raises(UsageError, match="options must be TrackingOptions"):
        yunet_runtime.tracked({})


def test_a_label_ends_soon_after_the_light_goes_out(yunet_runtime: Runtime, astronaut: np.ndarray) -> None:
    """A single poor crop does not end it."""
    tracked = yunet_runtime.tracked()
    for index in range(30):
        face = only(tracked(astronaut, index / 30))
    assert face.label == "happiness"
    dark = cv2.convertScaleAbs(astronaut, alpha=0.08)
    faces = [only(tracked(dark, index / 30)) for index in range(30, 60)]
    ended = next(number for number, face in enumerate(faces) if face.label is None)
    assert ended / 30 <= 0.6
    assert {face.reason for face in faces[ended:]} == {"too_dark"}
    assert all(sum(face.probabilities.values()) == pytest.approx(1) for face in faces)
    faces = [only(tracked(astronaut, index / 30)) for index in range(60, 90)]
    assert faces[-1].label == "happiness"


def test_a_face_that_is_dark_from_the_start_has_the_probabilities_of_a_call(
    yunet_runtime: Runtime, astronaut: np.ndarray
) -> None:
    dark = cv2.convertScaleAbs(astronaut, alpha=0.08)
    tracked, single = only(yunet_runtime.tracked()(dark, 0.0)), only(yunet_runtime(dark))
    assert (tracked.label, tracked.reason) == (single.label, single.reason) == (None, "too_dark")
    assert list(tracked.probabilities) == list(single.probabilities)
    assert tracked.probability == pytest.approx(single.probability, abs=0.2)

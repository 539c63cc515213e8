"""Known faces found again by their surroundings, against detection of the whole frame and known motion."""

from __future__ import annotations

import math
import threading
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from fer_edge.backends import BACKENDS
from fer_edge.detection import DetectorOptions, create_detector
from fer_edge.detection.yunet.decoding import decode
from fer_edge.detection.yunet.graph import MAPS
from fer_edge.errors import BackendError, DataError, DetectorError, UsageError
from fer_edge.results import Detection
from fer_edge.tracking import refine
from fer_edge.tracking.alignment import cut_square
from fer_edge.tracking.refine import RefinerOptions, create_refiner

#: The astronaut's face in her photograph, by eye.
FACE = Detection((180.0, 63.0, 274.0, 178.0), 1.0)


def moved(face: Detection, x: float, y: float) -> Detection:
    left, top, right, bottom = face.box_xyxy
    landmarks = None if face.landmarks is None else face.landmarks + np.float32([x, y])
    return Detection((left + x, top + y, right + x, bottom + y), face.score, landmarks)


def overlap(a: Detection, b: Detection) -> float:
    (l1, t1, r1, b1), (l2, t2, r2, b2) = a.box_xyxy, b.box_xyxy
    common = max(min(r1, r2) - max(l1, l2), 0) * max(min(b1, b2) - max(t1, t2), 0)
    return common / ((r1 - l1) * (b1 - t1) + (r2 - l2) * (b2 - t2) - common)


@pytest.fixture
def refiner(open_refiner):
    return open_refiner()


@pytest.fixture(scope="module")
def detector():
    detector = create_detector("yunet")
    yield detector
    detector.close()


# -- finding ----------------------------------------------------------------------------------------------------------


def test_a_face_is_where_detection_of_the_whole_frame_finds_it(refiner, detector, astronaut):
    (whole,) = detector.detect(astronaut)
    found = refiner.refine(astronaut, {7: whole})[7]
    assert overlap(found, whole) > 0.85
    assert found.landmarks.shape == (5, 2)
    assert found.landmarks.dtype == np.float32
    assert np.abs(found.landmarks - whole.landmarks).max() < 6  # of 92 pixels


def test_faces_of_photographs_are_where_detection_finds_them(refiner, photographs):
    # YuNet draws larger boxes around faces that fill more of its input: compared at a similar size.
    detector = create_detector("yunet", DetectorOptions(min_face_px=80))
    overlaps = []
    for photograph in photographs[::4]:
        frame = cv2.copyMakeBorder(photograph, 150, 150, 150, 150, cv2.BORDER_REPLICATE)
        whole = detector.detect(frame)
        if len(whole) == 1:
            found = refiner.refine(frame, {1: whole[0]})[1]
            overlaps.append(0.0 if found is None else overlap(found, whole[0]))
    detector.close()
    assert len(overlaps) > 40
    assert np.mean(np.array(overlaps) > 0.7) > 0.95
    assert np.median(overlaps) > 0.85


@pytest.mark.parametrize("step", [-0.5, -0.25, 0.25, 0.5])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_face_that_moved_by_half_of_its_width_is_found(refiner, astronaut, step, axis):
    move = np.array([0.0, 0.0])
    move[axis] = step * 94
    found = refiner.refine(astronaut, {1: moved(FACE, *move)})[1]
    assert overlap(found, FACE) > 0.75


def test_a_carried_face_does_not_drift(refiner, astronaut):
    face: Detection | None = FACE
    for t in range(1, 31):
        frame = np.roll(astronaut, (2 * t, 4 * t), axis=(0, 1))
        face = refiner.refine(frame, {1: face})[1]
        assert face is not None
        assert overlap(face, moved(FACE, 4 * t, 2 * t)) > 0.75


@pytest.mark.parametrize(
    "change", ["dark", "bright", "blurred", "noisy", "larger", "smaller", "another frame size"]
)
def test_a_face_in_a_changed_frame_is_found(refiner, astronaut, change):
    scale = {"larger": 1.15, "smaller": 0.87}.get(change, 1.0)
    frame, expected = cv2.resize(astronaut, None, fx=scale, fy=scale), FACE
    if change in ("dark", "bright"):
        frame = (frame * {"dark": 0.4, "bright": 1.5}[change]).clip(0, 255).astype(np.uint8)
    elif change == "blurred":
        frame = cv2.blur(frame, (15, 1))
    elif change == "noisy":
        frame = (frame + np.random.default_rng(0).normal(0, 12, frame.shape)).clip(0, 255).astype(np.uint8)
    elif change == "another frame size":
        frame = frame[:300]
    refiner.refine(astronaut, {1: FACE})
    found = refiner.refine(frame, {1: expected})[1]
    truth = Detection(tuple(scale * v for v in FACE.box_xyxy), 1.0)
    assert overlap(found, truth) > 0.7


@pytest.mark.parametrize("degrees", [-35, -20, 20, 35])
def test_landmarks_turn_with_the_face(refiner, detector, astronaut, degrees):
    (upright,) = detector.detect(astronaut)
    matrix = cv2.getRotationMatrix2D((227, 120), degrees, 1.0)
    frame = cv2.warpAffine(astronaut, matrix, (512, 512), borderMode=cv2.BORDER_REPLICATE)
    landmarks = (upright.landmarks @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)
    found = refiner.refine(frame, {1: replace(upright, landmarks=landmarks)})[1]
    assert np.linalg.norm(found.landmarks - landmarks, axis=1).max() < 8


@pytest.mark.parametrize("scale", [0.25, 0.5, 2, 6])
def test_size_of_the_face_does_not_matter(refiner, astronaut, scale):
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    frame = cv2.resize(astronaut, None, fx=scale, fy=scale, interpolation=method)
    truth = Detection(tuple(scale * v for v in FACE.box_xyxy), 1.0)
    found = refiner.refine(frame, {1: truth})[1]
    assert overlap(found, truth) > 0.75


def test_many_faces_are_found_together_as_alone(refiner, astronaut):
    frame = np.tile(astronaut[:256, 100:356], (4, 5, 1))
    expected = {
        10 * row + column: moved(FACE, 256 * column - 100, 256 * row)
        for row in range(4)
        for column in range(5)
    }
    together = refiner.refine(frame, expected)
    assert list(together) == list(expected)
    for track, face in expected.items():
        (alone,) = refiner.refine(frame, {track: face}).values()
        assert overlap(together[track], face) > 0.75
        np.testing.assert_allclose(together[track].box_xyxy, alone.box_xyxy, atol=0.05)
        np.testing.assert_allclose(together[track].landmarks, alone.landmarks, atol=0.05)


# -- losing -----------------------------------------------------------------------------------------------------------


def test_a_face_that_vanished_or_was_covered_is_not_found(refiner, astronaut):
    gone = astronaut.copy()
    gone[30:230, 150:310] = np.random.default_rng(0).integers(0, 255, (200, 160, 3))
    assert refiner.refine(gone, {1: FACE}) == {1: None}
    plain = astronaut.copy()
    plain[30:230, 150:310] = (120, 140, 190)
    assert refiner.refine(plain, {1: FACE}) == {1: None}


def test_a_face_far_from_the_expected_place_is_not_found(refiner, astronaut):
    assert refiner.refine(astronaut, {1: moved(FACE, 240, 240)}) == {1: None}


def test_one_face_is_not_found_twice(refiner, astronaut):
    found = refiner.refine(astronaut, {1: moved(FACE, 30, 0), 2: moved(FACE, 5, 0), 3: moved(FACE, -40, 0)})
    assert found[1] is None
    assert found[3] is None
    assert overlap(found[2], FACE) > 0.75


def test_a_face_that_lost_its_place_to_another_takes_its_own():
    """Both want the left box; only one of them has a second candidate, which is free."""
    boxes = np.array([[[0, 0], [10, 10]], [[0, 0], [10, 10]], [[12, 0], [22, 10]]], np.float64)
    assert sorted(refine._assign(boxes, np.array([0.9, 0.8, 0.3]), [0, 1, 1])) == [0, 2]
    assert refine._assign(boxes[:2], np.array([0.9, 0.8]), [0, 1]) == [0]


def test_neighbours_keep_their_faces(refiner, astronaut):
    frame = np.hstack([astronaut[:256, 150:300]] * 2)
    left, right = moved(FACE, -150, 0), moved(FACE, 0, 0)
    found = refiner.refine(frame, {1: moved(left, 20, 0), 2: moved(right, -20, 0)})
    assert overlap(found[1], left) > 0.75
    assert overlap(found[2], right) > 0.75


# -- edges and bad input ----------------------------------------------------------------------------------------------


def test_a_face_cut_off_by_the_frame_has_a_box_inside(refiner, astronaut):
    for frame, face in [
        (astronaut[:, 205:], moved(FACE, -205, 0)),
        (astronaut[85:], moved(FACE, 0, -85)),
        (astronaut[:, :250], FACE),
        (astronaut[:155], FACE),
    ]:
        found = refiner.refine(np.ascontiguousarray(frame), {1: face})[1]
        left, top, right, bottom = found.box_xyxy
        assert 0 <= left < right <= frame.shape[1]
        assert 0 <= top < bottom <= frame.shape[0]


@pytest.mark.parametrize(
    "box",
    [
        (math.nan, 0, 10, 10),
        (0, 0, math.inf, 10),
        (-math.inf, 0, math.inf, 10),
        (200, 100, 200, 150),
        (250, 150, 200, 100),
        (600, 600, 700, 700),
        (-90, -90, -1, -1),
        (-1e30, -1e30, 1e30, 1e30),
        (300, 300, 300.001, 300.001),
    ],
)
def test_an_unusable_box_is_not_found(refiner, astronaut, box):
    found = refiner.refine(astronaut, {1: Detection(box, 1.0), 2: FACE})
    assert found[1] is None
    assert overlap(found[2], FACE) > 0.75


def test_landmarks_that_are_not_finite_count_as_none(refiner, astronaut):
    landmarks = np.full((5, 2), np.nan, np.float32)
    assert overlap(refiner.refine(astronaut, {1: replace(FACE, landmarks=landmarks)})[1], FACE) > 0.75


def test_no_tracks(refiner, astronaut):
    assert refiner.refine(astronaut, {}) == {}


def test_a_tiny_frame(refiner):
    assert refiner.refine(np.zeros((1, 1, 3), np.uint8), {1: Detection((0, 0, 1, 1), 1.0)}) == {1: None}


def test_a_frame_of_another_format_is_refused(refiner, astronaut):
    with pytest.raises(DataError, match="expected a frame"):
        refiner.refine(astronaut.astype(np.float32), {1: FACE})
    with pytest.raises(DataError, match="expected a frame"):
        refiner.refine(astronaut[..., :2], {})


def test_a_view_of_a_frame_is_taken(refiner, astronaut):
    assert (
        overlap(
            refiner.refine(astronaut[::2, ::2], {1: Detection((90, 31, 137, 89), 1.0)})[1],
            Detection((90, 31, 137, 89), 1.0),
        )
        > 0.7
    )


@pytest.mark.parametrize("name", [name for name in BACKENDS if name != "onnxruntime"])
def test_backends_agree(open_refiner, astronaut, name):
    state = BACKENDS[name].available()
    if not state.ok:
        pytest.skip(state.reason)
    frame = np.hstack([astronaut[:256, 100:356]] * 2)
    expected = {1: moved(FACE, -100, 0), 2: moved(FACE, 156, 0)}
    found, reference = (
        open_refiner(backend=name).refine(frame, expected),
        open_refiner().refine(frame, expected),
    )
    for track in expected:
        np.testing.assert_allclose(found[track].box_xyxy, reference[track].box_xyxy, atol=0.1)
        np.testing.assert_allclose(found[track].landmarks, reference[track].landmarks, atol=0.1)


def test_threads_share_a_refiner(refiner, astronaut):
    expected = refiner.refine(astronaut, {1: FACE})[1].box_xyxy
    results: list[tuple[float, ...]] = []
    threads = [
        threading.Thread(target=lambda: results.append(refiner.refine(astronaut, {1: FACE})[1].box_xyxy))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 4


def test_a_closed_refiner_is_refused(open_refiner, astronaut):
    refiner = open_refiner()
    refiner.close()
    refiner.close()
    with pytest.raises(DetectorError, match="this refiner is closed"):
        refiner.refine(astronaut, {1: FACE})


def test_options(tmp_path: Path):
    (tmp_path / "no.onnx").write_bytes(b"no model")
    with pytest.raises(DetectorError, match=r"no\.onnx cannot be read as YuNet"):
        create_refiner(RefinerOptions(model=tmp_path / "no.onnx"))
    with pytest.raises((BackendError, UsageError), match="nothing"):
        create_refiner(RefinerOptions(backend="nothing"))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("min_score", math.nan),
        ("min_score", 1.5),
        ("surroundings", 0.5),
        ("input_px", 100),
        ("input_px", 0),
        ("threads", 0),
        ("backend", 3),
        ("model", 3),
    ],
)
def test_wrong_options_are_refused(option, value):
    with pytest.raises(UsageError, match=option):
        RefinerOptions(**{option: value})


# -- parts ------------------------------------------------------------------------------------------------------------


def test_a_batch_is_decoded_as_its_images_alone():
    random = np.random.default_rng(3)
    side, count = 96, 3
    outputs = {
        name: random.normal(0, 2, (count, 16, side // stride, side // stride)).astype(np.float32)
        for name, stride in MAPS.items()
    }
    points, scores, images = refine._decode(outputs, 0.6)
    assert len(scores) > 20
    for image in range(count):
        one = decode({name: output[image : image + 1] for name, output in outputs.items()}, 0.6)
        own = images == image
        np.testing.assert_array_equal(points[own, :2].reshape(-1, 4), one.boxes_xyxy)
        np.testing.assert_array_equal(points[own, 2:], one.landmarks)
        np.testing.assert_array_equal(scores[own], one.scores)


def test_a_cut_and_its_points_agree():
    """A bright spot in the frame, found in the cut, maps back to its place, at every roll and scale."""
    frame = np.zeros((400, 400, 3), np.uint8)
    cv2.circle(frame, (230, 170), 4, (255, 255, 255), -1)
    for degrees in (0, 30, -40):
        for step in (0.9, 1.7, 3.6):
            turn = step * complex(math.cos(math.radians(degrees)), math.sin(math.radians(degrees)))
            cut = cut_square(frame, 210 + 190j, turn, 96, max_step_px=3)
            y, x = np.nonzero(cut[..., 0] > 100)
            place = np.array([x.mean() + 0.5, y.mean() + 0.5]) - 48
            mapped = refine._to_frame(np.tile(place, (1, 7, 1)), np.array([[210.0, 190.0]]), np.array([turn]))
            np.testing.assert_allclose(mapped[0, 0], [230.5, 170.5], atol=0.5 * step)

"""Boxes and crops of the caller are classified like those of the detector."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import pytest

from fer_edge import Runtime
from fer_edge.errors import DataError
from fer_edge.preprocess import crop_face
from fer_edge.results import Detection
from fer_edge.runtime.faces import MAX_BOXES, as_detections


@pytest.fixture(scope="module")
def runtime() -> Iterator[Runtime]:
    with Runtime(backend="onnxruntime", tune=False) as opened:
        yield opened


def test_the_boxes_of_the_detector_give_its_faces(runtime: Runtime, astronaut: np.ndarray) -> None:
    (found,) = runtime(astronaut).faces
    for boxes in ([found.box_xyxy], np.array([found.box_xyxy]), [Detection(found.box_xyxy, 1.0)]):
        (face,) = runtime.classify(astronaut, boxes).faces
        assert (face.label, face.probabilities) == (found.label, found.probabilities)
        assert (face.box_xyxy, face.detection_score) == (found.box_xyxy, 1.0)
    result = runtime.classify(astronaut, [Detection(found.box_xyxy, 0.7, found.landmarks)])
    assert result.faces[0].landmarks is found.landmarks
    assert set(result.timings_ms) == {"detect", "prepare", "classify", "total"}


def test_faces_keep_the_order_of_the_boxes(runtime: Runtime, astronaut: np.ndarray) -> None:
    frame = np.hstack([astronaut, np.full_like(astronaut, 60)])
    smile, wall, outside, tiny = (170, 60, 290, 210), (700, 100, 820, 250), (2000, 0, 2100, 90), (5, 5, 6, 6)
    faces = runtime.classify(frame, [wall, smile, outside, tiny]).faces
    assert [face.box_xyxy for face in faces] == [wall, smile, outside, tiny]
    assert faces[1].label == "happiness"
    assert [face.reason for face in faces[2:]] == ["too_small", "too_small"]
    assert [face.classified_at_s is None for face in faces] == [False, False, True, True]
    assert runtime.classify(frame, []).faces == ()
    assert runtime.classify(frame, np.zeros((0, 4))).faces == ()


def test_crops_are_classified_as_they_are(runtime: Runtime, astronaut: np.ndarray) -> None:
    (found,) = runtime(astronaut).faces
    crop = crop_face(astronaut, found.box_xyxy, runtime.spec.crop)
    png = cv2.imencode(".png", crop)[1].tobytes()
    first, second, gray = runtime.classify_crops([crop, png, np.full((9, 300, 3), 120, np.uint8)])
    assert first.probabilities == pytest.approx(found.probabilities, abs=1e-6)
    assert second.probabilities == first.probabilities
    assert first.box_xyxy == (0, 0, crop.shape[1], crop.shape[0])
    assert gray.box_xyxy == (0, 0, 300, 9)
    assert runtime.classify_crops([]) == ()
    assert runtime.classify_crops(iter([crop]))[0].label == "happiness"


def test_more_crops_than_a_batch(astronaut: np.ndarray) -> None:
    crops = [astronaut[40:240, 120 + shift : 320 + shift] for shift in range(5)]
    found = []
    for size in (2, None):
        with Runtime(backend="onnxruntime", tune=False, max_batch=size) as runtime:
            found.append([[*face.probabilities.values()] for face in runtime.classify_crops(crops)])
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([(0, 0, 10, float("nan"))], "expected boxes"),
        ([(0, 0, 10)], "expected boxes"),
        ([("a", 0, 1, 1)], "expected boxes"),
        (np.zeros((2, 2, 2)), "expected boxes"),
        (np.array(["x"]), "expected boxes"),
        ([(10, 10, 10, 20)], "left < right"),
        ([(100, 100, 50, 50)], "not corner and size"),
        ([(0, 0, 1e300, 1e300)], "left < right"),
        ([(0, 0, 1, 1)] * (MAX_BOXES + 1), "at most 4096 boxes"),
        ([Detection((0, 0, 1, 1), 1.0), (0, 0, 1, 1)], "found both"),
        ([Detection((5, 0, 1, 1), 1.0)], "left < right"),
        ([(0, 0, 1, 1), (0, 0, 1)], "expected boxes"),
        (None, "expected boxes"),
        (5, "expected boxes"),
        (np.array(5.0), "expected boxes"),
        ([Detection((0, 0, 1, 1), float("nan"))], "finite score"),
        ([Detection((0, 0, 1, 1), 1.0, roll_deg=float("inf"))], "finite score"),
        ([Detection((0, 0, 1, 1), 1.0, [[0, 0]] * 5)], "landmarks"),
    ],
)
def test_a_box_that_is_none_is_named(boxes: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        as_detections(boxes)


def test_a_crop_that_is_no_picture_is_named(runtime: Runtime) -> None:
    for crop in (np.zeros((4, 4), np.float32), None, np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(DataError, match="Fix: "):
            runtime.classify_crops([crop])


def test_one_picture_is_not_a_sequence_of_crops(runtime: Runtime, astronaut: np.ndarray) -> None:
    for wrong in (astronaut, astronaut[..., 0], "a.png", b"png", None, 5):
        with pytest.raises(DataError, match="give a list"):
            runtime.classify_crops(wrong)


def test_a_box_of_many_frames_costs_no_memory(runtime: Runtime) -> None:
    frame = np.zeros((48, 48, 3), np.uint8)
    for side in (15_000, 1 << 20):
        (face,) = runtime.classify(frame, [(-side, -side, side, side)]).faces
        assert (face.label, face.reason) == (None, "too_small")

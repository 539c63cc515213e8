"""Detectors on photographs and on invalid input."""

from __future__ import annotations

import subprocess
import sys

import cv2
import numpy as np
import pytest
from matching import MIN_FACE_PX, iou

from fer_edge.backends import BACKENDS
from fer_edge.detection import DETECTORS, create_detector
from fer_edge.detection.base import DetectorOptions
from fer_edge.detection.mtcnn.detector import MtcnnDetector
from fer_edge.detection.mtcnn.pyramid import cut_pyramid, halve
from fer_edge.errors import BackendError, DataError, DetectorError, UsageError


@pytest.fixture(params=sorted(DETECTORS))
def detector(request, create):
    return create(request.param)


@pytest.fixture(scope="module")
def mtcnn(networks_folder):
    return create_detector("mtcnn", DetectorOptions(threads=1))


def assert_inside(detections, frame):
    height, width = frame.shape[:2]
    for detection in detections:
        left, top, right, bottom = detection.box_xyxy
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        assert 0 <= detection.score <= 1


# A box of her face, drawn by hand: hairline to chin, cheek to cheek.
ASTRONAUT_FACE = (175.0, 65.0, 270.0, 175.0)


def test_astronaut_has_one_face(detector, astronaut):
    found = detector.detect(astronaut)
    assert len(found) == 1
    assert iou(found[0].box_xyxy, ASTRONAUT_FACE) > 0.6
    assert_inside(found, astronaut)


@pytest.mark.parametrize("name", ["mtcnn", "yunet"])
def test_landmarks_are_in_the_order_of_the_contract(name, astronaut, create):
    (face,) = create(name).detect(astronaut)
    assert face.landmarks.shape == (5, 2)
    assert face.landmarks.dtype == np.float32
    left_eye, right_eye, nose, left_mouth, right_mouth = face.landmarks
    assert left_eye[0] < nose[0] < right_eye[0]
    assert left_mouth[0] < nose[0] < right_mouth[0]
    assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])


def test_mirrored_picture_gives_mirrored_result(detector, astronaut):
    mirrored = astronaut[:, ::-1]
    assert not mirrored.flags.c_contiguous
    (face,), (other,) = detector.detect(astronaut), detector.detect(mirrored)
    left, top, right, bottom = other.box_xyxy
    width = astronaut.shape[1]
    assert iou(face.box_xyxy, (width - right, top, width - left, bottom)) > 0.75
    if face.landmarks is not None:
        swapped = other.landmarks[[1, 0, 2, 4, 3]] * [-1, 1] + [width, 0]
        assert np.abs(swapped - face.landmarks).max() < 8


def test_faces_come_largest_first(detector, astronaut):
    face = astronaut[20:220, 120:320]
    frame = np.full((420, 640, 3), 90, np.uint8)
    frame[10:170, 10:170] = cv2.resize(face, (160, 160), interpolation=cv2.INTER_AREA)
    frame[10:410, 220:620] = cv2.resize(face, (400, 400))
    found = detector.detect(frame)
    assert len(found) == 2
    assert found[0].box_xyxy[0] > 220 > found[1].box_xyxy[2]


@pytest.mark.parametrize("name", sorted(DETECTORS))
@pytest.mark.parametrize("option", [{"min_face_px": 150}, {"min_score": 1.0}])
def test_limits_are_kept(name, option, astronaut, create):
    assert create(name, **option).detect(astronaut) == []


@pytest.mark.parametrize(
    "shape", [(1, 1), (11, 11), (5, 300), (300, 5), (12, 333), (31, 333), (64, 64), (480, 640)]
)
def test_frames_without_a_face(detector, shape):
    gradient = np.linspace(0, 255, shape[0] * shape[1] * 3).reshape(*shape, 3).astype(np.uint8)
    for frame in (np.zeros((*shape, 3), np.uint8), gradient):
        assert detector.detect(frame) == []


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((48, 48), np.uint16),
        np.zeros((48, 48, 2), np.uint8),
        np.zeros((48, 48, 4), np.uint8),
        np.zeros((48, 48, 3), np.float32),
        np.zeros((0, 48, 3), np.uint8),
    ],
)
def test_other_arrays_are_refused(detector, frame):
    with pytest.raises(DataError, match="Fix: "):
        detector.detect(frame)


def test_frames_beyond_what_opencv_can_warp_are_refused(detector):
    with pytest.raises(DataError, match="at most 32766 pixels"):
        detector.detect(np.zeros((1, 32767, 3), np.uint8))


def test_closed_detector_says_so(detector, astronaut):
    detector.close()
    with pytest.raises((DetectorError, BackendError), match="closed"):
        detector.detect(astronaut)


def test_mtcnn_finds_a_face_in_a_huge_frame(mtcnn, astronaut):
    frame = np.zeros((6000, 6200, 3), np.uint8)
    frame[5000:5512, 5100:5612] = astronaut
    found = mtcnn.detect(frame)
    assert len(found) == 1
    assert iou(found[0].box_xyxy, tuple(np.add(ASTRONAUT_FACE, [5100, 5000] * 2))) > 0.6


def propose(mtcnn, halvings):
    with mtcnn._sessions as sessions:
        return mtcnn._propose(halvings, sessions["pnet"])


def test_strips_give_what_the_whole_level_gives(mtcnn, astronaut, monkeypatch):
    halvings = halve(astronaut)
    boxes = propose(mtcnn, halvings)
    monkeypatch.setattr("fer_edge.detection.mtcnn.pyramid._STRIP_AREA_PX", 20 * 160)
    strip_boxes = propose(mtcnn, halvings)
    assert len(boxes) > 10
    np.testing.assert_allclose(strip_boxes, boxes, atol=1e-2)


def test_mtcnn_finds_a_face_that_leaves_the_frame(mtcnn, astronaut):
    assert len(mtcnn.detect(astronaut[75:])) == 1
    assert len(mtcnn.detect(astronaut[:, 190:])) == 1


def test_mtcnn_on_another_backend_agrees(mtcnn, astronaut):
    state = BACKENDS["openvino"].available()
    if not state.ok:
        pytest.skip(state.reason)
    (face,) = mtcnn.detect(astronaut)
    (other,) = MtcnnDetector(DetectorOptions(backend="openvino", threads=1)).detect(astronaut)
    np.testing.assert_allclose(other.box_xyxy, face.box_xyxy, atol=0.1)


def test_mtcnn_runs_no_large_piece_at_once():
    """A 4K frame run at once would take two gigabytes."""
    pieces = cut_pyramid(halve(np.zeros((2160, 3840, 3), np.uint8)), 12, None)
    assert max(piece.image.shape[0] * piece.image.shape[1] for piece in pieces) < 200_000


@pytest.mark.parametrize("name", ["mtcnn", "yunet"])
def test_detection_rate_on_photographs(name, photographs, create):
    detector = create(name, min_face_px=MIN_FACE_PX)
    found = []
    for frame in photographs:
        faces = detector.detect(frame)
        assert_inside(faces, frame)
        found.append(len(faces))
    assert np.mean(np.array(found) > 0) >= 0.95
    assert np.mean(found) < 1.1


def test_mtcnn_and_yunet_agree(mtcnn, photographs, create):
    yunet = create("yunet")
    overlaps = []
    for frame in photographs[::3]:
        ours, theirs = mtcnn.detect(frame), yunet.detect(frame)
        if ours and theirs:
            overlaps.append(iou(ours[0].box_xyxy, theirs[0].box_xyxy))
    assert len(overlaps) >= 50
    assert np.mean(np.array(overlaps) > 0.4) >= 0.95


def test_unknown_name_lists_the_choices():
    with pytest.raises(
        UsageError, match=r"unknown detector 'mtccn'. Fix: choose from haar, mtcnn, yunet .*'mtcnn'"
    ):
        create_detector("mtccn")


@pytest.mark.parametrize("options", [{"min_face_px": 0}, {"min_score": 1.5}, {"min_score": float("nan")}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(UsageError, match="must"):
        create_detector("haar", DetectorOptions(**options))


def test_unknown_backend_is_refused():
    with pytest.raises(UsageError, match="unknown backend 'onnx'"):
        create_detector("mtcnn", DetectorOptions(backend="onnx"))


def test_haar_without_cascades_names_the_fix(monkeypatch):
    monkeypatch.delattr(cv2, "CascadeClassifier")
    with pytest.raises(DetectorError, match="pip install 'opencv-python-headless<5'"):
        create_detector("haar")


def test_importing_the_package_is_light():
    program = (
        "import sys, fer_edge.detection; "
        "print([m for m in ('joblib', 'lz4', 'onnx', 'mtcnn', 'onnxruntime', 'tensorflow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

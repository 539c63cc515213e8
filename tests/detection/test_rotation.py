"""Cameras on their side: results are those of the upright frame, in pixels of the frame as it was given."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from device_arrays import InterfaceArray

from fer_edge import Runtime, RuntimeOptions
from fer_edge.detection.rotation import AUTO, ROTATIONS_DEG, Mounting, UprightFrame
from fer_edge.errors import DataError, UsageError
from fer_edge.frames import Frame
from fer_edge.results import Detection, Face, FrameResult, RuntimeState

#: Clockwise turn that makes a frame upright → OpenCV's turn that the camera made.
MOUNTED = {90: cv2.ROTATE_90_COUNTERCLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_CLOCKWISE}


def mount(image: np.ndarray, rotation: int) -> np.ndarray:
    return cv2.rotate(image, MOUNTED[rotation]) if rotation else image


def paint(value: np.ndarray, box: tuple[float, ...]) -> np.ndarray:
    """Return a mask of a box."""
    mask = np.zeros(value.shape[:2], np.uint8)
    left, top, right, bottom = (round(v) for v in box)
    mask[top:bottom, left:right] = 1
    return mask


@pytest.mark.parametrize(
    ("rotation", "rotate"), [(rotation, given) for rotation in ROTATIONS_DEG for given in (rotation, AUTO)]
)
def test_faces_are_those_of_the_upright_frame(rotation, rotate, astronaut):
    frame = np.ascontiguousarray(astronaut[:400])
    with Runtime(backend="onnxruntime") as runtime:
        (upright,) = runtime(frame).faces
    with Runtime(backend="onnxruntime", rotate=rotate) as runtime:
        (face,) = runtime(mount(frame, rotation)).faces
    assert face.label == upright.label == "happiness"
    assert face.probability == upright.probability
    np.testing.assert_array_equal(
        paint(mount(frame, rotation), face.box_xyxy), mount(paint(frame, upright.box_xyxy), rotation)
    )
    for (x, y), (other_x, other_y) in zip(face.landmarks, upright.landmarks, strict=True):
        dot = paint(frame, (other_x, other_y, other_x + 1, other_y + 1))
        rows, columns = np.nonzero(mount(dot, rotation))
        assert abs(columns[0] + 0.5 - x) <= 1
        assert abs(rows[0] + 0.5 - y) <= 1


@pytest.mark.parametrize("rotation", ROTATIONS_DEG)
def test_attention_is_turned_back(rotation):
    heat = np.arange(12, dtype=np.float32).reshape(3, 4)
    face = Face((10, 20, 50, 50), 1.0, None, 0.0, {}, attention=heat, crop_xyxy=(-5, 20, 50, 50))
    upright = UprightFrame(Frame(np.zeros((60, 80, 3), np.uint8), 0, 0.0), rotation)
    result = FrameResult(0, 0.0, 0.0, 0, (face,), {}, RuntimeState.RUNNING)
    (turned,) = upright.turn_back(result).faces
    np.testing.assert_array_equal(turned.attention, mount(heat, rotation))
    left, top, right, bottom = turned.crop_xyxy
    expected = {
        0: (-5, 20, 50, 50),
        90: (20, 30, 50, 85),
        180: (30, 10, 85, 40),
        270: (10, -5, 40, 50),
    }
    assert (left, top, right, bottom) == expected[rotation]


class Faces:
    """Finds a face in frames whose brightest corner is the top left one, and counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, image: np.ndarray) -> list[Detection]:
        self.calls += 1
        return [Detection((0, 0, 1, 1), 0.8)] * bool(image[0, 0, 0] == 255)


@pytest.mark.parametrize("rotation", ROTATIONS_DEG)
def test_auto_is_decided_by_frames_with_faces_and_kept(rotation):
    detect = Faces()
    mounting = Mounting(AUTO, detect)
    empty, upright = np.zeros((6, 8, 3), np.uint8), np.zeros((6, 8, 3), np.uint8)
    upright[0, 0] = 255
    face = mount(upright, rotation)
    for number in range(5):
        assert mounting.turn(Frame(empty, number, 0.0)).rotation_deg == 0
    assert detect.calls == 10  # one more look per frame without a face
    for number in range(8):
        assert mounting.rotation_deg is None or number >= 3
        mounting.turn(Frame(face, number, 0.0))
    assert mounting.rotation_deg == rotation
    calls = detect.calls
    for image in (empty, face):
        assert mounting.turn(Frame(image, 9, 0.0)).rotation_deg == rotation
    assert detect.calls == calls


def test_auto_outvotes_single_errors():
    mounting = Mounting(AUTO, Faces())
    images = [np.zeros((6, 8, 3), np.uint8) for _ in range(2)]
    images[0][0, 0], images[1][-1, -1] = 255, 255
    for which in (1, 0, 0, 0):
        for number in range(3):  # a face may be seen in any of three frames, while one more rotation is tried
            mounting.turn(Frame(images[which], number, 0.0))
        if which == 1:
            assert mounting.rotation_deg is None or mounting.rotation_deg == 180


@pytest.mark.parametrize("rotate", [90, AUTO])
def test_frames_in_device_memory_are_refused(rotate):
    mounting = Mounting(rotate, Faces())
    with pytest.raises(UsageError, match=r"found one in device memory. Fix: copy it to the host"):
        mounting.turn(Frame(InterfaceArray(np.zeros((4, 4, 3), np.uint8)), 0, 0.0))
    with pytest.raises(DataError, match="expected a frame"):
        mounting.turn(Frame(np.zeros((4, 4), np.float32), 0, 0.0))


@pytest.mark.parametrize("rotate", [45, -90, 90.0, True, "90", None, [90]])
def test_other_rotations_are_refused(rotate):
    with pytest.raises(UsageError, match="rotate must be one of 0, 90, 180, 270 or auto, found"):
        RuntimeOptions(rotate=rotate)

"""Size, light, contrast, sharpness and noise of face crops, against known answers."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from fer_edge.errors import DataError
from fer_edge.quality import Quality, measure_quality
from fer_edge.results import Detection

PLAIN = Detection((0.0, 0.0, 90.0, 90.0), 0.9)


@pytest.fixture(scope="module")
def face(astronaut: np.ndarray) -> np.ndarray:
    """The astronaut's face, ``[130, 130, 3]``."""
    return np.ascontiguousarray(astronaut[60:190, 160:290])


def of(crop: np.ndarray) -> Quality:
    return measure_quality(crop, PLAIN)


def test_size_light_and_contrast_are_those_of_the_crop() -> None:
    halves = np.zeros((96, 144, 3), np.uint8)
    halves[:, 72:] = 200
    found = of(halves)
    assert (found.side_px, found.luma, found.contrast) == (96, 100, 100)
    assert (found.yaw_deg, found.pitch_deg, found.roll_deg) == (None, None, None)


def test_gray_equals_its_bgr_copy(face: np.ndarray) -> None:
    gray = cv2.cvtColor(face, cv2.COLOR_BGR2GRAY)
    assert of(gray) == of(cv2.cvtColor(gray, cv2.COLOR_GRAY2BGR))


def test_blur_lowers_the_sharpness_step_by_step(face: np.ndarray) -> None:
    found = [of(face), *(of(cv2.GaussianBlur(face, (0, 0), sigma)) for sigma in (1, 2, 4, 8, 16))]
    sharpness = [q.sharpness for q in found]
    assert sharpness == sorted(sharpness, reverse=True)
    assert sharpness[0] > 30 * sharpness[-1]
    assert [q.luma for q in found] == pytest.approx([found[0].luma] * 6, abs=8)


@pytest.mark.parametrize("angle_deg", [0, 45, 90, 135])
def test_motion_in_every_direction_is_blur(face: np.ndarray, angle_deg: int) -> None:
    kernel = np.zeros((15, 15), np.float32)
    step = np.rint([np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))]).astype(int)
    for t in range(-7, 8):
        kernel[7 + t * step[1], 7 + t * step[0]] = 1 / 15
    assert of(cv2.filter2D(face, -1, kernel)).sharpness < of(face).sharpness / 5


def test_sharpness_is_that_of_the_detail_left_after_shrinking(face: np.ndarray) -> None:
    found = [of(cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA)) for side in (48, 32, 20, 10)]
    assert [q.side_px for q in found] == [48, 32, 20, 10]
    sharpness = [q.sharpness for q in found]
    assert sharpness == sorted(sharpness, reverse=True)


def test_light_changes_luma_and_contrast_alone(face: np.ndarray) -> None:
    half = of(np.rint(face * 0.5).astype(np.uint8))
    full = of(face)
    assert half.luma == pytest.approx(full.luma / 2, abs=0.5)
    assert half.contrast == pytest.approx(full.contrast / 2, abs=0.5)
    assert half.sharpness == pytest.approx(full.sharpness, rel=0.05)


@pytest.mark.parametrize("sigma", [4, 8, 16, 24])
def test_the_noise_that_was_added_is_found(sigma: float) -> None:
    ramp = np.tile(np.linspace(60, 190, 48), (48, 1))
    noisy = ramp + sigma * np.random.default_rng(0).normal(size=ramp.shape)
    found = of(np.rint(noisy).clip(0, 255).astype(np.uint8))
    assert found.noise * found.contrast == pytest.approx(sigma, rel=0.1)


def test_edges_are_not_noise(face: np.ndarray) -> None:
    assert of(face).noise < 0.1
    stripes = np.tile(np.repeat(np.array([40, 210], np.uint8), 6), (48, 4))
    assert of(stripes).noise == 0


def test_the_mirror_image_has_the_same_quality(face: np.ndarray) -> None:
    points = np.array([[40, 50], [85, 48], [66, 75], [45, 100], [82, 98]], np.float32)
    one = measure_quality(face, Detection(PLAIN.box_xyxy, 0.9, points))
    mirrored = (points * (-1, 1) + (129, 0))[[1, 0, 2, 4, 3]].astype(np.float32)
    other = measure_quality(np.ascontiguousarray(face[:, ::-1]), Detection(PLAIN.box_xyxy, 0.9, mirrored))
    assert other.sharpness == pytest.approx(one.sharpness, rel=0.02)
    assert other.yaw_deg == pytest.approx(-one.yaw_deg, abs=1e-3)
    assert other.roll_deg == pytest.approx(-one.roll_deg, abs=1e-3)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 1), (1, 400, 3), (300, 2, 3), (2000, 2000, 3)], ids=str)
@pytest.mark.parametrize("value", [0, 255, 7])
def test_crops_of_one_colour_and_of_every_size_are_finite(shape: tuple[int, ...], value: int) -> None:
    found = of(np.full(shape, value, np.uint8))
    assert (found.luma, found.contrast, found.sharpness, found.noise) == (value, 0, 0, 0)
    assert found.side_px == min(shape[:2])


def test_parts_of_a_frame_are_measured_as_their_copies(face: np.ndarray) -> None:
    part = face[5:100:1, 10:110]
    assert not part.flags.c_contiguous
    assert of(part) == of(part.copy())


@pytest.mark.parametrize(
    "crop",
    [
        np.zeros((0, 5, 3), np.uint8),
        np.zeros((5, 5, 4), np.uint8),
        np.zeros(5, np.uint8),
        np.zeros((5, 5, 3), np.float32),
        np.zeros((5, 5), np.uint16),
        np.zeros((1, 5, 5, 3), np.uint8),
    ],
    ids=["empty", "BGRA", "1D", "float", "16 bits", "batch"],
)
def test_other_arrays_are_refused(crop: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"expected a uint8 crop .* Fix: cut it"):
        of(crop)


def test_landmarks_that_are_not_finite_leave_the_pose_open(face: np.ndarray) -> None:
    found = measure_quality(face, Detection(PLAIN.box_xyxy, 0.9, np.full((5, 2), np.nan, np.float32)))
    assert found.yaw_deg is None
    assert found.sharpness > 0

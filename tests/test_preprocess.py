"""Crops and batches against an independent statement of the authors' rule, OpenCV and float64."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from fer_edge.errors import DataError
from fer_edge.preprocess import crop_bounds, crop_face, normalise, prepare_batch, resize_image
from fer_edge.spec import CropRule, ModelSpec

SQUARE = CropRule()
RNG = np.random.default_rng(7)
FRAME = RNG.integers(0, 256, (60, 80, 3), np.uint8)


def spec(
    color: str = "rgb", channels: int = 3, size: tuple[int, int] = (48, 40), interpolation: str = "bilinear"
) -> ModelSpec:
    mean, std = (0.485, 0.456, 0.406)[:channels], (0.229, 0.224, 0.225)[:channels]
    return ModelSpec("net", *size, color, channels, mean, std, ("a", "b"), interpolation=interpolation)


def authors_bounds(x: float, y: float, w: float, h: float) -> tuple[int, int, int, int]:
    x, y, w, h = (math.trunc(v) for v in (x, y, w, h))
    centre = [math.floor((low + high) / 2) for low, high in ((x, x + w), (y, y + h))]
    half = math.floor(math.floor((w + h) / 2) / 2) * 1.1
    corners = [math.trunc(c - half) for c in centre] + [math.trunc(c + half) for c in centre]
    return corners[0], corners[1], corners[2], corners[3]


def authors_crop(frame: np.ndarray, x: float, y: float, w: float, h: float) -> np.ndarray:
    left, top, right, bottom = authors_bounds(x, y, w, h)
    return frame[max(0, top) : bottom, max(0, left) : right]


def test_square_bounds_follow_the_authors_rule() -> None:
    for _ in range(2000):
        x, y = (int(v) for v in RNG.integers(-300, 2000, 2))
        w, h = (int(v) for v in RNG.integers(1, 900, 2))
        assert crop_bounds((x, y, x + w, y + h), SQUARE) == authors_bounds(x, y, w, h)


def test_square_bounds_truncate_fractions() -> None:
    for _ in range(500):
        x, y, w, h = (float(v) for v in RNG.uniform(1, 500, 4))
        # (x + w) - x may round across a whole number: keep away from them.
        if min(abs(v - round(v)) for v in (w, h)) > 1e-6:
            assert crop_bounds((x, y, x + w, y + h), SQUARE) == authors_bounds(x, y, w, h)


def test_square_bounds_by_hand() -> None:
    # w 41, h 60: half = (101 // 2) // 2 * 1.1 = 27.5; centre (30, 50).
    assert crop_bounds((10.9, 20.2, 51.95, 80.3), SQUARE) == (2, 22, 57, 77)
    # Negative corners are cut towards zero: 12 - 24.12 → -12, 5 - 15.5 → -10.
    assert crop_bounds((0, 0, 24, 24), CropRule(scale=2.01)) == (-12, -12, 36, 36)
    assert crop_bounds((-5, -5, 15, 15), CropRule(scale=1.55)) == (-10, -10, 20, 20)


def test_box_bounds_by_hand() -> None:
    rule = CropRule(shape="box", scale=1.5)
    assert crop_bounds((10, 20, 30, 60), rule) == (5, 10, 35, 70)
    assert crop_bounds((10, 20, 30, 60), CropRule(shape="box", scale=1.0)) == (10, 20, 30, 60)


@pytest.mark.parametrize(
    "box",
    [(20, 15, 50, 45), (-10, 10, 20, 40), (60, 10, 90, 40), (20, -12, 50, 18), (20, 45, 50, 75), (-20, -20, 100, 90)],
    ids=["inside", "left", "right", "top", "bottom", "all"],
)  # fmt: skip
def test_clipped_crops_are_the_authors(box: tuple[int, int, int, int]) -> None:
    crop = crop_face(FRAME, box, SQUARE)
    assert crop is not None
    expected = authors_crop(FRAME, box[0], box[1], box[2] - box[0], box[3] - box[1])
    np.testing.assert_array_equal(crop, expected)


@pytest.mark.parametrize(
    "box", [(-80, 10, -20, 70), (10, -80, 70, -20), (-80, -80, -20, -20), (200, 10, 260, 70), (10, 200, 70, 260)]
)  # fmt: skip
@pytest.mark.parametrize("edge", ["clip", "replicate"])
def test_a_box_outside_the_frame_is_no_face(box: tuple[int, int, int, int], edge: str) -> None:
    assert crop_face(FRAME, box, CropRule(edge=edge)) is None


@pytest.mark.parametrize(
    ("box", "found"),
    [
        ((20, 20, 30, 30), True),
        ((20, 20, 29, 29), False),
        ((20, 20, 20, 20), False),
        ((50, 50, 20, 20), False),
    ],
)
def test_crops_under_the_minimum_are_left_out(box: tuple[int, int, int, int], found: bool) -> None:
    assert (crop_face(FRAME, box, CropRule(scale=1.0)) is not None) == found


def test_gray_frames_can_be_cropped() -> None:
    crop = crop_face(FRAME[..., 0], (20, 15, 50, 45), SQUARE)
    np.testing.assert_array_equal(crop, authors_crop(FRAME[..., 0], 20, 15, 30, 30))


def test_replicate_repeats_the_border_pixels() -> None:
    rule = CropRule(scale=1.0, edge="replicate")
    crop = crop_face(FRAME, (-10, -7, 70, 73), rule)
    left, top, right, bottom = crop_bounds((-10, -7, 70, 73), rule)
    rows, columns = np.clip(np.arange(top, bottom), 0, 59), np.clip(np.arange(left, right), 0, 79)
    np.testing.assert_array_equal(crop, FRAME[rows][:, columns])


def test_gray_is_opencvs() -> None:
    gray = resize_image(FRAME, spec("gray", 1, (60, 80)))
    weights = np.array([0.114, 0.587, 0.299])
    np.testing.assert_array_equal(gray[..., 0], cv2.cvtColor(FRAME, cv2.COLOR_BGR2GRAY))
    assert np.abs(gray[..., 0] - FRAME @ weights).max() <= 0.51


def test_gray_is_repeated_over_the_channels() -> None:
    image = resize_image(FRAME, spec("gray", 3))
    assert image.shape == (48, 40, 3)
    assert (image == image[..., :1]).all()


@pytest.mark.parametrize(("name", "flag"), [("bilinear", cv2.INTER_LINEAR), ("area", cv2.INTER_AREA)])
@pytest.mark.parametrize("size", [(48, 40), (224, 224)])
def test_resize_is_opencvs(name: str, flag: int, size: tuple[int, int]) -> None:
    expected = cv2.resize(FRAME, size[::-1], interpolation=flag)
    np.testing.assert_array_equal(resize_image(FRAME, spec("bgr", 3, size, name)), expected)


@pytest.mark.parametrize("interpolation", ["bilinear", "area"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(48, 40), (224, 224)])
def test_gray_is_resized_as_colours_are(interpolation: str, channels: int, size: tuple[int, int]) -> None:
    """OpenCV on aarch64 resizes one channel with different arithmetic, with errors up to 248 levels at the left border."""
    gray = np.ascontiguousarray(FRAME[..., 1])
    colours = resize_image(np.dstack([gray] * 3), spec("bgr", 3, size, interpolation))
    resized = resize_image(gray, spec("gray", channels, size, interpolation))
    np.testing.assert_array_equal(resized, colours[..., :channels])


def test_bilinear_enlarging_matches_scikit_image() -> None:
    from skimage.transform import resize

    smooth = cv2.GaussianBlur(FRAME, (0, 0), 3)
    expected = resize(smooth, (120, 160), order=1, mode="edge", anti_aliasing=False, preserve_range=True)
    assert np.abs(resize_image(smooth, spec("bgr", 3, (120, 160))) - expected).max() < 1


def test_rgb_swaps_and_gray_pixels_fill_colour() -> None:
    np.testing.assert_array_equal(resize_image(FRAME, spec("rgb", 3, (60, 80))), FRAME[..., ::-1])
    gray = FRAME[..., 0]
    np.testing.assert_array_equal(resize_image(gray, spec("rgb", 3, (60, 80))), np.dstack([gray] * 3))


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((5, 5, 3), np.float32),
        np.zeros((0, 5, 3), np.uint8),
        np.zeros((5, 5, 1), np.uint8),
        np.zeros((5, 5, 2), np.uint8),
        np.zeros((5, 5, 4), np.uint8),
        np.zeros(5, np.uint8),
        np.zeros((1, 5, 5, 3), np.uint8),
    ],
    ids=lambda image: f"{image.dtype}{image.shape}",
)
@pytest.mark.parametrize("color", ["gray", "rgb", "bgr"])
def test_what_is_no_image(image: np.ndarray, color: str) -> None:
    with pytest.raises(DataError, match="expected a uint8 image"):
        resize_image(image, spec(color))


def test_normalise_matches_float64() -> None:
    values = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    batch = normalise(values, spec(size=(16, 16)))
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = np.moveaxis((values / 255.0 - mean) / std, -1, 1)
    assert batch.dtype == np.float32
    assert batch.flags.c_contiguous
    np.testing.assert_allclose(batch, expected, rtol=0, atol=1e-6)


def test_a_batch_is_every_crop_by_itself() -> None:
    crops = [FRAME, FRAME[:20, :30], FRAME[..., 1]]
    batch = prepare_batch(crops, spec())
    assert batch.shape == (3, 3, 48, 40)
    for row, crop in zip(batch, crops, strict=True):
        np.testing.assert_array_equal(row, prepare_batch([crop], spec())[0])


def test_no_crops_give_an_empty_batch() -> None:
    batch = prepare_batch([], spec("gray", 1))
    assert batch.shape == (0, 1, 48, 40)
    assert batch.dtype == np.float32

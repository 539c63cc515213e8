"""Heat maps: scaling, colours, overlays."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from skimage.color import deltaE_ciede2000, rgb2lab

from fer_edge.heatmaps import OPACITY, blend, blend_at, colorize, enlarge, min_max, turn_back


def test_min_max_scales_each_map_alone() -> None:
    maps = np.array([[[1, 2], [3, 5]], [[-4, -4], [-2, 0]]], np.float32)
    np.testing.assert_allclose(min_max(maps), [[[0, 0.25], [0.5, 1]], [[0, 0], [0.5, 1]]])
    assert min_max(maps).dtype == np.float32


def test_what_is_flat_up_to_rounding_is_zero() -> None:
    noise = 1 / 36 * (1 + 1e-7 * np.random.default_rng(0).standard_normal((1, 6, 6)))
    assert not min_max(np.concatenate([noise, np.zeros((1, 6, 6)), np.full((1, 6, 6), -3.0)])).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_maps_that_are_not_finite_spoil_no_other(bad: float) -> None:
    maps = np.array([[[bad, 1.0]], [[0.0, 2.0]]])
    found = min_max(maps)
    assert np.isnan(found[0]).all()
    np.testing.assert_array_equal(found[1], [[0, 1]])


def test_no_maps() -> None:
    assert min_max(np.zeros((0, 6, 6), np.float32)).shape == (0, 6, 6)


def test_the_overlay_leaves_cold_pixels_and_mixes_hot_ones() -> None:
    image = np.full((2, 2, 3), 100, np.uint8)
    heat = np.array([[0, 1], [0, 0.5]], np.float32)
    drawn = blend(image, heat)
    assert (drawn[:, 0] == 100).all()
    hot = colorize(np.ones((1, 1), np.float32))[0, 0]
    np.testing.assert_allclose(drawn[0, 1], 100 * (1 - OPACITY) + hot * OPACITY, atol=1)
    assert min(hot[1], hot[2]) > 200 > 100 > hot[0]  # yellow


def test_equal_steps_look_equal() -> None:
    """Lightness rises evenly: no band stands out, and the map is legible without colour."""
    colors = colorize(np.linspace(0, 1, 256, dtype=np.float32)[None])
    values = rgb2lab(colors[..., ::-1])[0]
    lightness = values[:, 0]
    assert (np.diff(lightness[::4]) > 0).all()
    assert lightness[-1] - lightness[0] > 70
    steps = deltaE_ciede2000(values[:-8:8], values[8::8])
    assert steps.max() < 2.5 * steps.min()


def test_blend_at_is_the_resized_map_in_the_box() -> None:
    heat = np.random.default_rng(0).random((6, 6)).astype(np.float32)
    canvas = np.full((80, 90, 3), 60, np.uint8)
    blend_at(canvas, heat, (10, 20, 58, 68))
    expected = np.full((80, 90, 3), 60, np.uint8)
    expected[20:68, 10:58] = blend(expected[20:68, 10:58], enlarge(heat, 48, 48))
    # cv2.remap interpolates in steps of 1/32 of a cell
    assert np.abs(canvas.astype(int) - expected).max() <= 12
    assert cv2.absdiff(canvas, expected).mean() < 0.5
    outside = np.ones((80, 90), bool)
    outside[20:68, 10:58] = False
    assert (canvas[outside] == 60).all()


@pytest.mark.parametrize(
    "box", [(-1e9, -1e9, 1e12, 1e12), (200, 0, 300, 50), (-50, -50, 20, 30), (5, 5, 5, 9), (9, 9, 3, 3)]
)
def test_any_box(box: tuple[float, float, float, float]) -> None:
    canvas = np.full((40, 50, 3), 60, np.uint8)
    blend_at(canvas, np.ones((3, 3), np.float32), box)
    left, top, right, bottom = box
    visible = right > left and bottom > top and left < 50 and top < 40
    assert (canvas != 60).any() == visible


def test_a_box_beyond_the_frame_shows_its_own_part_of_the_map() -> None:
    heat = np.zeros((2, 2), np.float32)
    heat[:, 1] = 1
    canvas = np.full((20, 20, 3), 60, np.uint8)
    blend_at(canvas, heat, (-20, 0, 20, 20))  # the right half is inside
    whole = np.full((20, 40, 3), 60, np.uint8)
    blend_at(whole, heat, (0, 0, 40, 20))
    np.testing.assert_array_equal(canvas, whole[:, 20:])


def test_maps_of_turned_crops_are_turned_back() -> None:
    heat = np.zeros((9, 9), np.float32)
    heat[0, 2] = heat[4, 4] = 1
    assert turn_back(heat, 0) is heat
    np.testing.assert_allclose(turn_back(heat, 90), np.rot90(heat, -1), atol=1e-5)
    half = turn_back(heat, 45)
    assert half[4, 4] == pytest.approx(1, abs=1e-5)
    # (-2, -4) from the centre, turned clockwise by 45°: (1.41, -4.24), beyond the upper edge but for rounding.
    assert np.unravel_index(half[:2].argmax(), (2, 9)) == (0, 5)

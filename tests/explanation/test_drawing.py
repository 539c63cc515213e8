"""Values of an explanation, and its picture."""

from __future__ import annotations

import numpy as np
import pytest

from fer_edge.explanation.drawing import draw_explanation
from fer_edge.explanation.explain import Explanation
from fer_edge.heatmaps import colorize


def explanation(heat: np.ndarray, classes: int = 8, name: str = "happiness", **fields: object) -> Explanation:
    probabilities = {f"{name}{i}": 0.02 for i in range(1, classes)} | {name: 1 - 0.02 * (classes - 1)}
    values = {
        "network": "made-up", "method": "gradcam", "class_name": name, "box_xyxy": (40.0, 30.0, 90.0, 110.0),
        "crop_xyxy": (30.0, 20.0, 100.0, 120.0), "crop_bgr": np.full((100, 70, 3), 128, np.uint8),
        "heat": heat, "probabilities": probabilities, **fields,
    }  # fmt: skip
    return Explanation(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(300, 300), (50, 2000), (2000, 50), (1, 1)])
@pytest.mark.parametrize("classes", [2, 8, 26])
def test_any_photograph_and_any_number_of_classes(shape: tuple[int, int], classes: int) -> None:
    heat = np.random.default_rng(0).random((7, 5)).astype(np.float32)
    photograph = np.full((*shape, 3), 40, np.uint8)
    drawn = draw_explanation(photograph, explanation(heat, classes))
    assert drawn.shape[1:] == (1320, 3)
    assert (drawn[:4] == 255).all()
    assert (drawn[-4:] == 255).all()
    assert (drawn[:, :20] == 255).all()
    assert (drawn[:, -20:] == 255).all()


def test_long_names_stay_in_their_column() -> None:
    heat = np.ones((2, 2), np.float32)
    drawn = draw_explanation(
        np.full((100, 100, 3), 40, np.uint8), explanation(heat, 3, "a very long name of an expression " * 9)
    )
    below = drawn[460:]
    assert (below[:, 24 + 152 : 24 + 160] == 255).all()
    assert (drawn[:84, -24:] == 255).all()


def test_the_third_tile_is_the_map_and_the_fourth_lies_over_the_crop() -> None:
    heat = np.zeros((2, 1), np.float32)
    heat[1] = 1
    crop = np.full((60, 60, 3), 200, np.uint8)
    drawn = draw_explanation(np.zeros((9, 9, 3), np.uint8), explanation(heat, crop_bgr=crop))
    cold, hot = colorize(np.array([[0, 1]], np.float32))[0]
    third, fourth = 24 + 2 * 324 + 150, 24 + 3 * 324 + 150
    np.testing.assert_array_equal(drawn[90, third], cold)
    np.testing.assert_array_equal(drawn[380, third], hot)
    np.testing.assert_array_equal(drawn[90, fourth], (200, 200, 200))
    assert (drawn[380, fourth] != 200).any()


def test_a_flat_map_says_so() -> None:
    flat, other = explanation(np.zeros((4, 4), np.float32)), explanation(np.eye(4, dtype=np.float32))
    assert flat.flat
    assert flat.peak_xy is None
    assert flat.to_dict()["peak_xy"] is None
    assert not other.flat
    assert other.peak_xy == (30 + 70 / 8, 20 + 100 / 8)
    photograph = np.zeros((9, 9, 3), np.uint8)
    caption = np.s_[390:415, 672:972]
    assert (draw_explanation(photograph, flat)[caption] != draw_explanation(photograph, other)[caption]).any()


def test_an_unlikely_expression_is_not_named() -> None:
    heat = np.eye(3, dtype=np.float32)
    sure, unsure = (
        explanation(heat, probabilities={"a": 0.36, "b": 0.64}),
        explanation(heat, probabilities={"a": 0.34, "b": 0.33, "c": 0.33}),
    )
    assert sure.to_dict()["apparent_expression"] == "b"
    assert unsure.to_dict()["apparent_expression"] is None
    assert not unsure.certain

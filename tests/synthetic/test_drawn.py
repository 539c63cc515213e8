"""Generated faces: reproducible, varied, of the expected shape."""

from __future__ import annotations

import numpy as np
import pytest

from fer_edge.synthetic.drawn import generate_faces


def test_the_same_seed_gives_the_same_faces() -> None:
    faces = generate_faces(4, seed=3)
    np.testing.assert_array_equal(faces, generate_faces(4, seed=3))
    np.testing.assert_array_equal(faces[:2], generate_faces(2, seed=3))
    assert (faces != generate_faces(4, seed=4)).mean() > 0.9


def test_faces_of_one_seed_differ() -> None:
    faces = generate_faces(3).astype(int)
    assert all(np.abs(faces[a] - faces[b]).mean() > 5 for a, b in ((0, 1), (0, 2), (1, 2)))


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("side", [96, 48, 130])
def test_shape_and_type(count: int, side: int) -> None:
    faces = generate_faces(count, side=side)
    assert faces.shape == (count, side, side, 3)
    assert faces.dtype == np.uint8


def test_brightness_covers_a_range_without_extremes() -> None:
    means = generate_faces(64).mean(axis=(1, 2, 3))
    assert 15 < means.min() < 80
    assert 120 < means.max() < 230


def test_eyes_are_darker_than_cheeks_on_average() -> None:
    mean = generate_faces(64).mean(axis=(0, 3))
    eyes, cheeks = mean[38:44, 26:34].mean(), mean[56:64, 26:34].mean()
    assert eyes < cheeks

"""Turned squares of a frame, and the roll of landmarks."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from fer_edge.tracking.alignment import cut_square, roll


def test_an_upright_square_at_full_size_is_a_part_of_the_frame(astronaut):
    found = cut_square(astronaut, 232 + 132j, 1, 64, max_step_px=1)
    np.testing.assert_array_equal(found, astronaut[100:164, 200:264])


def test_an_averaged_square_is_that_of_opencv(astronaut):
    found = cut_square(astronaut, 228 + 128j, 4, 32, max_step_px=1)
    expected = cv2.resize(astronaut[64:192, 164:292], (32, 32), interpolation=cv2.INTER_AREA)
    assert np.abs(found.astype(int) - expected).mean() < 6


def test_a_square_turned_by_a_right_angle(astronaut):
    found = cut_square(astronaut, 232 + 132j, 1j, 64, max_step_px=1)
    np.testing.assert_array_equal(found, np.rot90(astronaut[100:164, 200:264]))


def test_outside_the_frame_it_is_black_or_repeats_the_edge():
    frame = np.full((20, 20, 3), 200, np.uint8)
    black = cut_square(frame, 20 + 10j, 1, 10, max_step_px=1)
    assert (black[:, :5] == 200).all()
    assert (black[:, 5:] == 0).all()
    assert (cut_square(frame, 20 + 10j, 1, 10, max_step_px=1, border=cv2.BORDER_REPLICATE) == 200).all()


def test_roll_is_that_of_the_landmarks():
    upright = np.array([[30, 35], [70, 35], [50, 56], [34, 75], [66, 75]], np.float32)
    assert roll(None) == 1
    assert roll(upright) == pytest.approx(1)
    for degrees in (-40, 10, 40):
        turn = np.exp(1j * np.radians(degrees))
        points = (upright @ np.array([1, 1j])) * turn
        found = roll(np.stack([points.real, points.imag], axis=1).astype(np.float32))
        assert found == pytest.approx(turn, abs=1e-5)
    assert roll(upright[::-1].copy()) == 1  # upside down
    assert roll(np.zeros((5, 2), np.float32)) == 1

"""The filter of all tracks agrees with the textbook form in matrices, and boxes stay finite."""

from __future__ import annotations

import numpy as np
import pytest

from fer_edge.tracking import motion
from fer_edge.tracking.motion import Motion, box_of, corners, face_sizes, measured


def boxes(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 500, (count, 2))
    return np.concatenate((low, low + rng.uniform(20, 200, (count, 2))), axis=1)


def test_corners_are_the_inverse() -> None:
    np.testing.assert_allclose(corners(measured(boxes(20))), boxes(20))
    assert box_of(boxes(1)[0]) == pytest.approx(tuple(boxes(1)[0]))
    np.testing.assert_allclose(face_sizes(measured(np.array([(0.0, 0, 40, 90)]))), [60])


@pytest.mark.parametrize("value", range(4))
def test_kalman_filter_against_matrices(value: int) -> None:
    rng = np.random.default_rng(value)
    filters = Motion()
    filters.append(measured(boxes(1)))
    state = np.array((filters.position[0, value], 0.0))
    covariance = np.diag((motion._NOISE[value], motion._FIRST[value]))
    decay = motion._DECAY[value]
    for elapsed in rng.uniform(0, 0.2, 30):
        left = np.exp(-elapsed / decay)
        step = np.array(((1, decay * (1 - left)), (0, left)))
        drive = np.array(((elapsed**3 / 3, elapsed**2 / 2), (elapsed**2 / 2, elapsed)))
        state = step @ state
        covariance = step @ covariance @ step.T + motion._DRIVE[value] * drive
        filters.advance(elapsed)
        assert filters.spread()[0, value] == pytest.approx(covariance[0, 0] + motion._NOISE[value])
        seen = filters.position + rng.normal(0, 0.1, (1, 4))
        gain = covariance[:, 0] / (covariance[0, 0] + motion._NOISE[value])
        state = state + gain * (seen[0, value] - state[0])
        covariance = covariance - np.outer(gain, covariance[0])
        filters.correct(np.array([0]), seen)
        assert (filters.position[0, value], filters.velocity[0, value]) == pytest.approx(tuple(state))


def test_velocity_is_learnt() -> None:
    filters = Motion()
    start = np.array([(100.0, 100, 200, 220)])
    filters.append(measured(start))
    for step in range(1, 20):
        filters.advance(1 / 30)
        filters.correct(np.array([0]), measured(start + np.array((5 * step, 0, 5 * step, 0))))
    assert filters.velocity[0, 0] == pytest.approx(150, rel=0.1)
    decay = motion._DECAY[0]  # the velocity decays on the way
    way = filters.velocity[0, 0] * decay * (1 - np.exp(-0.1 / decay))
    assert 12 < way < 15
    assert filters.predicted(0.1)[0, 0] == pytest.approx(filters.position[0, 0] + way)
    before = filters.position.copy()
    filters.predicted(1.0)
    np.testing.assert_array_equal(filters.position, before)


def test_rows_stay_together() -> None:
    filters = Motion()
    filters.append(measured(boxes(5)))
    filters.correct(np.array([1, 3]), measured(boxes(2, seed=1)))
    wanted = filters.position[[0, 3]].copy()
    filters.keep(np.array((True, False, False, True, False)))
    np.testing.assert_array_equal(filters.position, wanted)
    assert len(filters) == len(filters.velocity) == len(filters.variance) == 2


def test_boxes_stay_finite() -> None:
    filters = Motion()
    filters.append(measured(np.array([(0.0, 0, 1, 1)])))
    for step in range(50):
        filters.advance(0.0 if step % 2 else 60.0)
        size = 10.0 ** (6 * (step % 3 == 0))
        filters.correct(np.array([0]), measured(np.array([(-size, -size, size, size)])))
        assert np.isfinite(corners(filters.position)).all()
        assert np.isfinite(corners(filters.predicted(60.0))).all()

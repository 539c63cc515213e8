"""Pose by five landmarks, of an average face turned by known angles."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from fer_edge.quality import estimate_pose
from fer_edge.quality.pose import AVERAGE_FACE

ANGLES = list(itertools.product((-70, -20, 0, 35, 60), (-30, 0, 25), (-80, -15, 0, 40)))


def rotation(yaw_deg: float, pitch_deg: float, roll_deg: float) -> np.ndarray:
    """The head nods first, then turns, then tilts, about fixed axes."""
    yaw, pitch, roll = (math.radians(v) for v in (-yaw_deg, pitch_deg, roll_deg))
    nod = [[1, 0, 0], [0, math.cos(pitch), -math.sin(pitch)], [0, math.sin(pitch), math.cos(pitch)]]
    turn = [[math.cos(yaw), 0, math.sin(yaw)], [0, 1, 0], [-math.sin(yaw), 0, math.cos(yaw)]]
    tilt = [[math.cos(roll), -math.sin(roll), 0], [math.sin(roll), math.cos(roll), 0], [0, 0, 1]]
    return np.array(tilt) @ np.array(turn) @ np.array(nod)


def landmarks(yaw_deg: float, pitch_deg: float, roll_deg: float, size: float = 60.0) -> np.ndarray:
    turned = AVERAGE_FACE @ rotation(yaw_deg, pitch_deg, roll_deg).T
    return (size * turned[:, :2] + (320, 200)).astype(np.float32)


@pytest.mark.parametrize("size", [3.0, 60.0, 900.0])
def test_known_angles_are_found_at_every_size(size: float) -> None:
    for angles in ANGLES:
        assert estimate_pose(landmarks(*angles, size)) == pytest.approx(angles, abs=0.05)


def test_a_nose_to_the_right_is_a_turn_to_the_right() -> None:
    points = landmarks(0, 0, 0)
    points[2, 0] += 15
    pose = estimate_pose(points)
    assert pose is not None
    assert pose.yaw_deg > 10


def test_the_mirror_image_is_turned_and_tilted_the_other_way() -> None:
    points = landmarks(25, 10, 12) + np.random.default_rng(0).normal(size=(5, 2), scale=2).astype(np.float32)
    mirrored = (points * (-1, 1))[[1, 0, 2, 4, 3]]
    one, other = estimate_pose(points), estimate_pose(mirrored)
    assert one is not None
    assert other == pytest.approx((-one.yaw_deg, one.pitch_deg, -one.roll_deg), abs=1e-6)


@pytest.mark.parametrize(
    "points",
    [
        None,
        np.zeros((5, 2)),
        np.full((5, 2), 1e6),
        np.full((5, 2), np.nan),
        np.array([[0, 0], [1, 0], [np.inf, 1], [0, 2], [1, 2]]),
        np.zeros((68, 2)),
        np.zeros((5, 3)),
        np.zeros(0),
        np.array([[0.0, 0]] * 4 + [[0.0, 0]]),
    ],
    ids=["none", "zero", "one point", "nan", "inf", "68", "3D", "empty", "same"],
)
def test_without_usable_landmarks_there_is_no_pose(points: np.ndarray | None) -> None:
    assert estimate_pose(points) is None


def test_points_on_a_line_give_no_pose_or_finite_angles() -> None:
    line = np.stack([np.arange(5.0), np.arange(5.0)], axis=1)
    pose = estimate_pose(line)
    assert pose is None or np.isfinite(pose).all()


def test_the_landmarks_are_not_changed() -> None:
    points = landmarks(10, 0, 0)
    before = points.copy()
    estimate_pose(points)
    assert np.array_equal(points, before)

"""Pose of a head by five landmarks and an average face."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

#: Eyes, nose, mouth corners of an average face, in eye distances, from the centre of the eyes: x to the right, y down,
#: z away from the camera. x and y: the template of ArcFace (Deng et al., CVPR 2019). The depths z are assumed.
AVERAGE_FACE = np.array(
    [
        [-0.500, 0.000, 0.00],
        [+0.500, 0.000, 0.00],
        [+0.000, 0.571, -0.45],
        [-0.414, 1.155, -0.08],
        [+0.414, 1.155, -0.08],
    ]
)
#: Landmarks ``[5, 2]`` → the affine camera ``[3, 2]`` with the least squares; the translation is left out.
_SOLVER = np.linalg.pinv(np.hstack([AVERAGE_FACE, np.ones((5, 1))]))[:3]
_MIN_SIDE_PX = 1e-3


class Pose(NamedTuple):
    """Angles in degrees, positive to the right, down and clockwise in the image."""

    yaw_deg: float
    pitch_deg: float
    roll_deg: float


def estimate_pose(landmarks: np.ndarray | None) -> Pose | None:
    """Estimate the pose of a head seen from afar.

    The affine camera that maps an average face to the landmarks is made a rotation, as in POS (DeMenthon and Davis,
    1995), and split into R = Rz(roll) · Ry(−yaw) · Rx(pitch). Faces differ from the average, and detectors place the
    landmarks of turned faces too far towards a frontal face, so large angles are underestimated.

    Parameters
    ----------
    landmarks : np.ndarray or None
        ``[5, 2]`` pixels: eyes, nose, mouth corners, left of the image first.

    Returns
    -------
    Pose or None
        ``None`` without landmarks, or if they are not five finite points in general position.
    """
    if landmarks is None or landmarks.shape != (5, 2) or not np.isfinite(landmarks).all():
        return None
    right, down = (_SOLVER @ landmarks.astype(np.float64)).T
    size = float(np.linalg.norm(right))
    if size < _MIN_SIDE_PX:
        return None
    right /= size
    down -= (down @ right) * right
    size = float(np.linalg.norm(down))
    if size < _MIN_SIDE_PX:
        return None
    down /= size
    away_x, away_y, away_z = (float(v) for v in np.cross(right, down))
    return Pose(
        yaw_deg=math.degrees(math.asin(min(max(away_x, -1.0), 1.0))),
        pitch_deg=math.degrees(math.atan2(away_y, away_z)),
        roll_deg=math.degrees(math.atan2(down[0], right[0])),
    )

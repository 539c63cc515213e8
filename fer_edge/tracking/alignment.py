"""Squares of a frame, turned with the face in them."""

from __future__ import annotations

import cmath

import cv2
import numpy as np

_MIN_COSINE = 0.5


def roll(landmarks: np.ndarray | None) -> complex:
    """Return the direction from the left to the right of a face, as a unit vector ``x + iy``.

    It is 1, the direction of an upright face, without finite landmarks and for a roll of more than 60°.
    """
    if landmarks is None or len(landmarks) != 5:
        return 1
    left_eye, right_eye, _, left_mouth, right_mouth = (complex(x, y) for x, y in landmarks.tolist())
    across, down = (
        right_eye + right_mouth - left_eye - left_mouth,
        left_mouth + right_mouth - left_eye - right_eye,
    )
    direction = across + down / 1j
    if not cmath.isfinite(direction) or direction.real <= _MIN_COSINE * abs(direction):
        return 1
    return direction / abs(direction)


def cut_square(
    frame_bgr: np.ndarray,
    centre: complex,
    turn: complex,
    side_px: int,
    *,
    max_step_px: float,
    border: int = cv2.BORDER_CONSTANT,
) -> np.ndarray:
    """Return a square of a frame as ``[side_px, side_px, 3]`` uint8.

    The cost does not depend on the size in the frame: at most sixteen pixels of the frame contribute to one of the result.

    Parameters
    ----------
    frame_bgr : np.ndarray
        ``[H, W, 3]`` uint8.
    centre : complex
        Middle of the square in the frame, ``x + iy`` counted from pixel edges.
    turn : complex
        The vector in the frame of one pixel to the right in the result.
    side_px : int
        Side of the result.
    max_step_px : float
        Longest ``turn`` that is sampled without averaging.
    border : int
        OpenCV's border mode outside the frame; the constant is black.
    """
    is_sampled = abs(turn) <= max_step_px
    count, turn = (side_px, turn) if is_sampled else (2 * side_px, turn / 2)
    corner = centre - turn * complex(count - 1, count - 1) / 2
    # OpenCV counts from pixel centres.
    to_source = np.array(
        [[turn.real, -turn.imag, corner.real - 0.5], [turn.imag, turn.real, corner.imag - 0.5]]
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    image = cv2.warpAffine(frame_bgr, to_source, (count, count), flags=flags, borderMode=border)
    if not is_sampled:
        image = cv2.resize(image, (side_px, side_px), interpolation=cv2.INTER_AREA)
    return np.asarray(image)

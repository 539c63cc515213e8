"""Pictures turned in the image plane, and points that turn with them."""

from __future__ import annotations

import cv2
import numpy as np


def turn_picture(image_bgr: np.ndarray, roll_deg: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the picture, turned clockwise on a black canvas that holds all of it, and the affine ``[2, 3]`` of its points."""
    height, width = image_bgr.shape[:2]
    angle = np.radians(roll_deg)
    cosine, sine = abs(np.cos(angle)), abs(np.sin(angle))
    size = round(width * cosine + height * sine), round(width * sine + height * cosine)
    linear = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shift = np.array(size) / 2 - linear @ (width / 2, height / 2)
    centres = shift + linear.sum(axis=1) / 2 - 0.5  # OpenCV counts from pixel centres
    turned = cv2.warpAffine(image_bgr, np.column_stack([linear, centres]), size)
    return turned, np.column_stack([linear, shift])


def apply(affine: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return points ``[N, 2]`` of a picture in the turned one."""
    return points @ affine[:, :2].T + affine[:, 2]

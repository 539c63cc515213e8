"""Pictures for benchmarks."""

from __future__ import annotations

import cv2
import numpy as np


def frame_640x480(image_bgr: np.ndarray) -> np.ndarray:
    """Return the picture, shrunk to fit, in the middle of a gray 640×480 frame."""
    scale = min(640 / image_bgr.shape[1], 480 / image_bgr.shape[0])
    small = cv2.resize(image_bgr, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    frame = np.full((480, 640, 3), 127, np.uint8)
    top, left = (480 - small.shape[0]) // 2, (640 - small.shape[1]) // 2
    frame[top : top + small.shape[0], left : left + small.shape[1]] = small
    return frame

"""Visible change of a face between two frames, as a distance of small aligned crops."""

from __future__ import annotations

import cv2
import numpy as np

from fer_edge.results import Detection

_SIDE_PX = 24


def aligned_patch(frame_bgr: np.ndarray, detection: Detection) -> np.ndarray:
    """Return the face as ``[24, 24]`` float32 gray, with mean 0 and standard deviation 1."""
    height, width = frame_bgr.shape[:2]
    left, top, right, bottom = np.clip(detection.box_xyxy, 0, (width, height, width, height)).astype(int)
    part = frame_bgr[min(top, height - 1) : max(bottom, top + 1), min(left, width - 1) : max(right, left + 1)]
    small = cv2.resize(part, (_SIDE_PX, _SIDE_PX), interpolation=cv2.INTER_AREA)
    gray = cv2.GaussianBlur(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY).astype(np.float32), (3, 3), 0)
    return np.asarray((gray - gray.mean()) / (gray.std() + 1e-3))


def patch_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Return 1 less the correlation of two patches, from 0 to 2."""
    return float(1 - (first * second).mean())

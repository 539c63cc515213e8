"""Drawn face-like images, for checks and calibration without real faces.

Smooth skin, dark eyes and brows, a nose, a mouth of varying shape, side light, hair and background,
blur and noise. They show no real person; they only have the spatial statistics of face crops.
"""

from __future__ import annotations

import cv2
import numpy as np

_SIDE = 96
_SHIFT = 4  # OpenCV draws with 4 fractional bits


def generate_faces(count: int, seed: int = 0, side: int = _SIDE) -> np.ndarray:
    """Return ``[count, side, side, 3]`` BGR uint8, reproducible by seed."""
    rng = np.random.default_rng(seed)
    faces = np.zeros((count, side, side, 3), np.uint8)
    for face in faces:
        face[:] = cv2.resize(_draw_face(rng), (side, side), interpolation=cv2.INTER_AREA)
    return faces


def _draw_face(rng: np.random.Generator) -> np.ndarray:
    skin = np.clip(rng.normal((120, 150, 190), 10) * rng.uniform(0.4, 1.2), 15, 250)
    image = cv2.resize(
        (rng.uniform(20, 235, (4, 4, 1)) + rng.normal(0, 15, (4, 4, 3))).astype(np.float32),
        (_SIDE, _SIDE),
        interpolation=cv2.INTER_CUBIC,
    )
    hair = skin * rng.uniform(0.1, 0.6)
    centre = np.array([_SIDE / 2, _SIDE * 0.52]) + rng.normal(0, 2, 2)
    width, height = rng.uniform(0.34, 0.44) * _SIDE, rng.uniform(0.44, 0.54) * _SIDE
    tilt = rng.normal(0, 6)

    def blob(
        offset: tuple[float, float], axes: tuple[float, float], color: np.ndarray, angle: float = 0.0
    ) -> None:
        position = (centre + np.array(offset) * (width, height)) * (1 << _SHIFT)
        scaled = np.maximum(np.array(axes) * (width, height), 0.6) * (1 << _SHIFT)
        x, y = (int(v) for v in position)
        cv2.ellipse(
            image,
            (x, y),
            (int(scaled[0]), int(scaled[1])),
            tilt + angle,
            0,
            360,
            color.tolist(),
            -1,
            cv2.LINE_AA,
            _SHIFT,
        )

    blob((0, -0.25), (1.12, 1.0), hair)
    blob((0, 0), (1.0, 1.0), skin)
    open_eyes, mouth_open = rng.uniform(0.02, 0.12), rng.uniform(0.02, 0.2)
    smile, brow_height = rng.uniform(-0.12, 0.16), rng.uniform(-0.42, -0.28)
    for sign in (-1, 1):
        blob((0.42 * sign, -0.18), (0.2, open_eyes), np.minimum(skin * 1.3 + 25, 255))
        blob((0.42 * sign, -0.18), (0.08, min(open_eyes, 0.08)), hair * 0.3)
        blob((0.42 * sign, brow_height), (0.24, 0.035), hair * 0.8, sign * rng.normal(0, 12))
        blob((0.09 * sign, 0.2), (0.05, 0.03), skin * 0.55)
        blob((0.28 * sign, 0.52 - smile), (0.14, 0.03), skin * 0.6, -sign * smile * 150)
    blob((0, 0.05), (0.08, 0.2), np.minimum(skin * 1.08, 255))
    blob((0, 0.52), (0.26, mouth_open), skin * (0.5, 0.55, 0.85))
    blob((0, 0.52), (0.2, mouth_open * 0.5), skin * rng.uniform(0.2, 1.2))
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.6, 2.0))
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.5)
    grid = (np.arange(_SIDE) - _SIDE / 2) / _SIDE
    light = 1 + strength * (np.cos(angle) * grid[None, :] + np.sin(angle) * grid[:, None]) * 2
    image = image * light[:, :, None] * rng.uniform(0.6, 1.25) + rng.normal(0, rng.uniform(1, 6), image.shape)
    return np.clip(image, 0, 255).astype(np.uint8)

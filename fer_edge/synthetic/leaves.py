"""Dead leaves: overlapping shapes of all sizes, a model of the edges in photographs."""

from __future__ import annotations

import cv2
import numpy as np

from fer_edge.synthetic.exposure import SIDE

_SHIFT = 4  # OpenCV draws with 4 fractional bits
_SMALLEST, _LARGEST = 2.0, SIDE / 2


def paint_leaves(rng: np.random.Generator) -> np.ndarray:
    """Return one image, ``[SIDE, SIDE, 3]`` float32 BGR.

    Radii follow the scale-invariant density r⁻³ (Lee, Mumford & Huang, 2001), between 2 and 48 pixels. Fewer leaves
    give larger areas of one tone.
    """
    image = np.full((SIDE, SIDE, 3), _tone(rng), np.float32)
    for radius in np.minimum(_SMALLEST * (1 - rng.random(rng.integers(60, 240))) ** -0.5, _LARGEST):
        x, y = rng.uniform(0, SIDE, 2)
        values = (x, y, radius, radius * rng.uniform(0.3, 1))
        x_, y_, long, short = (int(v * (1 << _SHIFT)) for v in values)
        angle = rng.uniform(0, 180)
        cv2.ellipse(image, (x_, y_), (long, short), angle, 0, 360, _tone(rng), -1, cv2.LINE_AA, _SHIFT)
    return cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 2))


def _tone(rng: np.random.Generator) -> list[float]:
    """Return a tinted grey, BGR."""
    return (rng.uniform(0, 255) + rng.normal(0, 20, 3)).tolist()

"""Images for calibration where no real faces are at hand, made from random numbers alone, by name.

None shows anyone, and none derives from anybody's picture. ``rendered`` gives ranges nearest to those of real
faces (``benchmarks/data_free.py``): trained networks answer most strongly to the parts of a face, so images
without them leave the ranges of deep layers too small.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from fer_edge.synthetic.drawn import generate_faces
from fer_edge.synthetic.exposure import SIDE, images_of
from fer_edge.synthetic.leaves import paint_leaves
from fer_edge.synthetic.noise import paint_noise
from fer_edge.synthetic.rendered import render_face

__all__ = [
    "DEFAULT_GENERATOR",
    "GENERATORS",
    "generate_leaves",
    "generate_mixed",
    "generate_noise",
    "render_faces",
]


def render_faces(count: int, seed: int = 0, side: int = SIDE) -> np.ndarray:
    """Return faces rendered from a relief under one or two lamps, ``[count, side, side, 3]`` BGR uint8."""
    return images_of((render_face,), count, seed, side)


def generate_noise(count: int, seed: int = 0, side: int = SIDE) -> np.ndarray:
    """Return noise with the spectrum of photographs, ``[count, side, side, 3]`` BGR uint8."""
    return images_of((paint_noise,), count, seed, side)


def generate_leaves(count: int, seed: int = 0, side: int = SIDE) -> np.ndarray:
    """Return shapes of all sizes that hide one another, ``[count, side, side, 3]`` BGR uint8."""
    return images_of((paint_leaves,), count, seed, side)


def generate_mixed(count: int, seed: int = 0, side: int = SIDE) -> np.ndarray:
    """Return rendered faces with a quarter each of leaves and noise, ``[count, side, side, 3]`` BGR uint8."""
    return images_of((render_face, paint_leaves, render_face, paint_noise), count, seed, side)


#: Name → (count, seed) → ``[count, 96, 96, 3]`` BGR uint8, the same for the same seed; fewer are the first of more.
GENERATORS: Mapping[str, Callable[[int, int], np.ndarray]] = {
    "rendered": render_faces,
    "drawn": generate_faces,
    "leaves": generate_leaves,
    "noise": generate_noise,
    "mixed": generate_mixed,
}
DEFAULT_GENERATOR = "rendered"

"""Generators of calibration images by name, for use without real faces.

The images are made from random numbers only and show no real person. ``rendered`` gives ranges nearest to those of
real faces (``benchmarks/data_free.py``): trained networks respond most strongly to the parts of a face, so images
without them make the ranges of deep layers too small.
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
    """Return overlapping shapes of all sizes (dead leaves), ``[count, side, side, 3]`` BGR uint8."""
    return images_of((paint_leaves,), count, seed, side)


def generate_mixed(count: int, seed: int = 0, side: int = SIDE) -> np.ndarray:
    """Return half rendered faces, a quarter leaves and a quarter noise, ``[count, side, side, 3]`` BGR uint8."""
    return images_of((render_face, paint_leaves, render_face, paint_noise), count, seed, side)


#: Name → (count, seed) → ``[count, 96, 96, 3]`` BGR uint8, reproducible by seed; a smaller count returns a prefix.
GENERATORS: Mapping[str, Callable[[int, int], np.ndarray]] = {
    "rendered": render_faces,
    "drawn": generate_faces,
    "leaves": generate_leaves,
    "noise": generate_noise,
    "mixed": generate_mixed,
}
DEFAULT_GENERATOR = "rendered"

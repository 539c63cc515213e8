"""Camera simulation: exposure, contrast, sharpening, grain."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np

SIDE = 96
#: Share of crops that are almost black or almost white, as with a lamp behind the head or a flash too close.
_EXTREMES = 0.06


def images_of(
    painters: Sequence[Callable[[np.random.Generator], np.ndarray]], count: int, seed: int, side: int
) -> np.ndarray:
    """Return ``[count, side, side, 3]`` BGR uint8 from alternating painters.

    A painter returns ``[SIDE, SIDE, 3]`` in any unit; :func:`expose` converts it to pixels.
    """
    rng = np.random.default_rng(seed)
    images = np.zeros((count, side, side, 3), np.uint8)
    for i, image in enumerate(images):
        painted = expose(painters[i % len(painters)](rng), rng)
        interpolation = cv2.INTER_AREA if side < SIDE else cv2.INTER_LINEAR
        image[:] = cv2.resize(painted, (side, side), interpolation=interpolation)
    return images


def expose(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return ``[H, W, 3]`` uint8 with random mean and contrast, grain, and clipped lights and shadows.

    Automatic exposure puts the mean near mid-grey. Face crops fill the range from black to white, so their standard
    deviation is about a quarter of it.
    """
    if rng.random() < _EXTREMES:
        mean, deviation = rng.choice([rng.uniform(10, 45), rng.uniform(205, 240)]), rng.uniform(8, 30)
    else:
        mean, deviation = np.clip(rng.normal(128, 35), 30, 225), np.clip(rng.normal(60, 15), 20, 110)
    grain = rng.normal(0, rng.uniform(0, 6), image.shape)
    light = image.mean(axis=2)
    pixels = (image - light.mean()) * (deviation / max(float(light.std()), 1e-6)) + mean + grain
    return np.clip(pixels, 0, 255).astype(np.uint8)


def sharpen(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Apply an unsharp mask with a gain of up to three, as cameras and image scalers do."""
    blurred = cv2.GaussianBlur(image, (0, 0), rng.uniform(1, 3))
    return image + rng.uniform(0, 3) * (image - blurred)

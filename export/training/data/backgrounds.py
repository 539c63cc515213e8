"""Backgrounds of rendered faces: crops of photographs, or generated noise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from fer_edge._utils.images import list_images, read_image
from fer_edge.errors import DataError

_OCTAVES_PX = (4, 8, 16, 32, 64)


class Backgrounds(Protocol):
    """A source of square backgrounds."""

    name: str

    def crop(self, rng: np.random.Generator, side_px: int) -> np.ndarray:
        """Return a random ``[side_px, side_px, 3]`` RGB uint8."""


class ImageBackgrounds:
    """Random squares of a folder's images, or of images in memory (the paper: COCO).

    An image smaller than the square is enlarged to cover it.

    Parameters
    ----------
    images : path, or sequence of np.ndarray
        A folder whose images are decoded when they are drawn, or ``[H, W, 3]`` BGR or ``[H, W]`` uint8.

    Raises
    ------
    DataError
        If there are no images, or an array is not an image.
    """

    def __init__(self, images: str | Path | Sequence[np.ndarray] | np.ndarray) -> None:
        self._images: Sequence[Path | np.ndarray]
        if isinstance(images, str | Path):
            folder = Path(images)
            if not folder.is_dir():
                raise DataError(f"{folder} is not a folder. Fix: give a folder of background images.")
            self._images = list_images(folder)
            self.name = f"images of {folder.name}"
        else:
            for i, image in enumerate(images):
                to_rgb(image, f"background {i}")
            self._images = tuple(images)
            self.name = f"{len(images)} images"
        if not self._images:
            raise DataError(
                "there are no background images. Fix: give some, or leave them out to use generated ones."
            )

    def crop(self, rng: np.random.Generator, side_px: int) -> np.ndarray:
        """Return a random ``[side_px, side_px, 3]`` RGB uint8."""
        item = self._images[int(rng.integers(len(self._images)))]
        image = item if isinstance(item, np.ndarray) else read_image(item)
        height, width = image.shape[:2]
        window = min(side_px, height, width)
        top, left = (int(rng.integers(size - window + 1)) for size in (height, width))
        square = to_rgb(image[top : top + window, left : left + window], "background")
        if window == side_px:
            return square
        return cv2.resize(square, (side_px, side_px), interpolation=cv2.INTER_LINEAR)


class GeneratedBackgrounds:
    """Smoothed colour noise of several scales, used without photographs.

    It has the falling spectrum of natural images but none of their objects, such as other faces, hands or
    text.
    """

    name = "generated noise"

    def crop(self, rng: np.random.Generator, side_px: int) -> np.ndarray:
        """Return a random ``[side_px, side_px, 3]`` RGB uint8."""
        total = np.zeros((_OCTAVES_PX[-1], _OCTAVES_PX[-1], 3), np.float32)
        for octave in _OCTAVES_PX:
            # Channels of natural images are correlated.
            noise = rng.normal(size=(octave, octave, 1)) + 0.25 * rng.normal(size=(octave, octave, 3))
            total += cv2.resize(noise.astype(np.float32), total.shape[:2], interpolation=cv2.INTER_CUBIC) * (
                _OCTAVES_PX[0] / octave
            )
        image = rng.uniform(40, 215) + rng.normal(0, 15, 3) + rng.uniform(10, 50) * total
        return cv2.resize(
            np.clip(image, 0, 255).astype(np.uint8), (side_px, side_px), interpolation=cv2.INTER_LINEAR
        )


def to_rgb(image: np.ndarray, name: str) -> np.ndarray:
    """Convert ``[H, W, 3]`` BGR or ``[H, W]`` gray uint8 to ``[H, W, 3]`` RGB; ``name`` is for the error."""
    if image.dtype != np.uint8 or image.size == 0 or (image.ndim != 2 and image.shape[2:] != (3,)):
        raise DataError(
            f"{name} must be uint8 [H, W, 3] or [H, W], found {image.dtype} {list(image.shape)}. Fix: convert the image."
        )
    return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB if image.ndim == 2 else cv2.COLOR_BGR2RGB)

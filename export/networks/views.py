"""Test-time augmentation inside a graph: fixed random views of an image, as constant sampling grids."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

#: The training augmentation of the Residual Masking authors: flip with p = 0.5, rotation by up to 30 degrees.
MAX_ROTATION_DEG = 30.0


@dataclass(frozen=True)
class View:
    """Mirrored left to right if ``flip``, then turned counter-clockwise about the centre; black beyond the edge."""

    flip: bool
    rotation_deg: float


def draw_views(count: int, seed: int) -> tuple[View, ...]:
    """Draw ``count`` views; equal seeds give equal views."""
    rng = np.random.default_rng(seed)
    return tuple(
        View(bool(rng.random() < 0.5), float(rng.uniform(-MAX_ROTATION_DEG, MAX_ROTATION_DEG)))
        for _ in range(count)
    )


def take_view(images: Tensor, view: View) -> Tensor:
    """Return ``images`` ``[B, C, H, W]``, black at 0, as ``view`` shows them: bilinear, the same shape."""
    height, width = images.shape[2:]
    grid = torch.from_numpy(_grid(view, height, width)).to(images)
    # One grid serves all images: as channels of one image they need neither copies of it nor shapes in the graph.
    stacked = images.reshape(1, -1, height, width)
    moved = F.grid_sample(stacked, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return moved.reshape(-1, *images.shape[1:])


@lru_cache(maxsize=64)
def _grid(view: View, height: int, width: int) -> np.ndarray:
    """Return the sampling grid ``[1, H, W, 2]`` float32: (x, y), −1 and 1 at the outer edges."""
    x, y = np.meshgrid(np.arange(width) - (width - 1) / 2, np.arange(height) - (height - 1) / 2)
    angle = np.deg2rad(view.rotation_deg)
    # Pixels are rotated back; y points down, so this is the inverse of a counter-clockwise turn.
    source_x = np.cos(angle) * x - np.sin(angle) * y
    source_y = np.sin(angle) * x + np.cos(angle) * y
    if view.flip:
        source_x = -source_x
    return np.stack([source_x * 2 / width, source_y * 2 / height], axis=-1)[None].astype(np.float32)

"""Geometry between the stages of a Deep Alignment Network: similarity transform, image warp, heatmap.

Points are (x, y) in pixels of a square image; whole numbers are pixel centres. Every function has a fixed
amount of work and standard operators only, so that it exports.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

#: A landmark marks pixels from −8 of its floor: 16 × 16, or 17 × 17 in the first Deep Alignment Network.
HEATMAP_RADIUS = 8
#: Squared distance outside the window: above any inside (2 · 9²), and twice it is a finite half float.
_FAR = 1e4
#: Below any distance that counts; the slope of the square root stays finite.
_TINY = 1e-30
#: Mean face of the Deep Alignment Network (see NOTICE beside this file): 68 points, 112 pixels wide, centred in 224.
MEAN_FACE = (
    (56, 83.1), (56.4, 97.8), (58, 112.5), (61.1, 126.9), (66.8, 140.3), (75.6, 151.9), (86.5, 161.6),
    (98.5, 169.5), (112, 171.8), (125.5, 169.5), (137.5, 161.6), (148.4, 151.9), (157.2, 140.3),
    (162.9, 126.9), (166, 112.5), (167.6, 97.8), (168, 83.1), (66.4, 72.1), (73.4, 65.8), (83.3, 63.9),
    (93.5, 65.4), (103.1, 69.4), (120.9, 69.4), (130.5, 65.4), (140.7, 63.9), (150.6, 65.8), (157.6, 72.1),
    (112, 81), (112, 90.6), (112, 100.1), (112, 109.9), (100.7, 116.4), (106.2, 118.4), (112, 120.1),
    (117.8, 118.4), (123.3, 116.4), (77.8, 82.1), (83.8, 78.6), (91.1, 78.7), (97.5, 83.6), (90.6, 84.9),
    (83.4, 84.8), (126.5, 83.6), (132.9, 78.7), (140.2, 78.6), (146.2, 82.1), (140.6, 84.8), (133.4, 84.9),
    (90.3, 134.2), (98.3, 131.1), (106.4, 129.3), (112, 130.8), (117.6, 129.3), (125.7, 131.1),
    (133.7, 134.2), (126, 141.9), (118.1, 145.2), (112, 145.9), (105.9, 145.2), (98, 141.9), (93.6, 134.6),
    (106.3, 134.1), (112, 134.7), (117.7, 134.1), (130.4, 134.6), (117.8, 138), (112, 138.7), (106.2, 138),
)  # fmt: skip


class Similarity(NamedTuple):
    """Rotation, scale and shift of the plane, one per image: p ↦ p·A + t, A = [[a, b], [−b, a]].

    Attributes
    ----------
    a, b : Tensor
        ``[B, 1]``.
    shift : Tensor
        t, ``[B, 1, 2]`` pixels.
    """

    a: Tensor
    b: Tensor
    shift: Tensor

    def apply(self, points: Tensor) -> Tensor:
        """Map ``[B or 1, N, 2]`` to ``[B, N, 2]``."""
        return _turn(self.a, self.b, points) + self.shift

    def inverse(self) -> Similarity:
        """Return p ↦ p·A⁻¹ − t·A⁻¹, A⁻¹ = [[a, −b], [b, a]] / (a² + b²)."""
        square = self.a * self.a + self.b * self.b
        a, b = self.a / square, -self.b / square
        return Similarity(a, b, -_turn(a, b, self.shift))


def fit_similarity(source: Tensor, target: Tensor) -> Similarity:
    """Return the least-squares similarity from ``source`` to ``target`` in closed form.

    With centred p, q and n = Σ‖p‖²: a = Σ p·q / n, b = Σ (p_x q_y − p_y q_x) / n. A reflection is never fitted.

    Parameters
    ----------
    source : Tensor
        ``[B, N, 2]`` pixels, not all equal.
    target : Tensor
        ``[B or 1, N, 2]`` pixels.
    """
    source_mean, target_mean = source.mean(1, keepdim=True), target.mean(1, keepdim=True)
    p, q = source - source_mean, target - target_mean
    n = (p * p).sum((1, 2))
    a = ((p * q).sum((1, 2)) / n).unsqueeze(1)
    b = ((p[..., 0] * q[..., 1] - p[..., 1] * q[..., 0]).sum(1) / n).unsqueeze(1)
    return Similarity(a, b, target_mean - _turn(a, b, source_mean))


def _turn(a: Tensor, b: Tensor, points: Tensor) -> Tensor:
    x, y = points[..., 0], points[..., 1]
    return torch.stack([a * x - b * y, b * x + a * y], dim=-1)


def warp(images: Tensor, transform: Similarity) -> Tensor:
    """Move the content of ``images`` by ``transform``, bilinear.

    Output pixel u samples at (u − t)·A⁻¹, both coordinates clamped to [0, side − 2] as the authors do it:
    the identity repeats the last row and column but one.

    Parameters
    ----------
    images : Tensor
        ``[B, C, side, side]``.
    transform : Similarity
        From input to output pixels.

    Returns
    -------
    Tensor
        ``[B, C, side, side]``.
    """
    side = images.shape[-1]
    steps = torch.arange(side, dtype=images.dtype, device=images.device)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    pixels = torch.stack([x, y], dim=-1).reshape(1, side * side, 2)
    samples = transform.inverse().apply(pixels).clamp(0, side - 2)
    grid = (samples * (2 / (side - 1)) - 1).reshape(-1, side, side, 2)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=True)


def clamp_landmarks(landmarks: Tensor, side: int) -> Tensor:
    """Move points so that their windows in :func:`landmark_heatmap` lie inside the image."""
    return landmarks.clamp(HEATMAP_RADIUS, side - 1 - HEATMAP_RADIUS)


def landmark_heatmap(
    landmarks: Tensor, side: int, last_offset: int = HEATMAP_RADIUS - 1, epsilon: float = 0.0
) -> Tensor:
    """Draw 1 / (1 + distance to the nearest landmark) in a window around each, 0 elsewhere.

    Landmarks are first clamped so that their windows lie inside the image.

    Parameters
    ----------
    landmarks : Tensor
        ``[B, N, 2]`` pixels.
    side : int
        Pixels.
    last_offset : int
        The window's pixels are −8 … this from the landmark's floor: 16 × 16 by default.
    epsilon : float
        Added to the squared distance, in pixels².

    Returns
    -------
    Tensor
        ``[B, 1, side, side]`` in [0, 1].
    """
    points = clamp_landmarks(landmarks, side).unsqueeze(-1)
    pixels = torch.arange(side, dtype=points.dtype, device=points.device)
    offsets = pixels - points.floor()
    inside = (offsets >= -HEATMAP_RADIUS) & (offsets <= last_offset)
    # Windows and squared distances separate into x and y: only one [B, N, side, side] tensor is made.
    squared = torch.where(inside, (pixels - points) ** 2, _FAR)
    nearest = (squared[:, :, 0, None, :] + squared[:, :, 1, :, None]).amin(1)
    squares = nearest + epsilon if epsilon else nearest
    values = 1 / (1 + squares.clamp(min=_TINY).sqrt())
    return torch.where(nearest < _FAR, values, 0.0).unsqueeze(1)

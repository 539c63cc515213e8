"""Augmentation of batches of tensors; one generator makes a run reproducible."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class AugmentationOptions:
    """Strengths of the augmentations; zero switches one off."""

    rotation_deg: float = 30.0
    shift: float = 0.1  # of the side
    scale: float = 0.15  # side × U(1 − s, 1 + s)
    flip_probability: float = 0.5
    brightness: float = 0.2  # added, in units of white
    contrast: float = 0.25  # × U(1 − c, 1 + c)
    erase_probability: float = 0.25
    erase_max_side: float = 0.35  # of the side
    mixup_alpha: float = 0.0  # of Beta(α, α), the share of the other image
    fill: str = "border"  # padding: "border" repeats the edge, "black" is zero

    @property
    def moves(self) -> bool:
        """True if pixels move."""
        return any((self.rotation_deg, self.shift, self.scale, self.flip_probability))


def augment(
    batch: Tensor, options: AugmentationOptions, generator: Generator, size: tuple[int, int] | None = None
) -> Tensor:
    """Return an augmented copy of ``batch`` ``[B, C, H, W]``, float in [0, 1].

    ``size`` is the height and width of the result, those of the input by default.
    """
    warped = _warp(batch, size or (batch.shape[2], batch.shape[3]), options, generator)
    lit = _relight(warped, options, generator)
    return _erase(lit, options, generator)


def mixup(
    batch: Tensor, labels: Tensor, options: AugmentationOptions, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Blend every image and its label distribution with another of the batch (Zhang et al., 2018)."""
    if options.mixup_alpha == 0:
        return batch, labels
    alpha = torch.full((len(batch), 2), options.mixup_alpha)
    gamma = torch._standard_gamma(alpha, generator=generator)
    share = gamma[:, 0] / gamma.sum(1)
    share = torch.maximum(share, 1 - share)  # the label stays with the image it came from
    other = torch.randperm(len(batch), generator=generator)
    image_share = share.view(-1, 1, 1, 1)
    mixed = image_share * batch + (1 - image_share) * batch[other]
    return mixed, share[:, None] * labels + (1 - share[:, None]) * labels[other]


def _uniform(count: int, low: float, high: float, generator: Generator) -> Tensor:
    return torch.rand(count, generator=generator) * (high - low) + low


def _warp(batch: Tensor, size: tuple[int, int], options: AugmentationOptions, generator: Generator) -> Tensor:
    count = len(batch)
    if not options.moves and size == tuple(batch.shape[2:]):
        return batch
    angle = _uniform(count, -options.rotation_deg, options.rotation_deg, generator) * (math.pi / 180)
    scale = _uniform(count, 1 - options.scale, 1 + options.scale, generator)
    shift = torch.stack(
        [_uniform(count, -2 * options.shift, 2 * options.shift, generator) for _ in range(2)], 1
    )
    mirror = 1 - 2 * (torch.rand(count, generator=generator) < options.flip_probability).float()
    cos, sin = angle.cos() * scale, angle.sin() * scale
    matrix = torch.stack([torch.stack([cos * mirror, -sin], 1), torch.stack([sin * mirror, cos], 1)], 1)
    shape = [count, batch.shape[1], *size]
    grid = F.affine_grid(torch.cat([matrix, shift[:, :, None]], 2), shape, align_corners=False)
    padding = "zeros" if options.fill == "black" else "border"
    return F.grid_sample(batch, grid, padding_mode=padding, align_corners=False)


def _relight(batch: Tensor, options: AugmentationOptions, generator: Generator) -> Tensor:
    count = len(batch)
    contrast = _uniform(count, 1 - options.contrast, 1 + options.contrast, generator).view(-1, 1, 1, 1)
    brightness = _uniform(count, -options.brightness, options.brightness, generator).view(-1, 1, 1, 1)
    mean = batch.mean(dim=(1, 2, 3), keepdim=True)
    return ((batch - mean) * contrast + mean + brightness).clamp(0, 1)


def _erase(batch: Tensor, options: AugmentationOptions, generator: Generator) -> Tensor:
    """Replace a random rectangle by the image's mean (random erasing, Zhong et al., 2020)."""
    count, _, height, width = batch.shape
    chosen = torch.rand(count, generator=generator) < options.erase_probability
    half = _uniform(2 * count, 0.05, options.erase_max_side / 2, generator).view(2, -1, 1)
    centre = _uniform(2 * count, 0, 1, generator).view(2, -1, 1)
    rows = ((torch.arange(height) + 0.5) / height - centre[0]).abs() < half[0]
    columns = ((torch.arange(width) + 0.5) / width - centre[1]).abs() < half[1]
    mask = rows[:, :, None] & columns[:, None, :] & chosen[:, None, None]
    return torch.where(mask[:, None], batch.mean(dim=(1, 2, 3), keepdim=True), batch)

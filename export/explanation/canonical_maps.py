"""Maps of EmotionalDAN's canonical frame, moved back to the input image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fer_edge.export.networks.landmark_transform import Similarity


def to_input_frame(maps: Tensor, transform: Similarity) -> Tensor:
    """Undo the warp between the stages of EmotionalDAN.

    The input of stage 2 is the image moved by ``transform``, p ↦ p·A + t. A canonical pixel of the map belongs to
    the input pixel that was moved there; so an input pixel p reads the map at p·A + t. It is 0 where stage 2
    has no input. (The authors draw the map on the input without this step.)

    Parameters
    ----------
    maps : Tensor
        ``[B, C, side, side]``, canonical pixels.
    transform : Similarity
        From input to canonical pixels.
    """
    side = maps.shape[-1]
    steps = torch.arange(side, dtype=maps.dtype, device=maps.device)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    pixels = torch.stack([x, y], dim=-1).reshape(1, side * side, 2)
    grid = transform.apply(pixels) * (2 / (side - 1)) - 1
    grid = grid.reshape(-1, side, side, 2)
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=True)

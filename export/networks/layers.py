"""Layers that several networks share."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class AveragePoolTo(nn.Module):
    """``nn.AdaptiveAvgPool2d`` as two constant matrices.

    The adaptive operator has no ONNX form for sides that do not divide evenly; products with
    averaging matrices have one, and every backend runs them.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, features: Tensor) -> Tensor:
        """Average ``[B, C, H, W]`` to ``[B, C, side, side]``."""
        rows = self._matrix(features.shape[2]).to(features)
        columns = self._matrix(features.shape[3]).to(features)
        return rows @ features @ columns.T

    def _matrix(self, length: int) -> Tensor:
        """``[side, length]``: row i averages positions ⌊i·length/side⌋ to ⌈(i+1)·length/side⌉."""
        matrix = torch.zeros(self.side, length)
        for i in range(self.side):
            start, stop = i * length // self.side, -(-(i + 1) * length // self.side)
            matrix[i, start:stop] = 1 / (stop - start)
        return matrix

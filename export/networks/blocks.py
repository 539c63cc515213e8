"""Convolution, normalisation, activation as one block, and the shortcut of residual blocks; entry names are the authors'."""

from __future__ import annotations

from torch import Tensor, nn


class ConvBlock(nn.Module):
    """``conv`` without bias, ``bn``, then ``activation`` (none by default): ``[B, inputs, H, W]`` → ``[B, outputs, …]``."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        *,
        groups: int = 1,
        padding: int | None = None,
        eps: float = 1e-5,
        activation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        padding = kernel // 2 if padding is None else padding
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps)
        self.activation = activation or nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        """Apply the three in order."""
        return self.activation(self.bn(self.conv(features)))


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    """Return the identity, or a normalised 1×1 convolution where a residual block changes the shape."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

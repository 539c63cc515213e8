"""EfficientNet-B2 (Tan and Le, 2019) in the form that pytorchcv calls ``b2b``: TensorFlow's padding and eps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fer_edge.export.networks.blocks import ConvBlock

EPS = 1e-3
STEM_WIDTH, HEAD_WIDTH = 32, 1408
#: Per stage: runs of (width, units, kernel). Every stage but the first halves the sides at its first unit.
STAGES = (
    ((16, 2, 3),),
    ((24, 3, 3),),
    ((48, 3, 5),),
    ((88, 4, 3), (120, 4, 5)),
    ((208, 5, 5), (352, 2, 3)),
)
EXPANSION = 6
SQUEEZE = 4


@dataclass(frozen=True)
class EfficientNetOptions:
    """``num_classes`` logits from ``in_channels`` input channels; ``dropout`` before the last layer."""

    num_classes: int = 7
    in_channels: int = 3
    dropout: float = 0.3


class SameConvBlock(ConvBlock):
    """A :class:`ConvBlock` with TensorFlow's "same" padding: an odd pixel goes to the right and the bottom."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, *, groups: int = 1) -> None:
        # At stride 1 "same" is symmetric, so the convolution pads without an extra node.
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(
            inputs, outputs, kernel, stride, groups=groups, padding=padding, eps=EPS, activation=nn.SiLU()
        )
        self.kernel, self.stride = kernel, stride

    def forward(self, features: Tensor) -> Tensor:
        """Map ``[B, inputs, H, W]`` to ``[B, outputs, ⌈H / stride⌉, ⌈W / stride⌉]``."""
        if self.stride == 1:
            return super().forward(features)
        rows, columns = (self._missing(side) for side in features.shape[2:])
        padding = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
        return super().forward(F.pad(features, padding))

    def _missing(self, side: int) -> int:
        return max((-(-side // self.stride) - 1) * self.stride + self.kernel - side, 0)


class SqueezeExcitation(nn.Module):
    """Weigh the channels by two 1×1 convolutions over their means."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, squeezed, 1)
        self.conv2 = nn.Conv2d(squeezed, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Map ``[B, C, H, W]`` to the same shape."""
        inner = F.silu(self.conv1(features.mean(dim=(2, 3), keepdim=True)))
        return features * torch.sigmoid(self.conv2(inner))


class SeparableUnit(nn.Module):
    """Depthwise convolution, squeeze and excitation, 1×1 convolution: the units of the first stage."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.residual = inputs == outputs and stride == 1
        self.dw_conv = SameConvBlock(inputs, inputs, kernel, stride, groups=inputs)
        self.se = SqueezeExcitation(inputs, inputs // SQUEEZE)
        self.pw_conv = ConvBlock(inputs, outputs, 1, eps=EPS)

    def forward(self, features: Tensor) -> Tensor:
        """Map ``[B, inputs, H, W]`` to ``[B, outputs, ⌈H / stride⌉, ⌈W / stride⌉]``."""
        out = self.pw_conv(self.se(self.dw_conv(features)))
        return out + features if self.residual else out


class InvertedResidualUnit(nn.Module):
    """1×1 expansion, depthwise convolution, squeeze and excitation, 1×1 projection: the other stages."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        width = EXPANSION * inputs
        self.residual = inputs == outputs and stride == 1
        self.conv1 = SameConvBlock(inputs, width, 1)
        self.conv2 = SameConvBlock(width, width, kernel, stride, groups=width)
        self.se = SqueezeExcitation(width, inputs // SQUEEZE)
        self.conv3 = ConvBlock(width, outputs, 1, eps=EPS)

    def forward(self, features: Tensor) -> Tensor:
        """Map ``[B, inputs, H, W]`` to ``[B, outputs, ⌈H / stride⌉, ⌈W / stride⌉]``."""
        out = self.conv3(self.se(self.conv2(self.conv1(features))))
        return out + features if self.residual else out


class EfficientNetB2b(nn.Module):
    """``[B, in_channels, H, W]`` → logits ``[B, num_classes]``."""

    def __init__(self, options: EfficientNetOptions | None = None) -> None:
        super().__init__()
        o = self.options = options or EfficientNetOptions()
        self.features = nn.Sequential()
        self.features.add_module("init_block", _Stem(o.in_channels))
        inputs = STEM_WIDTH
        for number, runs in enumerate(STAGES, 1):
            unit: Callable[[int, int, int, int], nn.Module]
            unit = SeparableUnit if number == 1 else InvertedResidualUnit
            stage = nn.Sequential()
            for outputs, kernel in ((width, kernel) for width, count, kernel in runs for _ in range(count)):
                stride = 2 if number > 1 and len(stage) == 0 else 1
                stage.add_module(f"unit{len(stage) + 1}", unit(inputs, outputs, kernel, stride))
                inputs = outputs
            self.features.add_module(f"stage{number}", stage)
        self.features.add_module("final_block", SameConvBlock(inputs, HEAD_WIDTH, 1))
        self.output = nn.Sequential(nn.Dropout(o.dropout), nn.Linear(HEAD_WIDTH, o.num_classes))

    def forward(self, batch: Tensor) -> Tensor:
        """Return logits ``[B, num_classes]`` for ``[B, in_channels, H, W]``."""
        return self.output(self.features(batch).mean(dim=(2, 3)))


class _Stem(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.conv = SameConvBlock(inputs, STEM_WIDTH, 3, 2)

    def forward(self, features: Tensor) -> Tensor:
        return self.conv(features)

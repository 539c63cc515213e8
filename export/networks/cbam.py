"""ResNet-50 with convolutional block attention (Woo et al., 2018), with the entry names of pytorchcv."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fer_edge.export.networks.blocks import ConvBlock

#: Width behind each stage, and its units.
STAGES = ((256, 3), (512, 4), (1024, 6), (2048, 3))
STEM_WIDTH = 64
REDUCTION = 16


@dataclass(frozen=True)
class CbamResNet50Options:
    """``num_classes`` logits from ``in_channels`` input channels."""

    num_classes: int = 7
    in_channels: int = 3


class ChannelGate(nn.Module):
    """Weigh the channels by a perceptron that reads their mean and their maximum (Section 3.1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            OrderedDict(
                fc1=nn.Linear(channels, channels // REDUCTION),
                activation=nn.ReLU(),
                fc2=nn.Linear(channels // REDUCTION, channels),
            )
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map ``[B, C, H, W]`` to the same shape."""
        weights = self.mlp(features.mean(dim=(2, 3))) + self.mlp(features.amax(dim=(2, 3)))
        return features * torch.sigmoid(weights)[:, :, None, None]


class SpatialGate(nn.Module):
    """Weigh the locations by a 7×7 convolution over channel maximum and channel mean (Section 3.2)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = ConvBlock(2, 1, 7)

    def forward(self, features: Tensor) -> Tensor:
        """Map ``[B, C, H, W]`` to the same shape."""
        pooled = torch.cat([features.amax(dim=1, keepdim=True), features.mean(dim=1, keepdim=True)], dim=1)
        return features * torch.sigmoid(self.conv(pooled))


class Unit(nn.Module):
    """Bottleneck whose output passes both gates before the shortcut is added."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        width = outputs // 4
        self.body = nn.Sequential(
            OrderedDict(
                conv1=ConvBlock(inputs, width, 1, activation=nn.ReLU()),
                conv2=ConvBlock(width, width, 3, stride, activation=nn.ReLU()),
                conv3=ConvBlock(width, outputs, 1),
            )
        )
        self.identity_conv: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.identity_conv = ConvBlock(inputs, outputs, 1, stride)
        self.cbam = nn.Sequential(OrderedDict(ch_gate=ChannelGate(outputs), sp_gate=SpatialGate()))

    def forward(self, features: Tensor) -> Tensor:
        """Map ``[B, inputs, H, W]`` to ``[B, outputs, H / stride, W / stride]``."""
        return F.relu(self.cbam(self.body(features)) + self.identity_conv(features))


class CbamResNet50(nn.Module):
    """``[B, in_channels, H, W]`` → logits ``[B, num_classes]``."""

    def __init__(self, options: CbamResNet50Options | None = None) -> None:
        super().__init__()
        o = self.options = options or CbamResNet50Options()
        stem = OrderedDict[str, nn.Module](
            conv=ConvBlock(o.in_channels, STEM_WIDTH, 7, 2, activation=nn.ReLU()),
            pool=nn.MaxPool2d(3, stride=2, padding=1),
        )
        self.features = nn.Sequential(OrderedDict[str, nn.Module](init_block=nn.Sequential(stem)))
        inputs = STEM_WIDTH
        for number, (outputs, count) in enumerate(STAGES, 1):
            stage = nn.Sequential()
            for unit in range(1, count + 1):
                stage.add_module(f"unit{unit}", Unit(inputs, outputs, 2 if unit == 1 < number else 1))
                inputs = outputs
            self.features.add_module(f"stage{number}", stage)
        self.output = nn.Linear(inputs, o.num_classes)

    def forward(self, batch: Tensor) -> Tensor:
        """Return logits ``[B, num_classes]`` for ``[B, in_channels, H, W]``."""
        return self.output(self.features(batch).mean(dim=(2, 3)))

"""Parts of FERAtt (Marrero Fernandez et al., 2019): attention U-Net, feature branch blocks, classifier.

Entry names are those of the authors' modules.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fer_edge.export.networks.resmasking import Block

#: Blocks and output width of each stage of the ResNet-34 encoder.
ENCODER_STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))
CENTRE_WIDTH = 256
#: Inner and outer width of each decoder block, deepest first.
DECODER_WIDTHS = ((512, 256), (512, 256), (256, 64), (128, 128), (128, 32))
CLASSIFIER_WIDTHS = (64, 128, 256, 512)


class ConvReLU(nn.Module):
    """3×3 convolution and ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """Map ``[B, inputs, H, W]`` to ``[B, outputs, H, W]``."""
        return F.relu(self.conv(features))


class Deconvolution(nn.Module):
    """Decoder block of the paper: ConvReLU, then a 4×4 transposed convolution of stride 2 and ReLU."""

    def __init__(self, inputs: int, inner: int, outputs: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            ConvReLU(inputs, inner), nn.ConvTranspose2d(inner, outputs, 4, stride=2, padding=1), nn.ReLU()
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map ``[B, inputs, H, W]`` to ``[B, outputs, 2H, 2W]``."""
        return self.block(features)


class BilinearBlock(nn.Module):
    """Decoder block of the later code: bilinear ×2, then two ConvReLU."""

    def __init__(self, inputs: int, inner: int, outputs: int) -> None:
        super().__init__()
        self.cr1 = ConvReLU(inputs, inner)
        self.cr2 = ConvReLU(inner, outputs)

    def forward(self, features: Tensor) -> Tensor:
        """Map ``[B, inputs, H, W]`` to ``[B, outputs, 2H, 2W]``."""
        doubled = F.interpolate(features, scale_factor=2.0, mode="bilinear", align_corners=False)
        return self.cr2(self.cr1(doubled))


class DilatedCentre(nn.Module):
    """Centre of the paper: four chained convolutions of dilation 1–4, summed, one ReLU at the end."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv_d1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv_d2 = nn.Conv2d(outputs, outputs, 3, padding=2, dilation=2)
        self.conv_d3 = nn.Conv2d(outputs, outputs, 3, padding=3, dilation=3)
        self.conv_d4 = nn.Conv2d(outputs, outputs, 3, padding=4, dilation=4)

    def forward(self, features: Tensor) -> Tensor:
        """Map ``[B, inputs, H, W]`` to ``[B, outputs, H, W]``."""
        first = self.conv_d1(features)
        second = self.conv_d2(first)
        third = self.conv_d3(second)
        return F.relu(first + second + third + self.conv_d4(third))


class PooledCentre(BilinearBlock):
    """Centre of the later code: max-pool by 2, then a bilinear block."""

    def forward(self, features: Tensor) -> Tensor:
        """Map ``[B, inputs, H, W]`` to ``[B, outputs, H, W]``."""
        return super().forward(F.max_pool2d(features, 2))


class AttentionMap(nn.Module):
    """U-Net of the attention logits: ResNet-34 encoder ``conv1``–``conv5``, centre, ``dec5``–``dec1``.

    Parameters
    ----------
    outputs : int
        Attention channels.
    deconvolution : bool
        Centre and decoder of the paper (dilated, transposed convolutions), or of the later code (bilinear).
    """

    def __init__(self, outputs: int, deconvolution: bool) -> None:
        super().__init__()
        width = ENCODER_STAGES[0][1]
        self.conv1 = nn.Sequential(
            nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(2),  # ResNet-34 has a 3×3 pool here
        )
        for number, (blocks, outer) in enumerate(ENCODER_STAGES, 2):
            first = Block(width, outer, stride=1 if number == 2 else 2)
            self.add_module(
                f"conv{number}", nn.Sequential(first, *(Block(outer, outer) for _ in range(blocks - 1)))
            )
            width = outer
        self.center: nn.Module = (
            DilatedCentre(width, CENTRE_WIDTH) if deconvolution else PooledCentre(width, width, CENTRE_WIDTH)
        )
        decoder = Deconvolution if deconvolution else BilinearBlock
        skips = [outer for _, outer in reversed(ENCODER_STAGES)] + [0]
        width = CENTRE_WIDTH
        for number, skip, (inner, outer) in zip(range(5, 0, -1), skips, DECODER_WIDTHS, strict=True):
            self.add_module(f"dec{number}", decoder(width + skip, inner, outer))
            width = outer
        self.attention_map = nn.Sequential(ConvReLU(width, width), nn.Conv2d(width, outputs, 1))

    def forward(self, batch: Tensor) -> Tensor:
        """Map ``[B, 3, H, W]`` to logits ``[B, outputs, H, W]``."""
        out = self.conv1(batch)
        skips: list[Tensor] = []
        for number in range(2, 6):
            out = self.get_submodule(f"conv{number}")(out)
            skips.append(out)
        out = self.center(out)
        for number in range(5, 1, -1):
            out = self.get_submodule(f"dec{number}")(torch.cat([out, skips.pop()], dim=1))
        return self.attention_map(self.get_submodule("dec1")(out))


class FeatureBlock(nn.Module):
    """Residual block of the feature branch: convolution, LeakyReLU 0.2, convolution; no normalisation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """Map ``[B, width, H, W]`` to the same shape."""
        return self.conv2(F.leaky_relu(self.conv1(features), 0.2)) + features


class PreActBlock(nn.Module):
    """Pre-activation residual block; a changed shape takes its shortcut behind the first activation."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut: nn.Sequential | None = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False))

    def forward(self, features: Tensor) -> Tensor:
        """Map ``[B, inputs, H, W]`` to ``[B, outputs, H / stride, W / stride]``."""
        active = F.relu(self.bn1(features))
        shortcut = features if self.shortcut is None else self.shortcut(active)
        return self.conv2(F.relu(self.bn2(self.conv1(active)))) + shortcut


class PreActResNet18(nn.Module):
    """Classifier and representation: pre-activation ResNet-18 without a last normalisation.

    Parameters
    ----------
    num_classes : int
        Number of logits.
    embedding : int or None
        Size of z between the pooled features and the logits; ``None`` for the class-only network.
    """

    def __init__(self, num_classes: int, embedding: int | None) -> None:
        super().__init__()
        first, last = CLASSIFIER_WIDTHS[0], CLASSIFIER_WIDTHS[-1]
        self.conv1 = nn.Conv2d(3, first, 3, padding=1, bias=False)
        for number, (inputs, outputs) in enumerate(pairwise((first, *CLASSIFIER_WIDTHS)), 1):
            stride = 1 if number == 1 else 2
            self.add_module(
                f"layer{number}",
                nn.Sequential(PreActBlock(inputs, outputs, stride), PreActBlock(outputs, outputs, 1)),
            )
        self.linear = nn.Linear(last, embedding or num_classes)
        self.classification = nn.Linear(embedding, num_classes) if embedding else None

    def forward(self, face: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``[B, 3, h, w]`` to logits ``[B, num_classes]`` and the input of the last layer, ``[B, D]``."""
        out = self.conv1(face)
        for number in range(1, len(CLASSIFIER_WIDTHS) + 1):
            out = self.get_submodule(f"layer{number}")(out)
        pooled = out.mean(dim=(2, 3))
        if self.classification is None:
            return self.linear(pooled), pooled
        embedding = self.linear(pooled)
        return self.classification(embedding), embedding

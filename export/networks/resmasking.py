"""Residual Masking Network (Pham et al., 2020): a ResNet-34 whose four stages are each followed by a mask.

A mask is a small U-Net. Its output m, a softmax over the channels at each pixel, weighs the features of
its stage: x · (1 + m). Entry names are those of the authors' module, so their files map one to one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fer_edge.errors import UsageError
from fer_edge.export.networks.blocks import shortcut


@dataclass(frozen=True)
class ResMaskingOptions:
    """Input, head and regularisation of :class:`ResMasking`.

    Attributes
    ----------
    num_classes : int
        Number of logits.
    in_channels : int
        Channels of the input; the authors repeat gray three times.
    dropout : float
        Before the last layer: 0.4 as in the published ``resmasking_dropout1``, 0 for plain ``resmasking``.
    """

    num_classes: int = 7
    in_channels: int = 3
    dropout: float = 0.4


@dataclass(frozen=True)
class Stage:
    """One row of Table I: residual blocks, then a mask of ``mask_depth`` levels."""

    width: int
    blocks: int
    stride: int
    mask_depth: int


STAGES = (Stage(64, 3, 1, 4), Stage(128, 4, 2, 3), Stage(256, 6, 2, 2), Stage(512, 3, 2, 1))

#: Input sides must be multiples of this: the stem, the stages and the masks halve them five times.
SIDE_MULTIPLE = 32


class StageOutputs(NamedTuple):
    """Outputs of :meth:`ResMasking.forward_stages`; tuples hold one tensor per stage.

    Attributes
    ----------
    logits : Tensor
        ``[B, num_classes]``.
    masks : tuple of Tensor
        m, ``[B, C, h, w]`` in (0, 1); sums to 1 over C.
    before, after : tuple of Tensor
        Features x and x · (1 + m), ``[B, C, h, w]``.
    """

    logits: Tensor
    masks: tuple[Tensor, ...]
    before: tuple[Tensor, ...]
    after: tuple[Tensor, ...]


class Block(nn.Module):
    """Basic residual block of ResNet: two 3×3 convolutions and a shortcut, 1×1 where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = shortcut(inputs, outputs, stride)

    def forward(self, features: Tensor) -> Tensor:
        """Map ``[B, inputs, H, W]`` to ``[B, outputs, H / stride, W / stride]``."""
        inner = F.relu(self.bn1(self.conv1(features)))
        return F.relu(self.bn2(self.conv2(inner)) + self.downsample(features))


class Mask(nn.ModuleDict):
    """Masking block (Section III-B): an encoder of ``depth`` levels, each twice as wide, and its mirror.

    Blocks are numbered through, encoder ``conv1`` … ``conv<depth>``, decoder up to ``conv<2 depth>``;
    ``up_pool<i>`` precedes ``conv<i>``.
    """

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        self.depth = depth
        widths = [channels << level for level in range(depth + 1)]
        for level in range(1, depth + 1):
            self[f"conv{level}"] = Block(widths[level - 1], widths[level])
        for i, level in enumerate(range(depth, 1, -1), depth + 1):
            self[f"up_pool{i}"] = nn.Sequential(
                nn.ConvTranspose2d(widths[level], widths[level - 1], 2, stride=2),
                nn.BatchNorm2d(widths[level - 1]),
                nn.ReLU(),
            )
            self[f"conv{i}"] = Block(widths[level], widths[level - 1])  # reads [up, skip]
        self[f"conv{2 * depth}"] = Block(widths[1], channels)

    def forward(self, features: Tensor) -> Tensor:
        """Map ``[B, C, H, W]`` to a mask of the same shape, softmax over C."""
        out = self["conv1"](features)
        skips: list[Tensor] = []
        for i in range(2, self.depth + 1):
            skips.append(out)
            out = self[f"conv{i}"](F.max_pool2d(out, 2))
        for i in range(self.depth + 1, 2 * self.depth):
            out = self[f"conv{i}"](torch.cat([self[f"up_pool{i}"](out), skips.pop()], dim=1))
        return torch.softmax(self[f"conv{2 * self.depth}"](out), dim=1)


class ResMasking(nn.Module):
    """Residual Masking Network: ``[B, in_channels, H, W]`` → logits ``[B, num_classes]`` (Table I)."""

    def __init__(self, options: ResMaskingOptions | None = None) -> None:
        super().__init__()
        o = self.options = options or ResMaskingOptions()
        width = STAGES[0].width
        self.conv1 = nn.Conv2d(o.in_channels, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        for number, stage in enumerate(STAGES, 1):
            blocks = [Block(width, stage.width, stage.stride)]
            blocks += [Block(stage.width, stage.width) for _ in range(stage.blocks - 1)]
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
            self.add_module(f"mask{number}", Mask(stage.width, stage.mask_depth))
            width = stage.width
        self.fc = nn.Sequential(nn.Dropout(o.dropout), nn.Linear(width, o.num_classes))
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, Mask):
                for block in module.modules():
                    if isinstance(block, Block):
                        nn.init.zeros_(block.bn2.weight)

    def forward(self, batch: Tensor) -> Tensor:
        """Return logits ``[B, num_classes]`` for ``[B, in_channels, H, W]``."""
        return self.forward_stages(batch).logits

    def forward_stages(self, batch: Tensor) -> StageOutputs:
        """Return the logits together with each stage's mask and features.

        Raises
        ------
        UsageError
            If a side of ``batch`` is not a multiple of 32.
        """
        height, width = batch.shape[2:]
        if height % SIDE_MULTIPLE or width % SIDE_MULTIPLE:
            raise UsageError(
                f"resmasking needs sides that are multiples of {SIDE_MULTIPLE}, found {width}×{height}. Fix: resize the images to 224×224."
            )
        masks: list[Tensor] = []
        before: list[Tensor] = []
        after: list[Tensor] = []
        out = F.max_pool2d(F.relu(self.bn1(self.conv1(batch))), 3, stride=2, padding=1)
        for number in range(1, len(STAGES) + 1):
            before.append(self.get_submodule(f"layer{number}")(out))
            masks.append(self.get_submodule(f"mask{number}")(before[-1]))
            out = before[-1] * (1 + masks[-1])
            after.append(out)
        logits = self.fc(out.mean(dim=(2, 3)))
        return StageOutputs(logits, tuple(masks), tuple(before), tuple(after))

    def forward_change(self, batch: Tensor, stage: int = 3) -> tuple[Tensor, Tensor]:
        """Return the logits, and the change of the features by the mask of ``stage``, ``[B, h, w]``.

        The change x · (1 + m) − x = x · m is positive; its mean over the channels is the map. The product
        form does not cancel when x is quantised to INT8. The mean of m alone is 1 / C everywhere.
        """
        outputs = self.forward_stages(batch)
        return outputs.logits, (outputs.before[stage - 1] * outputs.masks[stage - 1]).mean(dim=1)

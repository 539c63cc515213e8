"""ResNet-18 and ResNet-101 as torchvision names them, and the ResNet-50 of VGGFace2 with its Caffe names."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from fer_edge.errors import UsageError
from fer_edge.export.networks.blocks import shortcut
from fer_edge.export.networks.resmasking import Block

STAGE_WIDTHS = (64, 128, 256, 512)


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolution, four times as wide at the end, and a shortcut; the 3×3 strides."""

    def __init__(self, inputs: int, width: int, stride: int = 1) -> None:
        super().__init__()
        outputs = 4 * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = shortcut(inputs, outputs, stride)

    def forward(self, features: Tensor) -> Tensor:
        """Map ``[B, inputs, H, W]`` to ``[B, 4 · width, H / stride, W / stride]``."""
        inner = F.relu(self.bn1(self.conv1(features)))
        inner = F.relu(self.bn2(self.conv2(inner)))
        return F.relu(self.bn3(self.conv3(inner)) + self.downsample(features))


#: Depth → kind of block, factor on its width, blocks per stage.
DEPTHS: dict[int, tuple[type[Block] | type[Bottleneck], int, tuple[int, ...]]] = {
    18: (Block, 1, (2, 2, 2, 2)),
    101: (Bottleneck, 4, (3, 4, 23, 3)),
}


@dataclass(frozen=True)
class ResNetOptions:
    """``depth`` is 18 or 101; ``num_classes`` logits from ``in_channels`` input channels."""

    depth: int = 18
    num_classes: int = 7
    in_channels: int = 3


class ResNet(nn.Module):
    """ResNet (He et al., 2016): ``[B, in_channels, H, W]`` → logits ``[B, num_classes]``."""

    def __init__(self, options: ResNetOptions | None = None) -> None:
        super().__init__()
        o = self.options = options or ResNetOptions()
        if o.depth not in DEPTHS:
            raise UsageError(
                f"depth must be one of {', '.join(map(str, DEPTHS))}, found {o.depth}. Fix: set depth to one of them."
            )
        block, expansion, counts = DEPTHS[o.depth]
        inputs = STAGE_WIDTHS[0]
        self.conv1 = nn.Conv2d(o.in_channels, inputs, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        for number, (width, count) in enumerate(zip(STAGE_WIDTHS, counts, strict=True), 1):
            blocks = [block(inputs, width, 1 if number == 1 else 2)]
            inputs = expansion * width
            blocks += [block(inputs, width) for _ in range(count - 1)]
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
        self.fc = nn.Linear(inputs, o.num_classes)

    def forward(self, batch: Tensor) -> Tensor:
        """Return logits ``[B, num_classes]`` for ``[B, in_channels, H, W]``."""
        out = F.max_pool2d(F.relu(self.bn1(self.conv1(batch))), 3, stride=2, padding=1)
        for number in range(1, len(STAGE_WIDTHS) + 1):
            out = self.get_submodule(f"layer{number}")(out)
        return self.fc(out.mean(dim=(2, 3)))


@dataclass(frozen=True)
class VggFaceResNet50Options:
    """``num_classes`` logits from ``in_channels`` input channels."""

    num_classes: int = 7
    in_channels: int = 3


class VggFaceResNet50(nn.ModuleDict):
    """ResNet-50 of VGGFace2 (Cao et al., 2018): ``[B, in_channels, H, W]`` → logits ``[B, num_classes]``.

    It strides in the first 1×1 convolution of a stage, pools without padding, and classifies by a
    1×1 convolution. Entries are flat: ``conv3_2_1x1_reduce`` is stage 3 of Caffe's count, second block.
    """

    STAGES = (3, 4, 6, 3)

    def __init__(self, options: VggFaceResNet50Options | None = None) -> None:
        super().__init__()
        o = self.options = options or VggFaceResNet50Options()
        inputs = STAGE_WIDTHS[0]
        self._add("conv1_7x7_s2", o.in_channels, inputs, 7, 2)
        for stage, (width, count) in enumerate(zip(STAGE_WIDTHS, self.STAGES, strict=True), 2):
            for block in range(1, count + 1):
                stride = 2 if block == 1 and stage > 2 else 1
                name = f"conv{stage}_{block}"
                self._add(f"{name}_1x1_reduce", inputs, width, 1, stride)
                self._add(f"{name}_3x3", width, width, 3)
                self._add(f"{name}_1x1_increase", width, 4 * width, 1)
                if block == 1:
                    self._add(f"{name}_1x1_proj", inputs, 4 * width, 1, stride)
                inputs = 4 * width
        self["classifier"] = nn.Conv2d(inputs, o.num_classes, 1)

    def _add(self, name: str, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        self[name] = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self[f"{name}_bn"] = nn.BatchNorm2d(outputs)

    def forward(self, batch: Tensor) -> Tensor:
        """Return logits ``[B, num_classes]`` for ``[B, in_channels, H, W]``."""
        return self.classify(self.features(batch))

    def classify(self, features: Tensor) -> Tensor:
        """Return logits ``[B, num_classes]`` for the output of :meth:`features`."""
        return self["classifier"](features.mean(dim=(2, 3), keepdim=True)).flatten(1)

    def features(self, batch: Tensor) -> Tensor:
        """Return the features of the last stage, ``[B, 2048, H / 32, W / 32]``."""
        out = F.relu(self._convolve("conv1_7x7_s2", batch))
        out = F.max_pool2d(out, 3, stride=2, ceil_mode=True)
        for stage, count in enumerate(self.STAGES, 2):
            for block in range(1, count + 1):
                name = f"conv{stage}_{block}"
                shortcut = self._convolve(f"{name}_1x1_proj", out) if block == 1 else out
                out = F.relu(self._convolve(f"{name}_1x1_reduce", out))
                out = F.relu(self._convolve(f"{name}_3x3", out))
                out = F.relu(self._convolve(f"{name}_1x1_increase", out) + shortcut)
        return out

    def _convolve(self, name: str, features: Tensor) -> Tensor:
        return self[f"{name}_bn"](self[name](features))

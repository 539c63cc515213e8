"""FERAtt (Marrero Fernandez et al., 2019): attention, feature, reconstruction and classification networks.

A U-Net predicts attention logits A, a shallow branch features F; from σ(A)·F a few convolutions draw the
attended face I_att, which a small ResNet classifies. The public code changed after the paper, so there are
three variants with incompatible weights: ``paper`` (late 2018), ``2019`` (runs that the authors named
"ferattpaper", bilinear decoder) and ``2020`` (one attention map per class, 64×64 input).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fer_edge.errors import UsageError, lookup
from fer_edge.export.networks.entry import NetworkEntry
from fer_edge.export.networks.feratt_blocks import AttentionMap, ConvReLU, FeatureBlock, PreActResNet18
from fer_edge.labels import FERPLUS
from fer_edge.spec import CropRule, ModelSpec

#: Outputs of :meth:`FERAtt.forward`, in order.
OUTPUTS = ("logits", "embedding", "attention")


@dataclass(frozen=True)
class Variant:
    """Differences between the published versions of the network.

    Attributes
    ----------
    network : str
        Registry name.
    deconvolution : bool
        Dilated centre and transposed convolutions; otherwise bilinear.
    per_class : bool
        K attention and feature channels for K classes, and a reconstruction that reads [σ(A)·F, x, A]
        and ends in normalisation and ReLU; otherwise 1 and 32 channels.
    residual_blocks : int
        Length of the feature branch.
    dead_zone : float
        I_att is zero below this value.
    pool : int
        Factor between I_att and the classifier's input.
    """

    network: str
    deconvolution: bool
    per_class: bool
    residual_blocks: int
    dead_zone: float
    pool: int


#: By the name that :class:`FERAttOptions` takes.
VARIANTS: Mapping[str, Variant] = {
    "paper": Variant("feratt", True, False, 4, 1e-4, 4),
    "2019": Variant("feratt-2019", False, False, 4, 0.0, 4),
    "2020": Variant("feratt-2020", False, True, 8, 0.0, 2),
}

#: Scale and offset per channel of I_att before the classifier of the 2020 variant. Not buffers: a buffer outside
#: the state dict is lost when a network is built on the meta device and filled afterwards.
FACE_RESCALING = ((0.4046, 0.3988, 0.4020), (0.0172, 0.0356, 0.1070))

_SQUASHED = CropRule(shape="box")  # the authors resize whole images of any aspect ratio

FERATT_SPEC = ModelSpec(
    network="feratt",
    input_height=128,
    input_width=128,
    color="rgb",
    channels=3,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2023, 0.1994, 0.2010),
    class_names=FERPLUS,
    crop=_SQUASHED,
    outputs=OUTPUTS,
)
FERATT_2019_SPEC = dataclasses.replace(FERATT_SPEC, network="feratt-2019", mean=(0.0,) * 3, std=(1.0,) * 3)
FERATT_2020_SPEC = dataclasses.replace(
    FERATT_2019_SPEC, network="feratt-2020", input_height=64, input_width=64, color="gray"
)


@dataclass(frozen=True)
class FERAttOptions:
    """Variant and head of :class:`FERAtt`.

    Attributes
    ----------
    num_classes : int
        Number of logits.
    embedding : int or None
        Size of the representation z (64 in the paper); ``None``: class-only network, without z.
    variant : {"paper", "2019", "2020"}
        A key of :data:`VARIANTS`.
    """

    num_classes: int = 8
    embedding: int | None = 64
    variant: str = "paper"


class FERAttParts(NamedTuple):
    """Outputs of :meth:`FERAtt.forward_parts`, read by the losses of the paper.

    Attributes
    ----------
    logits : Tensor
        y, ``[B, num_classes]``.
    embedding : Tensor
        z, ``[B, embedding]``; the pooled features ``[B, 512]`` in a class-only network.
    face : Tensor
        I_att, ``[B, 3, H, W]``.
    attention_logits : Tensor
        A, ``[B, 1 or num_classes, H, W]``.
    features : Tensor
        F, ``[B, 32 or num_classes, H, W]``.
    class_input : Tensor
        Input of the classifier, ``[B, 3, H / pool, W / pool]``.
    """

    logits: Tensor
    embedding: Tensor
    face: Tensor
    attention_logits: Tensor
    features: Tensor
    class_input: Tensor


class FERAtt(nn.Module):
    """FERAtt: ``[B, 3, H, W]`` → :data:`OUTPUTS` (Section III)."""

    def __init__(self, options: FERAttOptions | None = None) -> None:
        super().__init__()
        o = self.options = options or FERAttOptions()
        v = self.variant = lookup(VARIANTS, o.variant, "FERAtt variant")
        width, maps = (o.num_classes, o.num_classes) if v.per_class else (32, 1)
        self.attention_map = AttentionMap(maps, v.deconvolution)
        self.conv_input = nn.Conv2d(3, width, 9, padding=4)
        self.feature = nn.Sequential(*(FeatureBlock(width) for _ in range(v.residual_blocks)))
        self.conv_mid = nn.Conv2d(width, width, 3, padding=1)
        self.reconstruction = _reconstruction(o, v, width)
        self.conv2_bn = nn.BatchNorm2d(3) if v.per_class else None
        self.netclass = PreActResNet18(o.num_classes, o.embedding)

    def forward(self, batch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits, embedding and attention for ``[B, 3, H, W]``.

        The attention is σ(A) ``[B, H, W]`` in (0, 1), its mean over the classes in the 2020 variant.
        """
        parts = self.forward_parts(batch)
        return parts.logits, parts.embedding, torch.sigmoid(parts.attention_logits).mean(dim=1)

    def forward_parts(self, batch: Tensor) -> FERAttParts:
        """Return every intermediate result that the paper names.

        Raises
        ------
        UsageError
            If the sides of ``batch`` do not suit the variant: 128 for ``paper``, multiples of 64 otherwise.
        """
        self._check_sides(*batch.shape[2:])
        attention = self.attention_map(batch)
        shallow = self.conv_input(batch)
        features = self.conv_mid(self.feature(shallow)) + shallow
        attended = torch.sigmoid(attention) * features
        if self.conv2_bn is None:
            face = self.reconstruction(attended)
            if self.variant.dead_zone:
                face = torch.where(face.abs() < self.variant.dead_zone, 0.0, face)
            scaled = face
        else:
            face = F.relu(self.conv2_bn(self.reconstruction(torch.cat([attended, batch, attention], dim=1))))
            scale, offset = torch.tensor(FACE_RESCALING, dtype=face.dtype, device=face.device)[
                ..., None, None
            ]
            scaled = face * scale - offset
        class_input = F.avg_pool2d(scaled, self.variant.pool)
        logits, embedding = self.netclass(class_input)
        return FERAttParts(logits, embedding, face, attention, features, class_input)

    def _check_sides(self, height: int, width: int) -> None:
        if self.variant.deconvolution:
            if (height, width) != (128, 128):
                raise UsageError(
                    f"feratt needs 128×128 input, found {width}×{height}. Fix: resize the images to 128×128."
                )
        elif height % 64 or width % 64:
            raise UsageError(
                f"{self.variant.network} needs sides that are multiples of 64, found {width}×{height}. Fix: resize the images."
            )


def _reconstruction(options: FERAttOptions, variant: Variant, width: int) -> nn.Sequential:
    if variant.per_class:
        return nn.Sequential(ConvReLU(2 * width + 3, 32), nn.Conv2d(32, 3, 1))
    if options.embedding or variant.deconvolution:
        return nn.Sequential(ConvReLU(width, 32), nn.Conv2d(32, 3, 1))
    return nn.Sequential(ConvReLU(width, 16), ConvReLU(16, 8), nn.Conv2d(8, 3, 1))


def _build(variant: str) -> Callable[..., nn.Module]:
    return lambda **options: FERAtt(FERAttOptions(**{"variant": variant, **options}))


_PAPER = "Marrero Fernández et al., 2019: FERAtt"
ENTRIES = {
    "feratt": NetworkEntry(_build("paper"), FERATT_SPEC, _PAPER),
    "feratt-2019": NetworkEntry(
        _build("2019"), FERATT_2019_SPEC, f"{_PAPER}, the authors' code of March 2019"
    ),
    "feratt-2020": NetworkEntry(_build("2020"), FERATT_2020_SPEC, f"{_PAPER}, the authors' code of 2020"),
}

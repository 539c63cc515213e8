"""FERAtt (Marrero Fernandez et al., 2019): attention, feature, reconstruction and classification networks.

A U-Net predicts attention logits A, a shallow branch features F; from σ(A)·F a few convolutions draw the
attended face I_att, which a small ResNet classifies. The public code changed after the paper, so there are
three variants with incompatible weights: ``paper`` (late 2018), ``2019`` (runs that the authors named
"ferattpaper", bilinear decoder) and ``2020`` (one attention map per class, 64×64 input).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fer_edge.errors import UsageError, WeightsError, lookup
from fer_edge.export.networks.feratt_blocks import AttentionMap, ConvReLU, FeatureBlock, PreActResNet18
from fer_edge.labels import FERPLUS
from fer_edge.spec import CropRule, ModelSpec

State = Mapping[str, Tensor]

#: What :meth:`FERAtt.forward` returns, in order.
OUTPUTS = ("logits", "embedding", "attention")

#: An entry that every file of the authors has, whatever the variant.
SIGNATURE = "conv_mid.weight"

#: Parameters of the encoder's ImageNet classifier: in the authors' files and totals, never used, not in ours.
UNUSED_PARAMETERS = 513_000


@dataclass(frozen=True)
class Variant:
    """What the public states of the network do differently.

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
        I_att is zero where it is smaller.
    pool : int
        Factor between I_att and the classifier's input.
    """

    network: str
    deconvolution: bool
    per_class: bool
    residual_blocks: int
    dead_zone: float
    pool: int


VARIANTS: Mapping[str, Variant] = {
    "paper": Variant("feratt", True, False, 4, 1e-4, 4),
    "2019": Variant("feratt-2019", False, False, 4, 0.0, 4),
    "2020": Variant("feratt-2020", False, True, 8, 0.0, 2),
}

_SQUASHED = CropRule(shape="box")  # the authors resize whole images, whatever their shape

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
    """What :meth:`FERAtt.forward_parts` returns; the losses of the paper read these.

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
        What the classifier reads, ``[B, 3, H / pool, W / pool]``.
    """

    logits: Tensor
    embedding: Tensor
    face: Tensor
    attention_logits: Tensor
    features: Tensor
    class_input: Tensor


class FERAtt(nn.Module):
    """FERAtt: ``[B, 3, H, W]`` → :data:`OUTPUTS` (Section III)."""

    face_scale: Tensor
    face_offset: Tensor

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
        for name, values in (("scale", (0.4046, 0.3988, 0.4020)), ("offset", (0.0172, 0.0356, 0.1070))):
            self.register_buffer(f"face_{name}", torch.tensor(values)[:, None, None], persistent=False)

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
            scaled = face * self.face_scale - self.face_offset
        class_input = F.avg_pool2d(scaled, self.variant.pool)
        logits, embedding = self.netclass(class_input)
        return FERAttParts(logits, embedding, face, attention, features, class_input)

    def _check_sides(self, height: int, width: int) -> None:
        if self.variant.deconvolution:
            if (height, width) != (128, 128):
                raise UsageError(f"feratt needs 128×128 input, found {width}×{height}: resize to 128×128")
        elif height % 64 or width % 64:
            raise UsageError(
                f"{self.variant.network} needs sides that are multiples of 64, found {width}×{height}: resize"
            )


def _reconstruction(options: FERAttOptions, variant: Variant, width: int) -> nn.Sequential:
    if variant.per_class:
        return nn.Sequential(ConvReLU(2 * width + 3, 32), nn.Conv2d(32, 3, 1))
    if options.embedding or variant.deconvolution:
        return nn.Sequential(ConvReLU(width, 32), nn.Conv2d(32, 3, 1))
    return nn.Sequential(ConvReLU(width, 16), ConvReLU(16, 8), nn.Conv2d(8, 3, 1))


# --- the authors' files -------------------------------------------------------------------------------
# Their encoder is stored under two names. Late 2018 its U-Net had no module of its own, so the names lack
# the first "attention_map.".

_UNET = "attention_map."
_UNET_2018 = re.compile(r"^(encoder|conv[1-5]|center|dec[1-5]|attention_map)\.")
_ENCODER = {"conv1": "conv1.0", "bn1": "conv1.1"} | {f"layer{i}": f"conv{i + 1}" for i in range(1, 5)}
_STORED_TWICE = re.compile(rf"^{re.escape(_UNET)}(conv1\.[01]|conv[2-5])\.")
_ALIAS = re.compile(rf"^{re.escape(_UNET)}encoder\.({'|'.join(_ENCODER)})\.")
_ENCODER_HEAD = f"{_UNET}encoder.fc."


def from_author_paper(state: State, origin: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return options and state of our network for a file of late 2018 (:class:`WeightsError` if it is none)."""
    return _from_author("paper", state, origin)


def from_author_2019(state: State, origin: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """:func:`from_author_paper` for a file of 2019."""
    return _from_author("2019", state, origin)


def from_author_2020(state: State, origin: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """:func:`from_author_paper` for a file of 2020."""
    return _from_author("2020", state, origin)


def to_author(module: nn.Module) -> dict[str, Tensor]:
    """Return the state of a :class:`FERAtt` in its authors' order and names.

    Aliases are included. The encoder's unused ImageNet classifier, which we do not keep, is zero.
    """
    if not isinstance(module, FERAtt):
        raise TypeError(f"expected a FERAtt network, found {type(module).__name__}")
    own = module.state_dict()
    encoder = {_alias_of(name): value for name, value in own.items() if _STORED_TWICE.match(name)}
    head = {f"{_ENCODER_HEAD}weight": torch.zeros(1000, 512), f"{_ENCODER_HEAD}bias": torch.zeros(1000)}
    return {
        _author_name(name, module.options.variant): value for name, value in (encoder | head | own).items()
    }


def _from_author(variant: str, state: State, origin: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    found = _variant_of(state)
    if found != variant:
        raise WeightsError(
            f"{origin} holds the {found} variant of FERAtt, expected {variant}: give --model {VARIANTS[found].network}"
        )
    if variant == "paper":
        state = {_UNET_2018.sub(rf"{_UNET}\g<0>", name): value for name, value in state.items()}
    aliases = {_aliased(name): value for name, value in state.items() if _ALIAS.match(name)}
    own = {
        name: value
        for name, value in state.items()
        if not _ALIAS.match(name) and not name.startswith(_ENCODER_HEAD)
    }
    for name in sorted(aliases.keys() | {name for name in own if _STORED_TWICE.match(name)}):
        if name not in own or name not in aliases or not _same(own[name], aliases[name]):
            first, second = (_author_name(n, variant) for n in (name, _alias_of(name)))
            raise WeightsError(
                f"{origin}: expected the encoder entry {first} a second time as {second} with equal values, found them different or one missing: fetch the file again"
            )
    represents = "netclass.classification.weight" in own
    head, inner = (
        "netclass.classification.weight" if represents else "netclass.linear.weight",
        "netclass.linear.weight",
    )
    if inner not in own:
        raise WeightsError(f"{origin} has no classifier ({inner}): give a checkpoint of the whole network")
    options = FERAttOptions(
        num_classes=own[head].shape[:1].numel(),
        embedding=own[inner].shape[:1].numel() if represents else None,
        variant=variant,
    )
    return dataclasses.asdict(options), own


def _variant_of(state: State) -> str:
    if "conv2_bn.weight" in state:
        return "2020"
    return "2019" if any(name.startswith(f"{_UNET}conv1.") for name in state) else "paper"


def _alias_of(name: str) -> str:
    """``attention_map.conv2.0.bn1.bias`` → ``attention_map.encoder.layer1.0.bn1.bias``."""
    names = {ours: theirs for theirs, ours in _ENCODER.items()}
    return _STORED_TWICE.sub(lambda match: f"{_UNET}encoder.{names[match[1]]}.", name)


def _aliased(alias: str) -> str:
    return _ALIAS.sub(lambda match: f"{_UNET}{_ENCODER[match[1]]}.", alias)


def _author_name(name: str, variant: str) -> str:
    return name.removeprefix(_UNET) if variant == "paper" else name


def _same(a: Tensor, b: Tensor) -> bool:
    """Equal in every value; NaN counts as equal here, since it is reported later under its own name."""
    return a.dtype == b.dtype and torch.equal(a.nan_to_num(), b.nan_to_num())

"""The networks of the papers, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from fer_edge.errors import UsageError, lookup
from fer_edge.export.networks.baselines import MEMBERS, EnsembleOptions, baseline_spec, build_ensemble
from fer_edge.export.networks.conv_attention import ConvAttention, ConvAttentionOptions
from fer_edge.export.networks.emotionaldan import (
    EMOTIONALDAN_1STAGE_SPEC,
    EMOTIONALDAN_SPEC,
    EmotionalDan,
    EmotionalDanOptions,
)
from fer_edge.export.networks.feratt import (
    FERATT_2019_SPEC,
    FERATT_2020_SPEC,
    FERATT_SPEC,
    FERAtt,
    FERAttOptions,
)
from fer_edge.export.networks.resmasking import ResMasking, ResMaskingOptions
from fer_edge.export.networks.tolerance import Tolerance
from fer_edge.export.networks.visual_attention import (
    VISUAL_ATTENTION_SPEC,
    VisualAttention,
    VisualAttentionOptions,
)
from fer_edge.labels import AFFECTNET8
from fer_edge.spec import ModelSpec

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class NetworkEntry:
    """How to make a network, and the input contract of the paper."""

    build: Callable[..., nn.Module]
    spec: ModelSpec
    paper: str
    #: Output → how far a runtime may be from PyTorch, where it is not the default.
    tolerances: Mapping[str, Tolerance] = field(default_factory=dict)


def _conv_attention(**options: Any) -> nn.Module:
    return ConvAttention(ConvAttentionOptions(**_tuples(options)))


def _tuples(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options that have been JSON hold lists."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}


def _resmasking(dropout: float) -> Callable[..., nn.Module]:
    return lambda **options: ResMasking(ResMaskingOptions(**{"dropout": dropout, **options}))


def _member(name: str, arch: str) -> NetworkEntry:
    """One of the ensemble's networks, whose only option is ``num_classes``."""
    return NetworkEntry(
        lambda num_classes=7: MEMBERS[arch].build(num_classes),
        baseline_spec(name),
        f"{_PHAM}, member of the ensemble",
    )


def _ensemble(**options: Any) -> nn.Module:
    return build_ensemble(EnsembleOptions(**_tuples(options)))


def _emotionaldan(stages: int) -> Callable[..., nn.Module]:
    return lambda **options: EmotionalDan(EmotionalDanOptions(**{"stages": stages, **options}))


def _feratt(variant: str) -> Callable[..., nn.Module]:
    return lambda **options: FERAtt(FERAttOptions(**{"variant": variant, **options}))


def _visual_attention(variant: str) -> Callable[..., nn.Module]:
    return lambda **options: VisualAttention(VisualAttentionOptions(**{"variant": variant, **options}))


_FERATT = "Marrero Fernández et al., 2019: FERAtt"
_SUN = "Sun et al.: visual attention"
_PHAM = "Pham et al., 2020: Residual Masking Network"
_TAUTKUTE = "Tautkute et al., 2018: EmotionalDAN"

#: Stage 2 sees the face moved by landmarks that carry stage 1's rounding; landmarks are pixels, of scale 200.
_DAN_TOLERANCES = {"logits": Tolerance(2e-4), "landmarks": Tolerance(5e-3)}

_SUN_LOGITS = replace(VISUAL_ATTENTION_SPEC, outputs=("logits",))

NETWORKS: Mapping[str, NetworkEntry] = {
    "conv-attention": NetworkEntry(
        build=_conv_attention,
        spec=ModelSpec(
            network="conv-attention",
            input_height=224,
            input_width=224,
            color="rgb",
            channels=3,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            class_names=AFFECTNET8,
        ),
        paper="Jalal et al.: convolution and self-attention",
    ),
    "resmasking": NetworkEntry(
        build=_resmasking(ResMaskingOptions.dropout), spec=baseline_spec("resmasking"), paper=_PHAM
    ),
    "resmasking-nodropout": NetworkEntry(
        _resmasking(0.0), baseline_spec("resmasking-nodropout"), f"{_PHAM}, without dropout"
    ),
    **{
        name: _member(name, arch)
        for name, arch in (
            ("resnet18", "resnet18"),
            ("resnet50-vggface", "resnet50_pretrained_vgg"),
            ("resnet101", "resnet101"),
            ("cbam-resnet50", "cbam_resnet50"),
            ("efficientnet-b2b", "efficientnet_b2b"),
        )
    },
    "resmasking-ensemble": NetworkEntry(
        _ensemble, baseline_spec("resmasking-ensemble"), f"{_PHAM}, sum of seven networks"
    ),
    "feratt": NetworkEntry(_feratt("paper"), FERATT_SPEC, _FERATT),
    "feratt-2019": NetworkEntry(
        _feratt("2019"), FERATT_2019_SPEC, f"{_FERATT}, the authors' code of March 2019"
    ),
    "feratt-2020": NetworkEntry(_feratt("2020"), FERATT_2020_SPEC, f"{_FERATT}, the authors' code of 2020"),
    "visual-attention": NetworkEntry(_visual_attention("attention"), VISUAL_ATTENTION_SPEC, _SUN),
    "visual-attention-symmetric": NetworkEntry(
        _visual_attention("attention-symmetric"),
        replace(VISUAL_ATTENTION_SPEC, network="visual-attention-symmetric"),
        f"{_SUN}, symmetric map",
    ),
    "visual-attention-baseline": NetworkEntry(
        _visual_attention("baseline"),
        replace(_SUN_LOGITS, network="visual-attention-baseline"),
        f"{_SUN}, baseline without attention",
    ),
    "visual-attention-average": NetworkEntry(
        _visual_attention("global-average"),
        replace(_SUN_LOGITS, network="visual-attention-average"),
        f"{_SUN}, global average instead of attention",
    ),
    "emotionaldan": NetworkEntry(_emotionaldan(2), EMOTIONALDAN_SPEC, _TAUTKUTE, _DAN_TOLERANCES),
    "emotionaldan-1stage": NetworkEntry(
        _emotionaldan(1), EMOTIONALDAN_1STAGE_SPEC, f"{_TAUTKUTE}, one stage", _DAN_TOLERANCES
    ),
}


def build_network(name: str, options: Mapping[str, Any] | None = None) -> nn.Module:
    """Return network ``name`` with random weights.

    Parameters
    ----------
    name : str
        A key of :data:`NETWORKS`.
    options : mapping, optional
        Fields of the network's options class, such as ``{"num_classes": 7}``.

    Raises
    ------
    UsageError
        If the name or an option is unknown.
    """
    entry = lookup(NETWORKS, name, "network")
    try:
        return entry.build(**(options or {}))
    except TypeError as error:
        raise UsageError(f"network {name!r} does not take these options: {error}") from error

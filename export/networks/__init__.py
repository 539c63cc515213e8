"""The networks of the papers, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from fer_edge.errors import UsageError, lookup
from fer_edge.export.networks.baselines import baseline_spec
from fer_edge.export.networks.conv_attention import ConvAttention, ConvAttentionOptions
from fer_edge.export.networks.feratt import (
    FERATT_2019_SPEC,
    FERATT_2020_SPEC,
    FERATT_SPEC,
    FERAtt,
    FERAttOptions,
)
from fer_edge.export.networks.resmasking import ResMasking, ResMaskingOptions
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


def _conv_attention(**options: Any) -> nn.Module:
    lists_to_tuples: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    return ConvAttention(ConvAttentionOptions(**lists_to_tuples))


def _resmasking(**options: Any) -> nn.Module:
    return ResMasking(ResMaskingOptions(**options))


def _feratt(variant: str) -> Callable[..., nn.Module]:
    return lambda **options: FERAtt(FERAttOptions(**{"variant": variant, **options}))


def _visual_attention(variant: str) -> Callable[..., nn.Module]:
    return lambda **options: VisualAttention(VisualAttentionOptions(**{"variant": variant, **options}))


_FERATT = "Marrero Fernández et al., 2019: FERAtt"
_SUN = "Sun et al.: visual attention"

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
        build=_resmasking,
        spec=baseline_spec("resmasking"),
        paper="Pham et al., 2020: Residual Masking Network",
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

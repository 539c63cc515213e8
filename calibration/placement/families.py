"""Placement rules of each network family, and the layers that they protect.

A rule matches layers by graph structure, independent of the weights. This table lists the rules that match in
each network; a test checks it against every exported network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fer_edge.calibration.placement.placement import DEFAULT_PLACEMENT, PlacedGraph, Placement
from fer_edge.calibration.placement.rules import FLOAT_RULES


@dataclass(frozen=True)
class Family:
    """Networks that are quantised alike.

    Attributes
    ----------
    networks : tuple of str
        Keys of :data:`fer_edge.models.catalogue.CATALOGUE`.
    rules : mapping
        Key of :data:`fer_edge.calibration.placement.rules.FLOAT_RULES` → layers that it protects in these networks.
    """

    networks: tuple[str, ...]
    rules: Mapping[str, str]


_CLASSIFIER = "the dense layer that gives the logits"
_ILLUMINATION = "faces divided by their illumination: 1.2 points of accuracy were lost in this layer alone"

FAMILIES: Mapping[str, Family] = {
    "residual masking": Family(
        ("resmasking", "resmasking-nodropout"),
        {
            "head": _CLASSIFIER,
            "softmax": "each mask is a softmax over 64 to 512 channels",
            "mask product": "x · (1 + m), where m is near 1/64 to 1/512",
        },
    ),
    "residual": Family(("resnet18", "resnet101", "resnet50-vggface"), {"head": _CLASSIFIER}),
    "gated residual": Family(
        ("cbam-resnet50", "efficientnet-b2b"),
        {
            "head": _CLASSIFIER,
            "gate": "CBAM's channel and spatial gates; squeeze and excitation",
            "score": "the last layer of a gate",
        },
    ),
    "ensemble": Family(
        ("resmasking-ensemble",),
        {
            "head": "the dense layer of each member",
            "gate": "the gates of CBAM and EfficientNet",
            "score": "the last layer of a gate",
            "softmax": "the masks, and the probabilities that the members are fused by",
            "mask product": "x · (1 + m) of the Residual Masking members",
        },
    ),
    "FERAtt": Family(
        ("feratt", "feratt-2019", "feratt-2020"),
        {
            "head": "the dense layers of logits and embedding",
            "score": "the attention map A, which meets the features as σ(A)",
            "normalisation": "the classifier's blocks begin with a norm, no convolution is in front of it to take it up",
        },
    ),
    "EmotionalDAN": Family(
        ("emotionaldan",),
        {
            "head": "expression, and the offsets of the landmarks in pixels",
            "normalisation": "convolution → ReLU → norm: no convolution is in front of it to take it up",
            "geometry": "similarity transform, warp and heatmap",
            "stage input": "half a percent of the multiply-adds makes a quarter of all noise",
        },
    ),
    "EmotionalDAN, one stage": Family(
        ("emotionaldan-1stage",),
        {
            "head": "expression, and the offsets of the landmarks in pixels",
            "normalisation": "convolution → ReLU → norm: no convolution is in front of it to take it up",
        },
    ),
    "self-attention": Family(
        ("conv-attention",),
        {"head": _CLASSIFIER, "self-attention": "the map over all positions, 784 × 784 at the paper's size"},
    ),
    "visual attention": Family(
        ("visual-attention", "visual-attention-symmetric"),
        {
            "stem": _ILLUMINATION,
            "head": _CLASSIFIER,
            "score": "the map's logits, bounded by tanh",
            "softmax": "the map B over 63 positions",
        },
    ),
    "visual attention, baselines": Family(
        ("visual-attention-baseline", "visual-attention-average"),
        {"stem": _ILLUMINATION, "head": _CLASSIFIER},
    ),
}

_BY_NETWORK = {network: family for family in FAMILIES.values() for network in family.networks}


def placement_of(network: str) -> Placement:
    """Return the placement of a network's family; every rule applies to a network without a family."""
    family = _BY_NETWORK.get(network)
    return DEFAULT_PLACEMENT if family is None else Placement(tuple(family.rules))


@dataclass(frozen=True)
class PlacementRow:
    """Layers that stay in floating point, and the reason."""

    rule: str
    reason: str
    layers: tuple[str, ...]


def explain_placement(placed: PlacedGraph, network: str) -> tuple[PlacementRow, ...]:
    """Return the layers of a network that stay in floating point, rule by rule."""
    family = _BY_NETWORK.get(network)
    rows = []
    for name, layers in placed.by_rule.items():
        here = "" if family is None else family.rules.get(name, "")
        reason = FLOAT_RULES[name].reason
        rows.append(PlacementRow(name, f"{here}: {reason}" if here else reason, layers))
    if placed.placement.float_layers:
        rows.append(
            PlacementRow(
                "mixed precision",
                "measured to do most harm, and left out of INT8 to meet the bound",
                tuple(sorted(placed.placement.float_layers)),
            )
        )
    return tuple(rows)

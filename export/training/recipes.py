"""Recipes: every choice of a training run, by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fer_edge.export.training.augmentation import AugmentationOptions
from fer_edge.labels import FERPLUS
from fer_edge.spec import CropRule, ModelSpec


@dataclass(frozen=True)
class Recipe:
    """A training run: network, data labels, augmentation, optimiser and schedule."""

    network: str
    network_options: Mapping[str, Any]
    spec: ModelSpec
    labels: str  # "ferplus" or "fer2013"; image folders bring their own
    epochs: int
    batch_size: int = 128
    max_learning_rate: float = 2e-3
    weight_decay: float = 0.05
    warmup_fraction: float = 0.2
    max_gradient_norm: float = 5.0
    ema_decay: float = 0.998
    validation_count: int = 1000
    augmentation: AugmentationOptions = field(default_factory=AugmentationOptions)
    bfloat16: bool = True
    seed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return dataclasses.asdict(self)


RECIPES: Mapping[str, Recipe] = {
    # Jalal et al. at 48 pixels: FER2013's own resolution, and what two CPU cores can train.
    "conv-attention-ferplus": Recipe(
        network="conv-attention",
        network_options={
            "in_channels": 1,
            "num_classes": len(FERPLUS),
            "c2_widths": (64, 192),
            "dropout": 0.5,
            "gamma_init": 0.0,
        },
        spec=ModelSpec(
            network="conv-attention",
            input_height=48,
            input_width=48,
            color="gray",
            channels=1,
            mean=(0.508,),
            std=(0.255,),
            class_names=FERPLUS,
            crop=CropRule(shape="square", scale=1.1, edge="replicate"),
        ),
        labels="ferplus",
        epochs=26,
    ),
}

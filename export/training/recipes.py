"""Recipes by name: one per paper, and those of the weights that ship."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from fer_edge.export.networks import NETWORKS
from fer_edge.export.training.augmentation import AugmentationOptions
from fer_edge.export.training.losses import VEMO_CLASS_WEIGHTS
from fer_edge.export.training.recipe import Phase, Recipe
from fer_edge.labels import FER2013, FERPLUS
from fer_edge.spec import CropRule, ModelSpec

_NO_GEOMETRY = AugmentationOptions(
    rotation_deg=0, shift=0, scale=0, flip_probability=0, brightness=0, contrast=0, erase_probability=0
)
#: For the end of a run, when strong augmentation limits a small network.
_MODERATE = AugmentationOptions(
    rotation_deg=15,
    shift=0.08,
    scale=0.12,
    brightness=0.15,
    contrast=0.25,
    erase_probability=0.15,
    erase_max_side=0.3,
)


def _shipped(labels: str, class_names: tuple[str, ...], *phases: Phase, **changes: Any) -> Recipe:
    """Jalal et al. at 48 pixels, FER2013's resolution, which two CPU cores can train."""
    recipe = Recipe(
        network="conv-attention",
        network_options={
            "in_channels": 1,
            "num_classes": len(class_names),
            "c2_widths": (64, 192),
            "dropout": 0.4,
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
            class_names=class_names,
            crop=CropRule(shape="square", scale=1.1, edge="replicate"),
        ),
        labels=labels,
        phases=phases,
        augmentation=AugmentationOptions(mixup_alpha=0.1),
        training_norms=True,
        precise_norms=True,
        ema_decay=0.995,
        bfloat16=True,
    )
    return dataclasses.replace(recipe, **changes)


_RESMASKING = Recipe(
    network="resmasking",
    network_options={},
    spec=NETWORKS["resmasking"].spec,
    labels="fer2013",
    phases=(
        Phase(
            epochs=50,
            optimizer="radam",
            learning_rate=1e-4,
            weight_decay=1e-3,
            rate="plateau",
            rate_options={"factor": 0.1, "patience": 2, "minimum": 1e-6},
            patience=8,
        ),
    ),
    batch_size=48,
    max_gradient_norm=None,
    keep="best",
    validation_count=3500,
    augmentation=dataclasses.replace(_NO_GEOMETRY, rotation_deg=30, flip_probability=0.5, fill="black"),
    notes="The paper reads as SGD with momentum 0.9; the code runs RAdam, which is used. Its ImageNet start is commented out there.",
)

RECIPES: Mapping[str, Recipe] = {
    "conv-attention-ferplus": _shipped(
        "ferplus",
        FERPLUS,
        Phase(epochs=39, learning_rate=2.5e-3, weight_decay=0.03),
        Phase(
            epochs=16,
            learning_rate=1.2e-3,
            weight_decay=0.05,
            rate_options={"warmup": 0.1},
            augmentation=_MODERATE,
        ),
        side_schedule=((0.0, 0.75), (0.43, 1.0), (0.7, 0.75), (0.79, 1.0)),
        notes="Recipe of the shipped weights: each phase was a run, the second with --initial; the first, of 44 epochs, was stopped after 39.",
    ),
    "conv-attention-fer2013": _shipped(
        "fer2013",
        FER2013,
        Phase(
            epochs=24,
            learning_rate=1.5e-3,
            weight_decay=0.05,
            rate_options={"warmup": 0.1},
            augmentation=_MODERATE,
        ),
        side_schedule=((0.0, 0.75), (0.4, 1.0)),
        notes="The shipped weights started from weights of the first phase of conv-attention-ferplus (--initial).",
    ),
    "visual-attention-fer2013": Recipe(
        network="visual-attention",
        network_options={
            "bias": True,
            "dropout": 0.1,
            "input_height": 72,
            "input_width": 56,
        },
        spec=dataclasses.replace(
            NETWORKS["visual-attention"].spec,
            input_height=72,
            input_width=56,
        ),
        labels="fer2013",
        phases=(
            Phase(epochs=11, learning_rate=4e-3, weight_decay=0.01),
            Phase(epochs=30, learning_rate=3e-3, weight_decay=0.02, rate_options={"warmup": 0.1}),
        ),
        augmentation=AugmentationOptions(rotation_deg=15, erase_probability=0.1),
        training_norms=True,
        side_schedule=((0.0, 0.67), (0.16, 1.0), (0.26, 0.67), (0.7, 1.0)),
        ema_decay=0.995,
        bfloat16=True,
        notes="Recipe of the shipped weights: each phase was a run, the second with --initial.",
    ),
    "resmasking": _RESMASKING,
    "resmasking-vemo": dataclasses.replace(
        _RESMASKING,
        phases=(
            dataclasses.replace(
                _RESMASKING.phases[0], objective_options={"class_weights": VEMO_CLASS_WEIGHTS}
            ),
        ),
        spec=dataclasses.replace(_RESMASKING.spec, color="bgr"),
    ),
    "feratt": Recipe(
        network="feratt",
        network_options={},
        spec=NETWORKS["feratt"].spec,
        labels="ferplus",
        data="rendered",
        phases=(
            Phase(
                epochs=60,
                objective="structured-manifold",
                objective_options={"sigma": 1.0},
                optimizer="adam-amsgrad",
                learning_rate=1e-4,
                weight_decay=0.0,
                rate="steps",
                rate_options={"every": 100, "factor": 0.1},
            ),
        ),
        batch_size=200,
        max_gradient_norm=None,
        keep="best",
        subject_folds=10,
        augmentation=_NO_GEOMETRY,  # the renderer changes geometry and colour
        notes="Epochs and batch of the paper (60, 200); amsgrad and the steps of the rate from the code (500 epochs, batch 240).",
    ),
    "emotionaldan": Recipe(
        network="emotionaldan",
        network_options={},
        spec=NETWORKS["emotionaldan"].spec,
        labels="fer2013",
        data="landmarks",
        dropped_classes=("contempt",),
        phases=(
            Phase(
                epochs=40,
                objective="landmarks",
                optimizer="adam",
                learning_rate=1e-3,
                weight_decay=0.0,
                rate="constant",
                trained=("stage1",),
            ),
            Phase(
                epochs=40,
                objective="landmarks-and-expression",
                objective_options={"landmark_weight": 0.4},
                optimizer="sgd",
                learning_rate=0.05,
                weight_decay=0.0,
                rate="triangular",
                rate_options={"low": 1e-4, "half_cycle": 10_000},
                trained=("feature", "input_norm", "stage2", "emotion"),
            ),
        ),
        batch_size=50,
        max_gradient_norm=None,
        keep="best",
        augmentation=dataclasses.replace(_NO_GEOMETRY, brightness=0.3, contrast=0.8),
        notes="Weights 0.4 : 0.6 as in the paper (the code has 0.5 : 0.5). Stage 1 learns landmarks alone, as in the code. Brightness and contrast change the pixels before the image statistics are applied.",
    ),
    "conv-attention": Recipe(
        network="conv-attention",
        network_options={},
        spec=NETWORKS["conv-attention"].spec,
        labels="auto",
        phases=(Phase(epochs=700, optimizer="adam", learning_rate=1e-4, weight_decay=0.0, rate="constant"),),
        per_class=13_000,
        batch_size=500,
        max_gradient_norm=None,
        keep="best",
        augmentation=dataclasses.replace(_NO_GEOMETRY, shift=16 / 224, flip_probability=0.5),
        notes="A random 224 crop of 256 moves the face by up to 16 pixels; ready crops leave no margin, so their borders are repeated. Colour normalisation is our reading.",
    ),
    "visual-attention": Recipe(
        network="visual-attention",
        network_options={},
        spec=NETWORKS["visual-attention"].spec,
        labels="fer2013",
        phases=(Phase(epochs=300, optimizer="adam", learning_rate=1e-3, weight_decay=0.0, rate="constant"),),
        batch_size=64,
        max_gradient_norm=None,
        keep="best",
        subject_folds=5,
        augmentation=dataclasses.replace(_NO_GEOMETRY, shift=8 / 144, flip_probability=0.5),
        notes="Batch, rate and dropout are our readings. The paper trains 10,000 epochs on RaFD's frontal faces, 130 on its poses, 300 with FER2013.",
    ),
}

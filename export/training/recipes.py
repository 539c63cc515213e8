"""Recipes: every choice of a training run, by name. One per paper, and those of the weights that ship."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fer_edge.export.networks import NETWORKS
from fer_edge.export.training.data.augmentation import AugmentationOptions
from fer_edge.export.training.losses import VEMO_CLASS_WEIGHTS
from fer_edge.labels import FER2013, FERPLUS
from fer_edge.spec import CropRule, ModelSpec


@dataclass(frozen=True)
class Phase:
    """A stretch of a run with one objective, optimiser and rate.

    Attributes
    ----------
    epochs : int
        At most so many.
    objective : str
        A key of :data:`fer_edge.export.training.objectives.OBJECTIVES`.
    objective_options : mapping
        Keyword arguments of the objective.
    optimizer, rate : str
        Keys of :data:`fer_edge.export.training.optimizers.OPTIMIZERS` and of ``RATES`` there.
    learning_rate, weight_decay : float
        Peak rate, and decay as the optimiser defines it.
    rate_options : mapping
        Keyword arguments of the rate.
    trained : tuple of str
        Children of the network that learn; the others are frozen, their normalisation too. Empty: all.
    patience : int or None
        Stop the phase after more than so many epochs without a better validation accuracy.
    augmentation : AugmentationOptions or None
        Instead of the recipe's.
    """

    epochs: int
    objective: str = "classification"
    objective_options: Mapping[str, Any] = field(default_factory=dict)
    optimizer: str = "adamw"
    rate: str = "one-cycle"
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    rate_options: Mapping[str, Any] = field(default_factory=dict)
    trained: tuple[str, ...] = ()
    patience: int | None = None
    augmentation: AugmentationOptions | None = None


@dataclass(frozen=True)
class Recipe:
    """A training run: network, data, augmentation and phases.

    Attributes
    ----------
    network, network_options, spec
        What is trained, and its input and output contract.
    labels : {"auto", "ferplus", "fer2013"}
        Which labels of FER2013; other data bring their own.
    phases : tuple of Phase
        Carried out in order.
    data : str
        A key of :data:`fer_edge.export.training.data.batches.DATA`.
    dropped_classes : tuple of str
        Images of these classes are left out.
    per_class : int or None
        Balanced sampling with so many images of a class per epoch; ``None``: every image once.
    keep : {"average", "best", "last"}
        Which weights are saved: the exponential average, those of the best validation accuracy, or the last.
    validation_count : int
        Images held out, drawn at random.
    subject_folds : int
        Where the data names its subjects, hold out one of so many folds of them instead; 0: never.
    training_norms : bool
        See :mod:`fer_edge.export.training.norms`.
    precise_norms : bool
        At the end, take the statistics of batch normalisation again on images as they are, unless ``keep``
        is ``best``.
    side_schedule : tuple of (float, float)
        Share of the epochs from which → share of the input's sides: small images first are cheap steps.
    notes : str
        Where the paper and its code differ, and what is our reading.
    """

    network: str
    network_options: Mapping[str, Any]
    spec: ModelSpec
    labels: str
    phases: tuple[Phase, ...]
    data: str = "crops"
    data_options: Mapping[str, Any] = field(default_factory=dict)
    dropped_classes: tuple[str, ...] = ()
    per_class: int | None = None
    batch_size: int = 128
    max_gradient_norm: float | None = 5.0
    keep: str = "average"
    ema_decay: float = 0.998
    validation_count: int = 1000
    subject_folds: int = 0
    fold: int = 0
    augmentation: AugmentationOptions = field(default_factory=AugmentationOptions)
    training_norms: bool = False
    precise_norms: bool = False
    side_schedule: tuple[tuple[float, float], ...] = ((0.0, 1.0),)
    bfloat16: bool = False
    seed: int = 0
    notes: str = ""

    @property
    def epochs(self) -> int:
        """Epochs of all phases."""
        return sum(phase.epochs for phase in self.phases)

    @property
    def augmentations(self) -> tuple[AugmentationOptions, ...]:
        """Those that the phases use."""
        return tuple(phase.augmentation or self.augmentation for phase in self.phases)

    def with_epochs(self, epochs: int) -> Recipe:
        """Return the recipe with ``epochs`` epochs in every phase."""
        return dataclasses.replace(
            self, phases=tuple(dataclasses.replace(p, epochs=epochs) for p in self.phases)
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return dataclasses.asdict(self)


_NO_GEOMETRY = AugmentationOptions(
    rotation_deg=0, shift=0, scale=0, flip_probability=0, brightness=0, contrast=0, erase_probability=0
)
#: For the end of a run, when strong changes keep a small network from learning more.
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
    """Jalal et al. at 48 pixels: FER2013's own resolution, and what two CPU cores can train."""
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
        notes="What ships: each phase was a run, the second with --initial; the first, of 44 epochs, was stopped after 39.",
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
        notes="What ships started from weights of the first phase of conv-attention-ferplus (--initial).",
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
        notes="What ships: each phase was a run, the second with --initial.",
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

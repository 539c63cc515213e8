"""Recipe of a training run: network, data and phases."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fer_edge.export.training.augmentation import AugmentationOptions
from fer_edge.spec import ModelSpec


@dataclass(frozen=True)
class Phase:
    """A stretch of a run with one objective, optimiser and rate.

    Attributes
    ----------
    epochs : int
        Maximum number of epochs.
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
        Trained children of the network; the others are frozen, including their normalisation. Empty: all.
    patience : int or None
        Stop the phase after more than this number of epochs without a better validation accuracy.
    augmentation : AugmentationOptions or None
        Overrides that of the recipe.
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
        Network to train, and its input and output contract.
    labels : {"auto", "ferplus", "fer2013"}
        Labels of FER2013; other data sets have their own.
    phases : tuple of Phase
        Phases in order.
    data : str
        A key of :data:`fer_edge.export.training.data.batches.DATA`.
    dropped_classes : tuple of str
        Images of these classes are left out.
    per_class : int or None
        Balanced sampling with this number of images of a class per epoch; ``None``: every image once.
    keep : {"average", "best", "last"}
        Saved weights: the exponential average, those of the best validation accuracy, or the last.
    validation_count : int
        Images held out, drawn at random.
    subject_folds : int
        Number of folds of the subjects, one of which is held out instead where the data names subjects; 0: never.
    training_norms : bool
        See :mod:`fer_edge.export.training.norms`.
    precise_norms : bool
        At the end, re-estimate the statistics of batch normalisation without augmentation, unless ``keep`` is
        ``best``.
    side_schedule : tuple of (float, float)
        Share of the epochs from which → share of the input's sides: early steps on small images are cheap.
    notes : str
        Differences between the paper and its code, and our interpretation.
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
        """Augmentations of the phases."""
        return tuple(phase.augmentation or self.augmentation for phase in self.phases)

    def with_epochs(self, epochs: int) -> Recipe:
        """Return the recipe with ``epochs`` epochs in every phase."""
        return dataclasses.replace(
            self, phases=tuple(dataclasses.replace(p, epochs=epochs) for p in self.phases)
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return dataclasses.asdict(self)

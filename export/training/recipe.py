"""The choices of a training run: its network, its data and its phases."""

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

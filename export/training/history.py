"""Metrics of every epoch, and the progress of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fer_edge.export.training.recipe import Phase


@dataclass(frozen=True)
class EpochMetrics:
    """One line of ``metrics.csv``. Validation uses the averaged weights where they exist.

    Accuracy and macro-F1 are ``None`` for an objective without classification; ``parts`` are the parts of
    the validation loss. ``temperature`` is fitted on the held-out images, if there are enough and the
    weights are kept.
    """

    epoch: int
    train_loss: float
    validation_loss: float
    validation_accuracy: float | None
    validation_macro_f1: float | None
    learning_rate: float
    seconds: float
    parts: Mapping[str, float] = field(default_factory=dict)
    temperature: float | None = None

    def to_row(self) -> dict[str, Any]:
        """Return flat columns."""
        row = dataclasses.asdict(self)
        del row["temperature"]
        return row | {f"validation_{name}": value for name, value in row.pop("parts").items()}


@dataclass
class Progress:
    """Progress of a run.

    Attributes
    ----------
    step : int
        Steps done.
    history : list of EpochMetrics
        Finished epochs.
    losses : list of float
        Of the steps since the last finished epoch.
    phase, phase_epoch, phase_step : int
        The phase, and the epochs and steps that were done when it began.
    unfinished : EpochMetrics or None
        Of an epoch that ended at a limit of steps.
    """

    step: int = 0
    history: list[EpochMetrics] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    phase: int = 0
    phase_epoch: int = 0
    phase_step: int = 0
    unfinished: EpochMetrics | None = None

    def add(self, loss: float) -> None:
        """Count a step."""
        self.step += 1
        self.losses.append(loss)

    def close_epoch(self, metrics: EpochMetrics, whole: bool) -> None:
        """Count an epoch, or remember that it was cut short."""
        if whole:
            self.history.append(metrics)
            self.losses.clear()
            self.unfinished = None
        else:
            self.unfinished = metrics

    def phase_ends(self, phase: Phase) -> bool:
        """Return whether the current phase has reached its epochs or its patience."""
        done = self.phase_accuracies
        if len(done) >= phase.epochs:
            return True
        if phase.patience is None or not done:
            return False
        return len(done) - 1 - done.index(max(done)) > phase.patience

    def next_phase(self) -> None:
        """Begin the next phase."""
        self.phase += 1
        self.phase_epoch, self.phase_step = len(self.history), self.step

    @property
    def phase_accuracies(self) -> list[float]:
        """Validation accuracy of the finished epochs of this phase; 0 for an objective without classification."""
        return [m.validation_accuracy or 0.0 for m in self.history[self.phase_epoch :]]

    @property
    def all_metrics(self) -> list[EpochMetrics]:
        """Metrics of finished epochs, then of an epoch that was cut short."""
        return [*self.history, *([self.unfinished] if self.unfinished else [])]

    @property
    def last_metrics(self) -> EpochMetrics:
        """Metrics of the last epoch, complete or cut short."""
        return self.all_metrics[-1]

    @property
    def best_accuracy(self) -> float | None:
        """Best validation accuracy so far; ``None`` before there is one."""
        return max(
            (m.validation_accuracy for m in self.history if m.validation_accuracy is not None), default=None
        )

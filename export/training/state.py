"""What a resumed run needs: progress, weights, average and optimiser, in one checkpoint file."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fer_edge._utils.files import whole_file
from fer_edge.errors import WeightsError
from fer_edge.export.training.logs import EpochMetrics
from fer_edge.export.training.recipes import Phase, Recipe

CHECKPOINT = "checkpoint.pt"


@dataclass
class Progress:
    """Where a run stands.

    Attributes
    ----------
    step : int
        Steps that are done.
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
        """Whether the current phase has had its epochs, or its patience is at an end."""
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
        """Validation accuracy of the finished epochs of this phase; 0 where nothing is classified."""
        return [m.validation_accuracy or 0.0 for m in self.history[self.phase_epoch :]]

    @property
    def all_metrics(self) -> list[EpochMetrics]:
        """Finished epochs, then the one that was cut short."""
        return [*self.history, *([self.unfinished] if self.unfinished else [])]

    @property
    def last_metrics(self) -> EpochMetrics:
        """Of the last epoch, whole or not."""
        return self.all_metrics[-1]

    @property
    def best_accuracy(self) -> float | None:
        """Best validation accuracy so far; ``None`` before there is one."""
        return max(
            (m.validation_accuracy for m in self.history if m.validation_accuracy is not None), default=None
        )


@dataclass(frozen=True)
class RunState:
    """Everything that a resumed run needs, as modules that it is saved from."""

    recipe: Recipe
    progress: Progress
    network: nn.Module
    average: nn.Module | None
    optimizer: torch.optim.Optimizer

    def save(self, path: Path) -> None:
        """Write the checkpoint whole or not at all."""
        parts = {"network": self.network, "average": self.average, "optimizer": self.optimizer}
        value: dict[str, Any] = {n: None if p is None else p.state_dict() for n, p in parts.items()}
        value["recipe"] = json.dumps(self.recipe.to_dict())
        value["progress"] = {k: v for k, v in dataclasses.asdict(self.progress).items() if k != "unfinished"}
        with whole_file(path) as part:
            torch.save(value, part)

    @staticmethod
    def load(path: Path, recipe: Recipe) -> LoadedState:
        """Read a checkpoint of the same recipe; nothing in it is executed.

        Raises
        ------
        WeightsError
            If it is missing, damaged or from another recipe.
        """
        try:
            value = torch.load(path, weights_only=True)
            if value["recipe"] != json.dumps(recipe.to_dict()):
                raise WeightsError(
                    f"{path} cannot be resumed from (it is from another recipe): start again in another --output"
                )
            saved = value["progress"]
            progress = Progress(**{**saved, "history": [EpochMetrics(**m) for m in saved["history"]]})
            return LoadedState(path, progress, value["network"], value["average"], value["optimizer"])
        except FileNotFoundError as error:
            raise WeightsError(f"there is no {path} to resume from: leave --resume out") from error
        except WeightsError:
            raise
        except Exception as error:  # damaged bytes can raise anything in the unpickler
            raise _unusable(path, error) from error


@dataclass(frozen=True)
class LoadedState:
    """A checkpoint that was read, before its tensors are put back."""

    path: Path
    progress: Progress
    network: Any
    average: Any
    optimizer: Any

    def restore(
        self, network: nn.Module, average: nn.Module | None, optimizer: torch.optim.Optimizer
    ) -> None:
        """Put the tensors back; an optimiser of an earlier phase is left behind."""
        try:
            network.load_state_dict(self.network)
            if average is not None:
                average.load_state_dict(self.average)
            optimizer.load_state_dict(self.optimizer)
        except Exception as error:  # damaged bytes can be of any type
            raise _unusable(self.path, error) from error


def _unusable(path: Path, error: Exception) -> WeightsError:
    return WeightsError(
        f"{path} cannot be resumed from ({type(error).__name__}): it is damaged or from another recipe: start again in another --output"
    )

"""State of a run in one checkpoint file: progress, weights, average and optimiser."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fer_edge._utils.files import whole_file
from fer_edge.errors import WeightsError
from fer_edge.export.training.history import EpochMetrics, Progress
from fer_edge.export.training.recipe import Recipe

CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True)
class RunState:
    """Modules and progress of a run, to be saved."""

    recipe: Recipe
    progress: Progress
    network: nn.Module
    average: nn.Module | None
    optimizer: torch.optim.Optimizer

    def save(self, path: Path) -> None:
        """Write the checkpoint completely or not at all."""
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
                raise WeightsError(f"{path} is from another recipe. Fix: start again in another --output.")
            saved = value["progress"]
            progress = Progress(**{**saved, "history": [EpochMetrics(**m) for m in saved["history"]]})
            return LoadedState(path, progress, value["network"], value["average"], value["optimizer"])
        except FileNotFoundError as error:
            raise WeightsError(
                f"expected the checkpoint {path} for --resume, found none. Fix: leave --resume out."
            ) from error
        except WeightsError:
            raise
        except Exception as error:  # damaged bytes can raise anything in the unpickler
            raise _unusable(path, error) from error


@dataclass(frozen=True)
class LoadedState:
    """Content of a checkpoint, before its tensors are restored."""

    path: Path
    progress: Progress
    network: Any
    average: Any
    optimizer: Any

    def restore(
        self, network: nn.Module, average: nn.Module | None, optimizer: torch.optim.Optimizer
    ) -> None:
        """Restore the tensors; an optimiser of an earlier phase is left behind."""
        try:
            network.load_state_dict(self.network)
            if average is not None:
                average.load_state_dict(self.average)
            optimizer.load_state_dict(self.optimizer)
        except Exception as error:  # damaged bytes can be of any type
            raise _unusable(self.path, error) from error


def _unusable(path: Path, error: Exception) -> WeightsError:
    return WeightsError(
        f"{path} is damaged or from another recipe ({type(error).__name__}). Fix: start again in another --output."
    )

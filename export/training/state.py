"""What a resumed run needs: progress, weights, average and optimiser, in one checkpoint file."""

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

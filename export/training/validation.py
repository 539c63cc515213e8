"""Validation on the held-out images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from fer_edge.evaluation.metrics import compute_metrics
from fer_edge.evaluation.temperature import measure_temperature
from fer_edge.export.training.data.batches import TrainingData
from fer_edge.export.training.objectives import OBJECTIVES
from fer_edge.export.training.recipe import Phase
from fer_edge.probabilities import softmax

VALIDATION_BATCH = 64


@dataclass(frozen=True)
class Validation:
    """Metrics of the held-out images; all but the loss are ``None`` for an objective without classification.

    Attributes
    ----------
    loss : float
        Mean loss; ``parts`` are its parts by name.
    accuracy, macro_f1 : float or None
        Shares.
    logits, targets : ndarray or None
        ``[N, K]`` float32 logits and ``[N]`` int64 classes.
    """

    loss: float
    parts: Mapping[str, float]
    accuracy: float | None = None
    macro_f1: float | None = None
    logits: np.ndarray | None = None
    targets: np.ndarray | None = None

    def to_metrics(self) -> dict[str, Any]:
        """Return the fields of :class:`fer_edge.export.training.history.EpochMetrics`."""
        return {
            "validation_loss": self.loss,
            "validation_accuracy": self.accuracy,
            "validation_macro_f1": self.macro_f1,
            "parts": self.parts,
        }

    def temperature(self) -> float | None:
        """Return the temperature fitted on these images, or ``None`` if they are too few."""
        if self.logits is None or self.targets is None:
            return None
        fitted = measure_temperature(self.logits, self.targets)
        return None if fitted is None else fitted.value


@torch.no_grad()
def validate(
    network: nn.Module, data: TrainingData, phase: Phase, class_names: tuple[str, ...]
) -> Validation:
    """Measure ``network``, which is left in evaluation mode, by the objective of ``phase``."""
    network.eval()
    losses, logits, targets, weights = [], [], [], []
    parts: dict[str, list[float]] = {}
    for indices in torch.split(data.split.held_out, VALIDATION_BATCH):
        batch = data.plain(indices)
        outcome = OBJECTIVES[phase.objective](network, batch, **phase.objective_options)
        weights.append(len(indices))
        losses.append(float(outcome.loss))
        for name, value in outcome.parts.items():
            parts.setdefault(name, []).append(float(value))
        if outcome.logits is not None:
            logits.append(outcome.logits.float())
            targets.append(batch.labels.argmax(1))
    loss = float(np.average(losses, weights=weights))
    means = {name: float(np.average(values, weights=weights)) for name, values in parts.items()}
    if not logits:
        return Validation(loss, means)
    values, classes = torch.cat(logits).numpy(), torch.cat(targets).numpy()
    metrics = compute_metrics(softmax(values), classes, class_names)
    return Validation(loss, means, metrics.accuracy, metrics.macro_f1, values, classes)

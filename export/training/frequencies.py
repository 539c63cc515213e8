"""Class frequencies of the training targets: the prior that the logits of the trained network imply."""

from __future__ import annotations

import torch

from fer_edge.export.training.data.batches import TrainingData
from fer_edge.export.training.data.sampling import expected_draws
from fer_edge.export.training.recipe import Phase, Recipe

#: Keeps the logarithm finite for a class without targets.
MIN_FREQUENCY = 1e-4


def class_frequencies(recipe: Recipe, phase: Phase, data: TrainingData) -> dict[str, float]:
    """Return class name → share of the targets in a phase: after fusion of labels, sampling and class weights.

    Held-out images and dropped classes are not among them. Shares below 1e-4 are raised to it; the sum is 1.
    """
    training = data.split.training
    draws = torch.ones(len(training), dtype=torch.float64)
    if recipe.per_class is not None:
        draws = expected_draws(torch.from_numpy(data.dataset.targets)[training], recipe.per_class)
    shares = data.mean_labels(draws)
    weights = phase.objective_options.get("class_weights")
    if weights is not None:
        shares = shares * torch.as_tensor(weights, dtype=torch.float64)
    shares = (shares / shares.sum()).clamp(min=MIN_FREQUENCY)
    shares = shares / shares.sum()
    return dict(zip(recipe.spec.class_names, shares.tolist(), strict=True))

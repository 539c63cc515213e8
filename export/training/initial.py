"""Initial network of a run."""

from __future__ import annotations

import torch
from torch import nn

from fer_edge.errors import WeightsError
from fer_edge.export.networks import build_network
from fer_edge.export.networks.emotionaldan import EmotionalDan
from fer_edge.export.training.data.batches import LandmarkCrops, TrainingData
from fer_edge.export.training.norms import add_norms, match_norms
from fer_edge.export.training.recipe import Recipe
from fer_edge.export.training.validation import VALIDATION_BATCH
from fer_edge.export.weights import TrainedNetwork


def make_network(recipe: Recipe, data: TrainingData, initial: TrainedNetwork | None) -> nn.Module:
    """Return the network of ``recipe`` with the weights of ``initial`` where names and shapes agree.

    Raises
    ------
    WeightsError
        If ``initial`` has less than half of the network's parameters.
    """
    network = build_network(recipe.network, recipe.network_options)
    if initial is not None:
        _initialise(network, initial)
    if isinstance(network, EmotionalDan) and isinstance(data, LandmarkCrops):
        network.image_mean, network.image_std = data.statistics()
    if recipe.training_norms:
        add_norms(network)
        if initial is not None:
            match_norms(network, data.plain(data.split.held_out[:VALIDATION_BATCH]).images)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _initialise(network: nn.Module, trained: TrainedNetwork) -> None:
    """Copy every tensor of ``trained`` that ``network`` has in the same shape; a head may differ."""
    own, found = network.state_dict(), trained.module.state_dict()
    shared = {n: v for n, v in found.items() if n in own and own[n].shape == v.shape}
    if 2 * sum(v.numel() for v in shared.values()) < sum(v.numel() for v in own.values()):
        raise WeightsError(
            f"expected weights for most parameters of the network to train, found {len(shared)} of {len(own)} entries that fit in {trained.spec.network} with {dict(trained.options)}. Fix: give weights of the same network and widths."
        )
    network.load_state_dict({**own, **shared})

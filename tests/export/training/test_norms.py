"""Normalisation for training only: folded without a change of outputs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fer_edge.errors import UsageError
from fer_edge.export.networks import build_network
from fer_edge.export.training.norms import (
    NormalisedConv,
    add_norms,
    fold_norms,
    match_norms,
    reestimate_norms,
)

NETWORKS = {
    "conv-attention": ({"in_channels": 1, "c2_widths": (8, 16), "c3_widths": (16, 16, 16)}, (1, 48, 48), 3),
    "visual-attention": ({"bias": True}, (1, 48, 32), 10),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_stay_and_the_layers_of_the_paper_come_back(name: str) -> None:
    options, shape, convolutions = NETWORKS[name]
    torch.manual_seed(0)
    network = build_network(name, options)
    layers = [(n, type(m)) for n, m in network.named_modules()]
    add_norms(network)
    added = [m for m in network.modules() if isinstance(m, NormalisedConv)]
    assert len(added) == convolutions
    batch = torch.rand(8, *shape)
    network.train()
    for _ in range(3):  # statistics that are not 0 and 1
        network(batch)
    network.eval()
    with torch.no_grad():
        for norm in (m.norm for m in added):
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.uniform_(-0.5, 0.5)
        before = network(batch)
        fold_norms(network)
        after = network(batch)
    first = [t if isinstance(t, torch.Tensor) else t[0] for t in (before, after)]
    torch.testing.assert_close(first[1], first[0], rtol=1e-4, atol=1e-5)
    assert [(n, type(m)) for n, m in network.named_modules()] == layers


@pytest.mark.parametrize("name", NETWORKS)
def test_matched_norms_keep_the_outputs_and_see_a_standardised_batch(name: str) -> None:
    options, shape, _ = NETWORKS[name]
    torch.manual_seed(0)
    network = build_network(name, options).eval()
    batch = torch.rand(8, *shape)
    with torch.no_grad():
        before = network(batch)
        add_norms(network)
        match_norms(network, batch)
        after = network(batch)
    first = [t if isinstance(t, torch.Tensor) else t[0] for t in (before, after)]
    torch.testing.assert_close(first[1], first[0], rtol=1e-4, atol=1e-5)
    for module in network.modules():
        if isinstance(module, NormalisedConv):
            variance = module.norm.running_var
            assert variance is not None
            assert (variance > 0).any()
            torch.testing.assert_close(module.norm.weight, (variance + module.norm.eps).sqrt())
            assert not module.conv._forward_hooks


def test_statistics_taken_again_are_the_means_over_the_batches() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3, momentum=0.2), nn.ReLU(), nn.Dropout(0.9))
    batches = [torch.randn(5, 1, 4, 4) + shift for shift in (0, 1, 5)]
    network(batches[0])
    reestimate_norms(network, batches)
    with torch.no_grad():
        outputs = [network[0](batch) for batch in batches]
    mean = torch.stack([o.mean((0, 2, 3)) for o in outputs]).mean(0)
    variance = torch.stack([o.var((0, 2, 3)) for o in outputs]).mean(0)
    torch.testing.assert_close(network[1].running_mean, mean)
    torch.testing.assert_close(network[1].running_var, variance)
    assert network[1].momentum == 0.2
    assert not any(module.training for module in network.modules())


def test_convolutions_without_bias_are_refused() -> None:
    with pytest.raises(UsageError, match="without bias. Fix: set bias=True"):
        add_norms(nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.ReLU()))


def test_convolutions_that_are_normalised_already_are_left_alone() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 2, 3))
    add_norms(network)
    assert not any(isinstance(m, NormalisedConv) for m in network.modules())

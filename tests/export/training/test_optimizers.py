"""Rates and optimisers: against PyTorch's own schedulers, and by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fer_edge.errors import UsageError
from fer_edge.export.training.optimizers import OPTIMIZERS, RATES, Position, apply_rate, make_optimizer
from fer_edge.export.training.recipe import Phase


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


@pytest.mark.parametrize(("steps", "warmup"), [(50, 0.2), (17, 0.3), (10, 0.5)])
def test_one_cycle_is_that_of_pytorch(steps: int, warmup: float) -> None:
    theirs = torch.optim.AdamW(network().parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(theirs, 3e-3, total_steps=steps, pct_start=warmup)
    phase = Phase(epochs=1, learning_rate=3e-3, rate_options={"warmup": warmup})
    ours = make_optimizer(phase, network())
    for step in range(steps):
        rate = apply_rate(phase, Position(step, steps, steps), ours)
        assert rate == pytest.approx(theirs.param_groups[0]["lr"], rel=1e-9)
        assert ours.param_groups[0]["betas"] == pytest.approx(theirs.param_groups[0]["betas"])
        theirs.step()
        if step + 1 < steps:
            scheduler.step()


def test_plateau_is_that_of_pytorch() -> None:
    accuracies = [0.3, 0.4, 0.39, 0.38, 0.40, 0.41, 0.41, 0.40, 0.41, 0.40, 0.39, 0.2, 0.2, 0.2, 0.2, 0.2]
    theirs = torch.optim.SGD(network().parameters(), lr=1e-4)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        theirs, factor=0.1, patience=2, min_lr=1e-6, threshold=0.0
    )
    for done in range(1, len(accuracies) + 1):
        scheduler.step(100 - 100 * accuracies[done - 1])
        rate, beta1 = RATES["plateau"](
            1e-4, Position(0, 1, 1, accuracies[:done]), factor=0.1, patience=2, minimum=1e-6
        )
        assert rate == pytest.approx(theirs.param_groups[0]["lr"])
        assert beta1 is None


def test_steps_fall_after_whole_epochs() -> None:
    rates = [RATES["steps"](1.0, Position(s, 40, 4), every=2, factor=0.1)[0] for s in (0, 7, 8, 15, 16)]
    assert rates == pytest.approx([1.0, 1.0, 0.1, 0.1, 0.01])


def test_triangular_ends_at_its_corners() -> None:
    at = [RATES["triangular"](0.05, Position(s, 99, 9), low=1e-4, half_cycle=10)[0] for s in (0, 10, 20, 30)]
    assert at == pytest.approx([1e-4, 0.05, 1e-4, 0.05])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimiser_changes_only_what_learns(name: str) -> None:
    net = network()
    net[0].requires_grad_(False)
    kept, moved = net[0].weight.clone(), net[2].weight.clone()
    optimizer = make_optimizer(Phase(epochs=1, optimizer=name, learning_rate=0.1), net)
    for _ in range(6):  # RAdam only averages at first
        optimizer.zero_grad()
        net(torch.ones(2, 3)).square().sum().backward()
        optimizer.step()
    assert torch.equal(net[0].weight, kept)
    assert not torch.equal(net[2].weight, moved)


def test_adamw_leaves_biases_undecayed() -> None:
    groups = make_optimizer(Phase(epochs=1, weight_decay=0.1), network()).param_groups
    assert [(g["weight_decay"], {p.ndim for p in g["params"]}) for g in groups] == [(0.1, {2}), (0.0, {1})]


@pytest.mark.parametrize(
    ("field", "text"), [("optimizer", "unknown optimizer 'adamx'"), ("rate", "unknown rate 'adamx'")]
)
def test_unknown_names_are_refused(field: str, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        make_optimizer(Phase(epochs=1, **{field: "adamx"}), network())

"""Optimisers and learning rates by name. A rate is a pure function of the position in the run: resuming needs no state."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fer_edge.errors import lookup
from fer_edge.export.training.recipe import Phase
from fer_edge.export.training.schedules import triangular_rate

Groups = list[dict[str, Any]]


def make_optimizer(phase: Phase, network: nn.Module) -> torch.optim.Optimizer:
    """Return the optimiser of ``phase`` for the trainable parameters."""
    build = lookup(OPTIMIZERS, phase.optimizer, "optimizer")
    lookup(RATES, phase.rate, "rate")
    return build([p for p in network.parameters() if p.requires_grad], phase)


def _adamw(parameters: Sequence[nn.Parameter], phase: Phase) -> torch.optim.Optimizer:
    """AdamW that decays matrices and kernels only, not biases, scales and γ."""
    groups: Groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": phase.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=phase.learning_rate)


OPTIMIZERS: Mapping[str, Callable[[Sequence[nn.Parameter], Phase], torch.optim.Optimizer]] = {
    "adamw": _adamw,
    "adam": lambda p, phase: torch.optim.Adam(p, phase.learning_rate, weight_decay=phase.weight_decay),
    "adam-amsgrad": lambda p, phase: torch.optim.Adam(
        p, phase.learning_rate, weight_decay=phase.weight_decay, amsgrad=True
    ),
    "radam": lambda p, phase: torch.optim.RAdam(
        p, phase.learning_rate, weight_decay=phase.weight_decay, decoupled_weight_decay=True
    ),
    "sgd": lambda p, phase: torch.optim.SGD(p, phase.learning_rate, weight_decay=phase.weight_decay),
}


@dataclass(frozen=True)
class Position:
    """Position within a phase.

    Attributes
    ----------
    step, steps : int
        Steps of this phase that are done, and all of them.
    steps_per_epoch : int
        Of this phase.
    accuracies : sequence of float
        Validation accuracy of each finished epoch of this phase.
    """

    step: int
    steps: int
    steps_per_epoch: int
    accuracies: Sequence[float] = ()


def apply_rate(phase: Phase, position: Position, optimizer: torch.optim.Optimizer) -> float:
    """Set the rate of the next step, and β₁ where the schedule changes it; return the rate."""
    rate, beta1 = RATES[phase.rate](phase.learning_rate, position, **phase.rate_options)
    for group in optimizer.param_groups:
        group["lr"] = rate
        if beta1 is not None:
            group["betas"] = (beta1, group["betas"][1])
    return rate


def _one_cycle(peak: float, at: Position, warmup: float = 0.2) -> tuple[float, float | None]:
    """Up by a cosine from peak / 25, then down to almost nothing, with β₁ the other way (Smith, 2018)."""
    last = at.steps - 1
    turn = max(warmup * at.steps - 1, 0)
    step = min(at.step, last)
    if step <= turn and turn > 0:
        share, ends, betas = step / turn, (peak / 25, peak), (0.95, 0.85)
    else:
        share, ends, betas = (step - turn) / max(last - turn, 1), (peak, peak / 250_000), (0.85, 0.95)
    return _cosine(*ends, share), _cosine(*betas, share)


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


def _steps(peak: float, at: Position, every: int, factor: float) -> tuple[float, None]:
    """Multiply by ``factor`` after every ``every`` epochs."""
    return peak * factor ** (at.step // at.steps_per_epoch // every), None


def _plateau(peak: float, at: Position, factor: float, patience: int, minimum: float) -> tuple[float, None]:
    """Multiply by ``factor`` after more than ``patience`` epochs without a better accuracy."""
    rate, best, waited = peak, -math.inf, 0
    for accuracy in at.accuracies:
        if accuracy > best:
            best, waited = accuracy, 0
        else:
            waited += 1
        if waited > patience:
            rate, waited = max(rate * factor, minimum), 0
    return rate, None


def _triangular(peak: float, at: Position, low: float, half_cycle: int) -> tuple[float, None]:
    return triangular_rate(at.step, low, peak, half_cycle), None


#: ``(peak rate, position, **options)`` → rate and β₁ (``None``: as it is).
RATES: Mapping[str, Callable[..., tuple[float, float | None]]] = {
    "constant": lambda peak, at: (peak, None),
    "one-cycle": _one_cycle,
    "steps": _steps,
    "plateau": _plateau,
    "triangular": _triangular,
}

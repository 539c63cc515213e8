"""Size of a network: parameters, and multiply-adds for one image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fer_edge.export.networks import NETWORKS, build_network
from fer_edge.spec import ModelSpec


@dataclass(frozen=True)
class Complexity:
    """``macs``: multiply-adds of convolutions, transposed convolutions and dense layers for one image.

    Products of activations (attention, the illumination of Sun et al.) and element-wise work are not counted,
    as is usual.
    """

    parameters: int
    macs: int


def network_complexity(name: str) -> Complexity:
    """Count network ``name`` with its default options at its own input size; no weights are made."""
    with torch.device("meta"):
        return complexity(build_network(name).eval(), NETWORKS[name].spec)


def complexity(module: nn.Module, spec: ModelSpec) -> Complexity:
    """Count ``module`` for one image of ``spec``; it must be in evaluation mode."""
    macs = 0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal macs
        # Each position of the smaller side meets one slice of the weight: the output's, or, where a transposed
        # convolution spreads its input, the input's.
        positions = inputs[0] if isinstance(layer, nn.ConvTranspose2d) else output
        macs += positions.numel() * layer.get_parameter("weight")[0].numel()

    layers = [m for m in module.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear))]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        with torch.no_grad():
            module(torch.zeros(1, *spec.input_shape, device=next(module.parameters()).device))
    finally:
        for hook in hooks:
            hook.remove()
    return Complexity(sum(p.numel() for p in module.parameters()), macs)

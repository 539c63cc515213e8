"""Batch normalisation for training only.

A plain convolution trains faster with a normalisation behind it, and is folded into the
convolution afterwards (RepVGG, Ding et al., 2021, Section 3.3). The papers' layers and
the parameter counts of saved weights do not change.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from fer_edge.errors import UsageError


class NormalisedConv(nn.Sequential):
    """A convolution and the normalisation that :func:`fold_norms` merges into it."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        if conv.bias is None:
            raise UsageError(
                "a normalisation cannot be folded into a convolution without bias. Fix: set bias=True in the network options."
            )
        self.conv = conv
        self.norm = nn.BatchNorm2d(conv.out_channels)

    def forward(self, batch: Tensor) -> Tensor:
        """Map ``[B, C, H, W]`` to the convolution's output, normalised."""
        return self.norm(self.conv(batch))


def add_norms(network: nn.Module) -> None:
    """Normalise every convolution that a ReLU follows directly in the same ``nn.Sequential``."""
    for module in list(network.modules()):
        if isinstance(module, nn.Sequential):
            layers = list(module)
            for i, (layer, after) in enumerate(itertools.pairwise(layers)):
                if isinstance(layer, nn.Conv2d) and isinstance(after, nn.ReLU):
                    module[i] = NormalisedConv(layer)


@torch.no_grad()
def match_norms(network: nn.Module, batch: Tensor) -> None:
    """Initialise added norms so that the outputs of ``network`` stay the same.

    Statistics are those of ``batch`` ``[B, C, H, W]``, scale and shift undo them
    (Salimans & Kingma, 2016, Section 3). So a run can go on from weights whose norms were folded.
    """

    def measure(norm: nn.BatchNorm2d, output: Tensor) -> None:
        variance, mean = torch.var_mean(output, dim=(0, 2, 3), correction=0)
        norm.running_mean, norm.running_var = mean.clone(), variance.clone()
        norm.weight.copy_((variance + norm.eps).sqrt())
        norm.bias.copy_(mean)

    handles = [
        layer.conv.register_forward_hook(lambda conv, inputs, output, norm=layer.norm: measure(norm, output))
        for layer in network.modules()
        if isinstance(layer, NormalisedConv)
    ]
    network.eval()(batch)
    for handle in handles:
        handle.remove()


@torch.no_grad()
def reestimate_norms(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Re-estimate the statistics of every batch normalisation, as means over ``batches`` of ``[B, C, H, W]``.

    Running averages come from augmented images and from changing weights; inference uses images without
    augmentation (precise batch normalisation, Wu & Johnson, 2021, Section 3).
    """
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean
        norm.train()
    for batch in batches:
        network(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()


def fold_norms(network: nn.Module) -> None:
    """Undo :func:`add_norms`; in evaluation mode the outputs stay the same up to rounding."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, NormalisedConv):
                setattr(module, name, fuse_conv_bn_eval(child.conv.eval(), child.norm.eval()))

"""Convolution and self-attention: parameter counts of the spec, the attention, input sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from fer_edge.errors import UsageError
from fer_edge.export.networks import build_network
from fer_edge.export.networks.attention_op import attend
from fer_edge.export.networks.conv_attention import ConvAttention, ConvAttentionOptions, SelfAttention

ALEXNET_LIKE = {"c2_widths": [64, 192], "c3_widths": [384, 128, 128], "dense_width": 96}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 1_688_649),
        ({"in_channels": 1}, 1_688_073),
        (ALEXNET_LIKE, 1_691_785),
        (ALEXNET_LIKE | {"in_channels": 1}, 1_691_209),
    ],
)
def test_parameter_counts(options: dict[str, Any], expected: int) -> None:
    network = build_network("conv-attention", options)
    assert sum(p.numel() for p in network.parameters()) == expected


def test_parameters_per_layer() -> None:
    counts = {
        name: sum(p.numel() for p in child.parameters()) for name, child in ConvAttention().named_children()
    }
    assert counts == {
        "c1": 960, "c2": 489_312, "c3": 1_070_016, "attention": 20_641, "c4": 32_832, "head": 74_888,
    }  # fmt: skip


def test_attention_follows_the_equations_of_the_paper() -> None:
    """Against loops over the positions in float64: e_ij = softmax_j(j(y_i)ᵀ k(y_j)), out = γ Σ e l + y."""
    generator = torch.Generator().manual_seed(0)
    layer = SelfAttention(16, gamma_init=0.75).double()
    y = torch.randn(2, 16, 3, 4, dtype=torch.float64, generator=generator)
    with torch.no_grad():
        actual = layer(y).flatten(2)
        flat = y.flatten(2)
        for image in range(2):

            def project(conv: torch.nn.Conv2d, i: int, image: int = image) -> torch.Tensor:
                return conv.weight[:, :, 0, 0] @ flat[image, :, i] + conv.bias

            for i in range(12):
                scores = [project(layer.query, i) @ project(layer.key, j) for j in range(12)]
                exponentials = torch.stack(scores).exp()
                weights = exponentials / exponentials.sum()
                mixed = sum(weights[j] * project(layer.value, j) for j in range(12))
                expected = 0.75 * mixed + flat[image, :, i]
                torch.testing.assert_close(actual[image, :, i], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("positions", [1, 49, 784])
def test_attention_matches_torch(positions: int) -> None:
    generator = torch.Generator().manual_seed(positions)
    query, key, value, residual = (
        torch.randn(2, channels, positions, generator=generator) for channels in (16, 16, 128, 128)
    )
    mixed = F.scaled_dot_product_attention(
        *(t.double().transpose(1, 2) for t in (query, key, value)), scale=1.0
    ).transpose(1, 2)
    expected = (-1.5 * mixed + residual.double()).float()
    actual = attend(query, key, value, residual, torch.tensor(-1.5))
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=2e-5)


def test_large_scores_do_not_overflow() -> None:
    huge = torch.full((1, 2, 3), 1e4)
    out = attend(huge, huge, torch.ones(1, 4, 3), torch.zeros(1, 4, 3), torch.tensor(1.0))
    torch.testing.assert_close(out, torch.ones(1, 4, 3))


def test_gamma_zero_is_the_identity_and_the_default_is_drawn() -> None:
    y = torch.randn(1, 8, 2, 2)
    torch.testing.assert_close(SelfAttention(8, 0.0)(y), y)
    torch.manual_seed(0)
    drawn = [SelfAttention(8, None).gamma.item() for _ in range(3)]
    assert len(set(drawn)) == 3


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 47), (48, 48), (64, 224)])
def test_any_side_from_32(height: int, width: int) -> None:
    network = ConvAttention(ConvAttentionOptions(c2_widths=(8, 8), c3_widths=(8, 8, 16))).eval()
    with torch.no_grad():
        logits = network(torch.rand(2, 3, height, width))
    assert logits.shape == (2, 8)
    assert torch.isfinite(logits).all()


def test_after_step_keeps_the_scales_behind_pools_positive() -> None:
    network = ConvAttention(ConvAttentionOptions(c2_widths=(8, 8), c3_widths=(8, 8, 8)))
    norms = [m for m in (*network.c2, *network.c3) if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(norms) == 3
    for norm in (*norms, network.c1[1]):
        torch.nn.init.constant_(norm.weight, -1.0)
    network.after_step()
    assert all(bool((norm.weight == 1e-3).all()) for norm in norms)
    assert bool((network.c1[1].weight == -1).all())  # no pool before it


def test_wrong_options_are_named() -> None:
    with pytest.raises(UsageError, match="multiple of 8 channels, found 100. Fix: change c3_widths"):
        build_network("conv-attention", {"c3_widths": (192, 256, 100)})
    with pytest.raises(UsageError, match=r"does not take these options.*width"):
        build_network("conv-attention", {"width": 3})
    with pytest.raises(UsageError, match=r"unknown network 'conv-atention'.*did you mean 'conv-attention'"):
        build_network("conv-atention")

"""Residual Masking Network: sizes of Table I, masks, stage outputs, initialisation."""

from __future__ import annotations

import pytest
import torch

from fer_edge.errors import UsageError
from fer_edge.export.networks import NETWORKS, build_network
from fer_edge.export.networks.resmasking import Block, Mask, ResMasking, ResMaskingOptions
from fer_edge.labels import FER2013

# specs/networks.md, section 1.1
PARAMETERS = {
    "conv1": 9_408, "bn1": 128,
    "layer1": 221_952, "layer2": 1_116_416, "layer3": 6_822_400, "layer4": 13_114_368,
    "mask1": 32_366_080, "mask2": 31_885_312, "mask3": 29_965_312, "mask4": 22_291_456,
    "fc": 3_591,
}  # fmt: skip


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(scope="module")
def network() -> ResMasking:
    torch.manual_seed(0)
    module = build_network("resmasking")
    assert isinstance(module, ResMasking)
    return module.eval()


def test_parameters_are_those_of_table_1(network: ResMasking) -> None:
    assert {name: count(child) for name, child in network.named_children()} == PARAMETERS
    assert count(network) == 137_796_423


def test_every_mask_shortcut_exists_once_and_counting_it_twice_gives_the_paper(network: ResMasking) -> None:
    shortcuts = [
        block.downsample
        for mask in network.modules()
        if isinstance(mask, Mask)
        for block in mask.modules()
        if isinstance(block, Block)
    ]
    assert len(shortcuts) == 20
    assert len(network.state_dict()) == 740 - 120
    assert count(network) + sum(count(s) for s in shortcuts) == 142_943_431


def test_initialisation_follows_the_authors(network: ResMasking) -> None:
    for name, block in network.named_modules():
        if isinstance(block, Block):
            assert bool((block.bn2.weight == 0).all()) is name.startswith("mask"), name
            fan_out = 9 * block.conv1.out_channels
            assert block.conv1.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.03), name


def test_masks_sum_to_one_and_weigh_the_features(network: ResMasking) -> None:
    with torch.no_grad():
        stages = network.forward_stages(torch.rand(2, 3, 64, 32, generator=torch.Generator().manual_seed(1)))
    assert stages.logits.shape == (2, 7)
    for level, (mask, before, after) in enumerate(
        zip(stages.masks, stages.before, stages.after, strict=True)
    ):
        assert mask.shape == before.shape == (2, 64 << level, 16 >> level, 8 >> level)
        assert mask.min() > 0
        torch.testing.assert_close(mask.sum(dim=1), torch.ones_like(mask[:, 0]), rtol=0, atol=1e-5)
        torch.testing.assert_close(after, before * (1 + mask))


def test_gradients_reach_the_stage_features(network: ResMasking) -> None:
    stages = network.forward_stages(torch.rand(1, 3, 64, 64))
    (gradient,) = torch.autograd.grad(stages.logits[0, 3], stages.after[3])
    assert gradient.shape == (1, 512, 2, 2)
    weight = network.fc[1].weight[3].detach()
    torch.testing.assert_close(gradient[0], (weight / 4)[:, None, None].expand(512, 2, 2))


def test_options_and_spec() -> None:
    with torch.device("meta"):
        plain = ResMasking(ResMaskingOptions(num_classes=8, in_channels=1, dropout=0))
        assert plain(torch.rand(1, 1, 64, 96)).shape == (1, 8)
        assert count(plain) == 137_796_423 - 2 * 64 * 49 + 513
        with pytest.raises(UsageError, match="multiples of 32, found 48×64"):
            plain(torch.rand(1, 1, 64, 48))
        with pytest.raises(UsageError, match="does not take these options"):
            build_network("resmasking", {"depth": 3})
    spec = NETWORKS["resmasking"].spec
    assert (spec.input_shape, spec.color, spec.class_names) == ((3, 224, 224), "gray", FER2013)
    assert (spec.mean, spec.std, spec.interpolation) == ((0, 0, 0), (1, 1, 1), "bilinear")
    assert (spec.crop.shape, spec.crop.scale, spec.crop.edge, spec.crop.min_side_px) == (
        "square", 1.1, "clip", 10,
    )  # fmt: skip

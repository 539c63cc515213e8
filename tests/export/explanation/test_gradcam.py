"""Grad-CAM against hand-computed values, finite differences, and the closed form of pooled linear heads."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch
from torch import Tensor, nn

from fer_edge.errors import UsageError
from fer_edge.export.explanation import gradcam
from fer_edge.export.explanation.gradcam import TARGETS, Target, grad_cam, layer_maps
from fer_edge.export.networks import NETWORKS, build_network
from fer_edge.export.networks.baselines import ResmaskingEnsemble
from fer_edge.export.networks.cbam import CbamResNet50
from fer_edge.export.networks.conv_attention import ConvAttention, ConvAttentionOptions
from fer_edge.export.networks.efficientnet import EfficientNetB2b
from fer_edge.export.networks.emotionaldan import SIDE, EmotionalDan
from fer_edge.export.networks.feratt import FERAtt, FERAttOptions
from fer_edge.export.networks.resmasking import ResMasking
from fer_edge.export.networks.resnet import ResNet, ResNetOptions, VggFaceResNet50
from fer_edge.export.networks.visual_attention import VisualAttention, VisualAttentionOptions


class Linear(nn.Module):
    """Two channels of 2×2 are the features themselves; the logits are linear in them."""

    def __init__(self, slopes: Tensor) -> None:
        super().__init__()
        self.slopes = nn.Parameter(slopes, requires_grad=False)

    def forward(self, batch: Tensor) -> Tensor:
        return (batch[:, None] * self.slopes[None]).sum(dim=(2, 3, 4))


@pytest.fixture
def linear(monkeypatch: pytest.MonkeyPatch) -> Linear:
    targets = {**TARGETS, Linear: lambda m, batch: (lambda f: Target(m(f), f))(batch * 1)}
    monkeypatch.setattr(gradcam, "TARGETS", targets)
    slopes = torch.tensor([[[[1.0, 2], [3, 6]], [[-1, -1], [-1, 1]]], [[[0, 0], [0, -4]], [[2, 2], [2, 2]]]])
    return Linear(slopes).eval()


def test_hand_computed_maps(linear: Linear) -> None:
    features = torch.tensor([[[[1.0, 0], [2, 1]], [[4, 8], [0, 2]]]])
    # Class 0: mean slopes 3 and −0.5: 3·1 − 0.5·4 = 1, 0 − 4 → 0, 6 − 0, 3 − 1.
    # Class 1: mean slopes −1 and 2: 8 − 1, 16 − 0, −2 → 0, 4 − 1.
    for index, expected in ((0, [[1.0, 0], [6, 2]]), (1, [[7.0, 16], [0, 3]])):
        found = layer_maps(linear, features, [index])
        torch.testing.assert_close(found.maps, torch.tensor([expected]))
        torch.testing.assert_close(
            grad_cam(linear, features, [index]).maps, torch.tensor([expected]) / max(map(max, expected))
        )


def test_the_likeliest_class_is_explained_unless_another_is_named(linear: Linear) -> None:
    features = torch.tensor([[[[1.0, 0], [2, 1]], [[4, 8], [0, 2]]]])
    found = grad_cam(linear, features)
    assert found.classes.tolist() == [1]
    assert torch.equal(found.maps, grad_cam(linear, features, [1]).maps)


def test_nothing_that_speaks_for_the_class_gives_zeros(linear: Linear) -> None:
    features = torch.tensor([[[[0.0, 0], [0, 0]], [[4, 8], [0, 2]]]])
    assert not grad_cam(linear, features, [0]).maps.any()


def small_conv_attention() -> ConvAttention:
    torch.manual_seed(0)
    options = ConvAttentionOptions(
        1, 3, 4, (4, 8), (8, 8, 8), c4_width=6, dense_width=8, dropout=0.0, gamma_init=0.7
    )
    return ConvAttention(options).eval().double()


def test_weights_are_what_finite_differences_measure() -> None:
    module = small_conv_attention()
    batch = torch.rand(1, 1, 48, 48, dtype=torch.float64)
    layer, step = module.c4[1], 1e-5

    def run(channel: int, shift: float) -> tuple[Tensor, Tensor]:
        def move(_: nn.Module, args: object, out: Tensor) -> Tensor:
            out = out.clone()
            out[:, channel] += shift
            return out

        hook = layer.register_forward_hook(move)
        with torch.no_grad():
            logits = module(batch)
        hook.remove()
        return logits[0]

    kept: list[Tensor] = []
    hook = layer.register_forward_hook(lambda m, args, out: kept.append(out.detach()))
    module(batch)
    hook.remove()
    (features,) = kept[0]
    cells = features[0].numel()
    for index in range(3):
        slopes = [(run(c, step)[index] - run(c, -step)[index]).item() / (2 * step * cells) for c in range(6)]
        expected = torch.relu((torch.tensor(slopes, dtype=torch.float64)[:, None, None] * features).sum(0))
        torch.testing.assert_close(layer_maps(module, batch, [index]).maps[0], expected, rtol=1e-5, atol=1e-8)


def test_cells_of_an_unpadded_convolution_lie_where_they_were_computed() -> None:
    """A 2×2 kernel over 6×6 gives 5×5: its cells are centred on 1/6 … 5/6 of the side."""
    for cell in range(5):
        maps = torch.zeros(1, 1, 5, 5)
        maps[0, 0, cell, 2] = 1
        large = gradcam._enlarge(maps, (600, 600), (1 / 12, 1 / 12))[0, 0]
        rows = torch.nonzero(large == large.max())[:, 0].double()
        centre = (
            rows.mean().item() + 0.5 if 0 < cell < 4 else (rows.max() if cell == 0 else rows.min()).item()
        )
        assert centre == pytest.approx(100 * (cell + 1), abs=1)


def features_of(module: nn.Module, path: str, batch: Tensor) -> Tensor:
    kept: list[Tensor] = []
    hook = module.get_submodule(path).register_forward_hook(lambda m, args, out: kept.append(out))
    with torch.no_grad():
        module(batch)
    hook.remove()
    return kept[0]


POOLED = {
    "resnet18": (lambda: ResNet(ResNetOptions(18)), "layer4", "fc"),
    "cbam_resnet50": (CbamResNet50, "features", "output"),
    "efficientnet_b2b": (EfficientNetB2b, "features", "output.1"),
    "visual-attention-average": (
        lambda: VisualAttention(VisualAttentionOptions("global-average", in_channels=3)), "features", "head.1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", POOLED)
def test_a_pooled_linear_head_gives_the_class_activation_map(name: str) -> None:
    """Zhou et al., 2016: the map is the class's weights times the features, here divided by the cells."""
    build, layer, head = POOLED[name]
    torch.manual_seed(1)
    module = build().eval().double()  # random networks may give very small features
    batch = torch.rand(2, 3, 64, 96, dtype=torch.float64)
    features = features_of(module, layer, batch)
    classes = [2, 5]
    with torch.no_grad():  # positive weights for every class, so that no map is cut to zero
        weights = module.get_submodule(head).weight.abs_()[classes]
    expected = torch.relu(torch.einsum("bc,bchw->bhw", weights, features)) / features[0, 0].numel()
    assert expected.any()
    found = layer_maps(module, batch, classes)
    torch.testing.assert_close(found.maps, expected, rtol=1e-6, atol=1e-6 * expected.max().item())
    with torch.no_grad():
        torch.testing.assert_close(found.logits, module(batch), rtol=1e-5, atol=1e-5)
    large = grad_cam(module, batch, classes).maps
    reference = torch.nn.functional.interpolate(expected[:, None], (64, 96), mode="bilinear")[:, 0]
    low, high = reference.amin((1, 2), keepdim=True), reference.amax((1, 2), keepdim=True)
    reference = (reference - low) / (high - low).clamp_min(1e-300)  # features of SiLU may be negative for all
    torch.testing.assert_close(large, reference.float(), rtol=1e-4, atol=1e-4)


def test_the_convolutional_head_of_vggface_too() -> None:
    torch.manual_seed(1)
    module = VggFaceResNet50().eval()
    batch = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        features = module.features(batch)
        torch.testing.assert_close(module(batch), module.classify(features))
    weights = module["classifier"].weight.detach()[3, :, 0, 0]
    expected = torch.relu((weights[:, None, None] * features[0]).sum(0)) / features[0, 0].numel()
    torch.testing.assert_close(layer_maps(module, batch, [3]).maps[0], expected, rtol=1e-4, atol=1e-6)


@lru_cache
def lively_resmasking() -> ResMasking:
    """As initialised, the masks of small features are nearly uniform."""
    torch.manual_seed(0)
    module = ResMasking().eval()
    with torch.no_grad():
        for number in range(1, 5):
            mask = module.get_submodule(f"mask{number}")
            mask[f"conv{2 * mask.depth}"].bn2.weight.normal_()
    return module


def test_resmasking_is_explained_behind_its_last_mask() -> None:
    """The legacy script weights layer4's activations with layer2's gradient; both must be the masked layer4."""
    module = lively_resmasking()
    batch = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        masked = module.forward_stages(batch).after[-1][0]
    expected = (
        torch.relu((module.fc[1].weight.detach()[4][:, None, None] * masked).sum(0)) / masked[0].numel()
    )
    torch.testing.assert_close(layer_maps(module, batch, [4]).maps[0], expected, rtol=1e-4, atol=1e-6)
    assert grad_cam(module, batch, [4]).maps.shape == (1, 64, 96)


def test_feratt_is_explained_in_its_classifier() -> None:
    torch.manual_seed(1)
    module = FERAtt(FERAttOptions(variant="2020")).eval()
    batch = torch.rand(1, 3, 64, 64)
    features = features_of(module, "netclass.layer4", batch)[0]
    weights = module.netclass.classification.weight.detach()[6] @ module.netclass.linear.weight.detach()
    expected = torch.relu((weights[:, None, None] * features).sum(0)) / features[0].numel()
    torch.testing.assert_close(layer_maps(module, batch, [6]).maps[0], expected, rtol=1e-4, atol=1e-6)


@lru_cache
def turned_dan() -> tuple[EmotionalDan, Tensor]:
    """An EmotionalDAN whose stage 1 always finds the canonical shape, turned by 90°, smaller and shifted."""
    torch.manual_seed(2)
    module = EmotionalDan().eval()
    centre = module.canonical_shape.mean(0)
    turn = torch.tensor([[0.0, 0.6], [-0.6, 0.0]])
    landmarks = (module.canonical_shape - centre) @ turn + centre + torch.tensor([15.0, -10.0])
    with torch.no_grad():
        module.stage1.fc2.weight.zero_()
        module.stage1.fc2.bias.copy_((landmarks - module.canonical_shape).flatten())
    return module, landmarks


def test_emotionaldan_explains_each_class_also_neutral_and_in_the_frame_of_the_input() -> None:
    """The authors explain the sum of logits, times the label: NaN for class 0. And they draw the warped map."""
    module, _ = turned_dan()
    batch = torch.rand(1, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(3))
    outputs = module.forward_stages(batch)
    features = outputs.trunks[1].conv4b
    maps = []
    for index in (0, 3):
        slopes = torch.autograd.grad(outputs.logits[0, index], features, retain_graph=True)[0]
        expected = torch.relu((slopes.mean((2, 3), keepdim=True) * features.detach()).sum(1))
        found = layer_maps(module, batch, [index])
        torch.testing.assert_close(found.maps, expected, rtol=1e-3, atol=1e-7)
        assert found.maps.shape == (1, 28, 28)
        maps.append(expected[0])
    assert maps[0].isfinite().all()
    assert maps[0].any()
    assert not torch.allclose(maps[0], maps[1])
    large = grad_cam(module, batch, [0]).maps[0]
    canonical = torch.nn.functional.interpolate(maps[0][None, None], (SIDE, SIDE), mode="bilinear")[0, 0]
    transform = outputs.connection.transform
    hot = torch.nonzero(canonical == canonical.max())[0].flip(0).float()  # (x, y), canonical
    x, y = transform.inverse().apply(hot[None, None])[0, 0].round().long().tolist()
    assert 0 <= x < SIDE
    assert 0 <= y < SIDE
    assert large[y, x] > 0.85  # the nearest whole pixel
    # A right angle apart, the two frames differ: the test would fail on the unmoved map.
    assert not torch.allclose(large, canonical / canonical.max(), atol=0.3)


def test_a_batch_is_explained_image_by_image() -> None:
    module = small_conv_attention().float()
    batch = torch.rand(3, 1, 48, 48)
    together = layer_maps(module, batch, [0, 1, 2]).maps
    alone = torch.cat([layer_maps(module, batch[i : i + 1], [i]).maps for i in range(3)])
    torch.testing.assert_close(together, alone)


def test_the_ensemble_adds_its_members() -> None:
    members = {str(seed): small_conv_attention().float() for seed in range(2)}
    with torch.no_grad():
        for value in members["1"].parameters():
            value.mul_(-0.9)
    ensemble = ResmaskingEnsemble(members).eval()
    batch = torch.rand(2, 1, 48, 48)
    found = grad_cam(ensemble, batch, [1, 0])
    total = sum(grad_cam(member, batch, [1, 0]).maps for member in members.values())
    assert torch.equal(found.maps, torch.from_numpy(gradcam.min_max(total.numpy())))
    with torch.no_grad():
        torch.testing.assert_close(found.logits, ensemble(batch))


def test_explaining_leaves_no_gradient_and_no_hook_behind() -> None:
    module = small_conv_attention().float()
    grad_cam(module, torch.rand(1, 1, 48, 48))
    assert all(value.grad is None for value in module.parameters())
    assert not any(layer._forward_hooks for layer in module.modules())


def test_frozen_weights_can_be_explained() -> None:
    module = small_conv_attention().float()
    batch = torch.rand(1, 1, 48, 48)
    expected = grad_cam(module, batch).maps
    assert torch.equal(grad_cam(module.requires_grad_(False), batch).maps, expected)


@pytest.mark.parametrize("classes", [[3], [-1], [0, 1], []])
def test_classes_that_do_not_fit_are_refused(classes: list[int]) -> None:
    with pytest.raises(UsageError, match="one class from 0 to 2 for each of 1 images"):
        grad_cam(small_conv_attention().float(), torch.rand(1, 1, 48, 48), classes)


def test_training_mode_and_unknown_networks_are_refused() -> None:
    with pytest.raises(UsageError, match="Fix: call module.eval"):
        grad_cam(small_conv_attention().train(), torch.rand(1, 1, 48, 48))
    with pytest.raises(UsageError, match="has no target layer for Conv2d"):
        grad_cam(nn.Conv2d(1, 1, 1), torch.rand(1, 1, 8, 8))


def test_every_registered_network_has_a_target() -> None:
    for name in NETWORKS:
        with torch.device("meta"):
            module = build_network(name)
        members = module.members.values() if isinstance(module, ResmaskingEnsemble) else [module]
        assert {type(member) for member in members} <= set(TARGETS), name

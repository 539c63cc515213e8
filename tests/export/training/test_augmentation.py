"""Augmentation: repeatable, bounded, each change by itself; mixing keeps images and labels together."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from fer_edge.export.training.augmentation import AugmentationOptions, augment, mixup

STILL = AugmentationOptions(
    rotation_deg=0, shift=0, scale=0, flip_probability=0, brightness=0, contrast=0, erase_probability=0
)


def images(count: int = 6, channels: int = 1, height: int = 48, width: int = 40) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.rand(count, channels, height, width, generator=generator)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("channels", [1, 3])
def test_augmentation_repeats_with_its_generator(channels: int) -> None:
    batch = images(channels=channels)
    kept = batch.clone()
    first = augment(batch, AugmentationOptions(), seeded(1))
    assert torch.equal(first, augment(batch, AugmentationOptions(), seeded(1)))
    assert not torch.equal(first, augment(batch, AugmentationOptions(), seeded(2)))
    assert torch.equal(batch, kept)
    assert first.shape == batch.shape
    assert first.dtype == torch.float32
    assert first.min() >= 0
    assert first.max() <= 1


def test_no_strength_is_the_identity() -> None:
    batch = images()
    torch.testing.assert_close(augment(batch, STILL, seeded(1)), batch, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"flip_probability": 1.0}, lambda batch: batch.flip(3)),
        ({"contrast": 0.3}, None),
        ({"brightness": 0.3}, None),
        ({"rotation_deg": 30.0}, None),
        ({"scale": 0.3}, None),
        ({"shift": 0.2}, None),
        ({"erase_probability": 1.0}, None),
    ],
)
def test_each_change_alone(change: dict[str, float], expected: Any) -> None:
    batch = images()
    changed = augment(batch, dataclasses.replace(STILL, **change), seeded(1))
    assert all(not torch.allclose(a, b, atol=1e-3) for a, b in zip(changed, batch, strict=True))
    if expected is not None:
        torch.testing.assert_close(changed, expected(batch), rtol=0, atol=1e-5)


def test_border_is_repeated() -> None:
    white = torch.ones(8, 1, 32, 32)
    options = dataclasses.replace(STILL, rotation_deg=45.0, shift=0.5, scale=0.5)
    torch.testing.assert_close(augment(white, options, seeded(0)), white)


def test_black_moves_in_where_asked() -> None:
    white = torch.ones(8, 1, 32, 32)
    options = dataclasses.replace(STILL, rotation_deg=45.0, fill="black")
    turned = augment(white, options, seeded(0))
    assert (turned.amin(dim=(1, 2, 3)) == 0).any()
    assert (turned[:, :, 16, 16] == 1).all()


def test_smaller_results_show_the_same_picture() -> None:
    smooth = torch.nn.functional.interpolate(images(height=6, width=5), (48, 40), mode="bilinear")
    small = augment(smooth, STILL, seeded(1), (24, 20))
    expected = torch.nn.functional.avg_pool2d(smooth, 2)
    torch.testing.assert_close(small, expected, rtol=0, atol=0.02)


def test_mixup_blends_images_and_labels_by_the_same_share() -> None:
    """Image i is the constant i, so the share can be read from the pixels."""
    batch = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 8, 8).contiguous()
    labels = torch.eye(4)
    options = dataclasses.replace(STILL, mixup_alpha=1.0)
    mixed, blended = mixup(batch, labels, options, seeded(3))
    torch.testing.assert_close(blended.sum(1), torch.ones(4))
    torch.testing.assert_close(mixed[:, 0, 0, 0], blended @ torch.arange(4.0))
    assert (blended.diagonal() >= 0.5).all()
    assert (blended.diagonal() < 1).any()


def test_no_mixup_returns_the_batch_itself() -> None:
    batch, labels = images(), torch.eye(6)
    assert mixup(batch, labels, STILL, seeded(0)) == (batch, labels)

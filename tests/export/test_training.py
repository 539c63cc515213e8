"""Training: the loss falls, runs resume bit for bit, damaged checkpoints are refused."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import safetensors.torch
import torch

from fer_edge.errors import DataError, WeightsError
from fer_edge.export.training.augmentation import AugmentationOptions, augment
from fer_edge.export.training.loop import CHECKPOINT, CURVES, METRICS, EpochMetrics, train
from fer_edge.export.training.losses import soft_cross_entropy
from fer_edge.export.training.recipes import RECIPES, Recipe
from fer_edge.export.weights import load_weights
from fer_edge.labels import FERPLUS

ROWS = 60
STILL = AugmentationOptions(
    rotation_deg=0, shift=0, scale=0, flip_probability=0, brightness=0, contrast=0, erase_probability=0
)
FERPLUS_RECIPE = RECIPES["conv-attention-ferplus"]
SMALL = dataclasses.replace(
    FERPLUS_RECIPE,
    network_options={
        **FERPLUS_RECIPE.network_options,
        "stem_width": 8, "c2_widths": (8, 16), "c3_widths": (16, 16, 16), "c4_width": 8, "dense_width": 16,
    },
    epochs=3,
    batch_size=8,
    ema_decay=0.8,
    bfloat16=False,
)  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Networks this small lose time to threads that wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def real_rows(shared: Path) -> tuple[list[list[str]], list[list[str]]]:
    folder = shared / "data" / "fer2013"
    with gzip.open(folder / "fer2013.csv.gz", "rt", newline="") as faces:
        pixels = list(islice(csv.reader(faces), ROWS + 1))
    with (folder / "fer2013new.csv").open(newline="") as votes:
        return pixels, list(islice(csv.reader(votes), ROWS + 1))


def made_up_rows() -> tuple[list[list[str]], list[list[str]]]:
    """Gratings whose direction depends on the class, with noise."""
    rng = np.random.default_rng(0)
    rows = [["emotion", "pixels", "Usage"]]
    votes = [["Usage", "Image name", *FERPLUS, "unknown", "NF"]]
    y, x = np.mgrid[:48, :48]
    for index in range(ROWS):
        label = index % 7
        wave = np.sin((x * math.cos(label) + y * math.sin(label)) / 3)
        image = (128 + 80 * wave + rng.normal(0, 20, wave.shape)).clip(0, 255).astype(np.uint8)
        rows.append([str(label), " ".join(map(str, image.ravel())), "Training"])
        counts = ["8" if k == label else "2" if k == (label + 1) % 8 else "0" for k in range(8)]
        votes.append(["Training", f"fer{index:07d}.png", *counts, "0", "0"])
    return rows, votes


@pytest.fixture
def faces(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """``fer2013.csv`` with FER+ votes: the first rows of the shared data, or gratings without it."""
    try:
        rows, votes = real_rows(request.getfixturevalue("shared"))
    except pytest.skip.Exception:
        rows, votes = made_up_rows()
    for name, table in (("fer2013.csv", rows), ("fer2013new.csv", votes)):
        with (tmp_path / name).open("w", newline="") as file:
            csv.writer(file).writerows(table)
    return tmp_path / "fer2013.csv"


def tensors(weights: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(weights)


def identical(a: Path, b: Path) -> bool:
    first, second = tensors(a), tensors(b)
    return first.keys() == second.keys() and all(torch.equal(v, second[n]) for n, v in first.items())


# --- the loop -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_loss_falls_and_results_are_written(faces: Path, tmp_path: Path) -> None:
    recipe = dataclasses.replace(
        SMALL,
        network_options={**SMALL.network_options, "dropout": 0.0},
        epochs=20,
        max_learning_rate=1e-2,
        augmentation=STILL,
    )
    seen: list[EpochMetrics] = []
    steps: list[tuple[int, int]] = []
    output = tmp_path / "run"
    weights = train(
        recipe,
        faces,
        output,
        on_step=lambda step, total, loss: steps.append((step, total)),
        on_epoch=seen.append,
    )
    assert seen[-1].train_loss < 0.7 * seen[0].train_loss
    assert steps == [(i + 1, len(steps)) for i in range(len(steps))]
    assert seen[-1].learning_rate < recipe.max_learning_rate / 100

    with (output / METRICS).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [EpochMetrics(**{k: float(v) for k, v in row.items()}) for row in rows] == seen  # type: ignore[arg-type]
    curves = cv2.imread(str(output / CURVES))
    assert curves is not None
    assert curves.std() > 0

    trained = load_weights(weights)
    assert trained.spec == recipe.spec
    assert trained.provenance["data"] == "FER+ Training"
    assert trained.provenance["epochs"] == 20
    assert trained.provenance["validation"]["train_loss"] == seen[-1].train_loss
    assert sorted(p.name for p in output.iterdir()) == sorted([CHECKPOINT, METRICS, CURVES, weights.name])


@pytest.mark.slow
def test_resumed_runs_end_bit_for_bit_alike(faces: Path, tmp_path: Path) -> None:
    """Interrupted after an epoch, within one by a step limit, and within one by an error."""
    whole_losses: dict[int, float] = {}
    whole = train(
        SMALL, faces, tmp_path / "whole", on_step=lambda step, _, loss: whole_losses.update({step: loss})
    )
    per_epoch = len(whole_losses) // SMALL.epochs
    assert per_epoch > 2

    for name, limit in (("boundary", per_epoch), ("limit", per_epoch + 2)):
        part = train(SMALL, faces, tmp_path / name, max_steps=limit)
        assert not identical(part, whole)
        assert identical(train(SMALL, faces, tmp_path / name, resume=True), whole)

    losses: dict[int, float] = {}

    def fail(step: int, total: int, loss: float) -> None:
        losses[step] = loss
        if step == 2 * per_epoch - 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(SMALL, faces, tmp_path / "error", on_step=fail)
    resumed = train(
        SMALL, faces, tmp_path / "error", resume=True, on_step=lambda s, _, loss: losses.update({s: loss})
    )
    assert losses == whole_losses
    assert identical(resumed, whole)
    with (tmp_path / "error" / METRICS).open(newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2", "3"]


def test_step_limit_holds_for_the_whole_run(faces: Path, tmp_path: Path) -> None:
    steps: list[int] = []

    def record(step: int, total: int, loss: float) -> None:
        steps.append(step)

    train(SMALL, faces, tmp_path / "run", max_steps=1, on_step=record)
    assert steps == [1]
    train(SMALL, faces, tmp_path / "run", max_steps=6, on_step=record)
    reached = steps[-1]
    assert reached == 6
    train(SMALL, faces, tmp_path / "run", max_steps=5, resume=True, on_step=record)
    assert steps[-1] <= reached


def test_seed_decides_the_run(faces: Path, tmp_path: Path) -> None:
    short = dataclasses.replace(SMALL, epochs=1)
    first = train(short, faces, tmp_path / "a")
    assert identical(train(short, faces, tmp_path / "b"), first)
    assert not identical(train(dataclasses.replace(short, seed=1), faces, tmp_path / "c"), first)


@pytest.mark.parametrize("warmup_fraction", [0.2, 0.5])
@pytest.mark.parametrize("epochs", [1, 2])
def test_runs_of_a_few_steps(faces: Path, tmp_path: Path, epochs: int, warmup_fraction: float) -> None:
    """Down to one step: the schedule must not divide by the length of its warm-up."""
    recipe = dataclasses.replace(SMALL, epochs=epochs, batch_size=40, warmup_fraction=warmup_fraction)
    steps: list[int] = []
    train(recipe, faces, tmp_path / "run", on_step=lambda step, total, loss: steps.append(total))
    assert steps == [epochs] * epochs


def test_folder_with_a_subfolder_per_class(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("happy", "sad"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in range(12):
            image = rng.integers(0, 256, (60, 50, 3), np.uint8)
            cv2.imwrite(str(tmp_path / "data" / name / f"{index}.png"), image)
    recipe = dataclasses.replace(SMALL, epochs=1)
    weights = train(recipe, tmp_path / "data", tmp_path / "run")
    assert load_weights(weights).spec.class_names == FERPLUS


def test_checkpoints_that_cannot_be_used(faces: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    with pytest.raises(WeightsError, match=r"there is no .*checkpoint.pt to resume from: leave --resume out"):
        train(SMALL, faces, output, resume=True)
    train(dataclasses.replace(SMALL, epochs=1), faces, output)
    with pytest.raises(WeightsError, match="is from an earlier run: add --resume, or choose another"):
        train(SMALL, faces, output)

    other = dataclasses.replace(SMALL, network_options={**SMALL.network_options, "dense_width": 24})
    good = (output / CHECKPOINT).read_bytes()
    damage: dict[str, tuple[bytes, Recipe]] = {
        "of another network": (good, other),
        "cut": (good[: len(good) // 2], SMALL),
        "empty": (b"", SMALL),
        "text": (b"hello world\n", SMALL),
        "html": (b"<!DOCTYPE html>", SMALL),
    }
    for data, recipe in damage.values():
        (output / CHECKPOINT).write_bytes(data)
        with pytest.raises(WeightsError, match=r"cannot be resumed from .*start again in another") as caught:
            train(recipe, faces, output, resume=True)
        assert "\n" not in str(caught.value)
    for content in ([1], {"network": {}}):
        torch.save(content, output / CHECKPOINT)
        with pytest.raises(WeightsError, match="cannot be resumed from"):
            train(SMALL, faces, output, resume=True)


def test_data_that_cannot_be_used(faces: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="fewer than one batch of 128"):
        train(dataclasses.replace(SMALL, batch_size=128), faces, tmp_path / "run")
    seven = dataclasses.replace(SMALL.spec, class_names=FERPLUS[:7])
    with pytest.raises(DataError, match="has the classes contempt, which conv-attention does not"):
        train(dataclasses.replace(SMALL, spec=seven), faces, tmp_path / "run")
    unlabelled = tmp_path / "images"
    unlabelled.mkdir()
    cv2.imwrite(str(unlabelled / "a.png"), np.zeros((48, 48), np.uint8))
    with pytest.raises(DataError, match="has no labels"):
        train(SMALL, unlabelled, tmp_path / "run")


# --- augmentation -------------------------------------------------------------------------------------


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


# --- loss ---------------------------------------------------------------------------------------------


def test_soft_cross_entropy_by_hand() -> None:
    """Logits ln 1, ln 2, ln 5 have the softmax 1/8, 2/8, 5/8."""
    logits = torch.log(torch.tensor([[1.0, 2.0, 5.0], [5.0, 1.0, 2.0]]))
    votes = torch.tensor([[0.0, 0.5, 0.5], [1.0, 0.0, 0.0]])
    first = -0.5 * math.log(2 / 8) - 0.5 * math.log(5 / 8)
    second = -math.log(5 / 8)
    assert soft_cross_entropy(logits, votes).item() == pytest.approx((first + second) / 2, rel=1e-6)
    far = soft_cross_entropy(torch.tensor([[1e4, 0.0]]), torch.tensor([[0.0, 1.0]]))
    assert far.item() == pytest.approx(1e4)


def test_soft_cross_entropy_gradient() -> None:
    generator = seeded(0)
    logits = torch.randn(4, 8, dtype=torch.float64, generator=generator, requires_grad=True)
    votes = torch.rand(4, 8, dtype=torch.float64, generator=generator).softmax(dim=1)
    assert torch.autograd.gradcheck(lambda value: soft_cross_entropy(value, votes), logits)

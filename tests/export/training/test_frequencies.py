"""Class frequencies are the mean of the targets of the loss, and reach the manifest of a bundle."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator

from fer_edge.builder import BuildOptions, build
from fer_edge.errors import WeightsError
from fer_edge.export.training.data.batches import DataOptions, TrainingData
from fer_edge.export.training.data.loading import load_training_data
from fer_edge.export.training.data.sampling import balanced_indices, expected_draws
from fer_edge.export.training.frequencies import MIN_FREQUENCY, class_frequencies
from fer_edge.export.training.loop import train
from fer_edge.export.training.losses import soft_cross_entropy, weighted_cross_entropy
from fer_edge.export.training.objectives import OBJECTIVES, Batch, Outcome
from fer_edge.export.training.recipe import Phase, Recipe
from fer_edge.export.training.recipes import RECIPES
from fer_edge.export.weights import load_weights
from fer_edge.labels import FER2013, FERPLUS

FERPLUS_RECIPE, FER2013_RECIPE = RECIPES["conv-attention-ferplus"], RECIPES["conv-attention-fer2013"]
SMALL_NETWORK = {
    "stem_width": 8, "c2_widths": (8, 16), "c3_widths": (16, 16, 16), "c4_width": 8, "dense_width": 16,
}  # fmt: skip
#: Images of each class of FER2013, in its order; disgust has none.
COUNTS = (20, 0, 8, 40, 12, 6, 30)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small networks are faster on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """FER2013 with FER+ votes: 8 for the class of FER+ that the row number gives, 2 for the next one."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(7), COUNTS))
    rows = [["emotion", "pixels", "Usage"]]
    votes = [["Usage", "Image name", *FERPLUS, "unknown", "NF"]]
    for i, label in enumerate(labels):
        rows.append([str(label), " ".join(map(str, rng.integers(0, 256, 48 * 48))), "Training"])
        first = (i * i) % 7
        counts = ["8" if k == first else "2" if k == (first + 1) % 8 else "0" for k in range(8)]
        votes.append(["Training", f"fer{i:07d}.png", *counts, "0", "0"])
    for name, table in (("fer2013.csv", rows), ("fer2013new.csv", votes)):
        with (tmp_path / name).open("w", newline="") as file:
            csv.writer(file).writerows(table)
    return tmp_path / "fer2013.csv"


def load(recipe: Recipe, faces: Path) -> TrainingData:
    return load_training_data(recipe, DataOptions(faces, cache=faces.parent))


def rows_of(faces: Path, file: str) -> list[dict[str, str]]:
    with faces.with_name(file).open(newline="") as lines:
        return list(csv.DictReader(lines))


def clipped(shares: np.ndarray) -> list[float]:
    shares = np.maximum(shares / shares.sum(), MIN_FREQUENCY)
    return (shares / shares.sum()).tolist()


def trained_rows(count: int) -> list[int]:
    """Rows that are not held out: all but the first fifth of the permutation of seed 0."""
    return np.random.default_rng(0).permutation(count)[count // 5 :].tolist()


def test_classes_are_counted_without_the_held_out_images(faces: Path) -> None:
    rows = rows_of(faces, "fer2013.csv")
    counts = np.zeros(7)
    for i in trained_rows(len(rows)):
        counts[int(rows[i]["emotion"])] += 1
    found = class_frequencies(FER2013_RECIPE, FER2013_RECIPE.phases[-1], load(FER2013_RECIPE, faces))
    assert list(found) == list(FER2013)
    assert list(found.values()) == pytest.approx(clipped(counts))
    assert 0 < found["disgust"] < 1.01 * MIN_FREQUENCY
    assert sum(found.values()) == pytest.approx(1, abs=1e-12)


def test_votes_are_averaged_and_dropped_classes_are_not_seen(faces: Path) -> None:
    rows = rows_of(faces, "fer2013new.csv")
    votes = np.array([[int(row[name]) for name in FERPLUS] for row in rows], float)
    for dropped in ((), ("surprise",)):
        kept = [k for k, name in enumerate(FERPLUS) if name not in dropped]
        shares = votes[:, kept] / votes[:, kept].sum(axis=1, keepdims=True)
        expected = np.zeros(8)
        expected[kept] = shares[trained_rows(len(rows))].sum(axis=0)
        recipe = dataclasses.replace(FERPLUS_RECIPE, dropped_classes=dropped)
        found = class_frequencies(recipe, recipe.phases[-1], load(recipe, faces))
        assert list(found.values()) == pytest.approx(clipped(expected))


@pytest.mark.parametrize("per_class", [3, 10, 20])
def test_balanced_sampling_is_the_mean_of_many_epochs(per_class: int, faces: Path) -> None:
    recipe = dataclasses.replace(FERPLUS_RECIPE, per_class=per_class)
    data = load(recipe, faces)
    targets = torch.from_numpy(data.dataset.targets)[data.split.training]
    generator = Generator().manual_seed(1)
    epochs = [data.split.training[balanced_indices(targets, per_class, generator)] for _ in range(600)]
    seen = torch.from_numpy(data.dataset.labels)[torch.cat(epochs)].double().mean(dim=0).numpy()
    found = class_frequencies(recipe, recipe.phases[-1], data)
    assert list(found.values()) == pytest.approx(clipped(seen), abs=0.004)
    every = class_frequencies(FERPLUS_RECIPE, recipe.phases[-1], data)
    assert max(abs(found[name] - every[name]) for name in found) > 0.02


@pytest.mark.parametrize("rare", ["copies", "cap", "oversample"])
def test_expected_draws_are_the_mean_of_many_epochs(rare: str) -> None:
    targets = torch.tensor([0] * 9 + [1] * 4 + [3] * 2)[
        torch.randperm(15, generator=Generator().manual_seed(2))
    ]
    generator = Generator().manual_seed(3)
    epochs = [balanced_indices(targets, 5, generator, rare=rare) for _ in range(1000)]
    seen = torch.bincount(torch.cat(epochs), minlength=15).double() / len(epochs)
    torch.testing.assert_close(expected_draws(targets, 5, rare=rare), seen, atol=0.08, rtol=0)


def test_mixed_and_augmented_batches_have_the_same_mean(faces: Path) -> None:
    assert FERPLUS_RECIPE.augmentation.mixup_alpha > 0
    data, generator = load(FERPLUS_RECIPE, faces), Generator().manual_seed(0)
    means = [
        data.draw(data.split.training, generator, (48, 48), FERPLUS_RECIPE.augmentation)
        .labels.double()
        .mean(0)
        for _ in range(20)
    ]
    found = class_frequencies(FERPLUS_RECIPE, FERPLUS_RECIPE.phases[-1], data)
    assert list(found.values()) == pytest.approx(clipped(torch.stack(means).mean(0).numpy()), abs=0.004)


def test_class_weights_count_as_the_loss_counts_them(faces: Path) -> None:
    """Logits that are the same for every image reach the least loss at the log of the frequencies."""
    weights = (1.0266, 9.4066, 1.0010, 0.5684, 0.8491, 1.2934, 0.8260)
    phase = Phase(epochs=1, objective_options={"class_weights": weights})
    data = load(FER2013_RECIPE, faces)
    labels = torch.from_numpy(data.dataset.labels)[data.split.training].double()
    shared_logits = torch.zeros(7, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([shared_logits], max_iter=200, tolerance_grad=1e-10)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = weighted_cross_entropy(shared_logits.expand(len(labels), 7), labels, weights)
        loss.backward()
        return loss

    optimizer.step(closure)
    expected = clipped(shared_logits.detach().softmax(dim=0).numpy())
    found = class_frequencies(FER2013_RECIPE, phase, data)
    assert list(found.values()) == pytest.approx(expected, abs=2e-4)


def test_rendered_faces_take_turns_by_class(tmp_path: Path) -> None:
    """All classes with faces are drawn equally often."""
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(0)
    for name, count in (("happiness", 12), ("anger", 5), ("fear", 4)):
        (tmp_path / name).mkdir()
        for i in range(count):
            cv2.imwrite(str(tmp_path / name / f"{i}.png"), rng.integers(60, 200, (64, 64, 3), np.uint8))
    recipe = RECIPES["feratt"]
    data = load_training_data(recipe, DataOptions(tmp_path, cache=tmp_path))
    batch = data.draw(torch.arange(9), Generator().manual_seed(0), (128, 128), recipe.augmentation)
    found = class_frequencies(recipe, recipe.phases[-1], data)
    assert list(found.values()) == pytest.approx(clipped(batch.labels.double().mean(dim=0).numpy()))
    assert found["anger"] == pytest.approx(1 / 3, abs=1e-3)


SMALL = dataclasses.replace(
    FER2013_RECIPE,
    network_options={**FER2013_RECIPE.network_options, **SMALL_NETWORK},
    phases=(Phase(epochs=1),),
    batch_size=8,
    bfloat16=False,
)


@pytest.mark.slow
@pytest.mark.parametrize("keep", ["average", "best"])
def test_frequencies_travel_from_the_run_to_the_bundle(keep: str, faces: Path, tmp_path: Path) -> None:
    recipe, options = dataclasses.replace(SMALL, keep=keep), DataOptions(faces, cache=tmp_path)
    weights = train(recipe, options, tmp_path / "run")
    trained = load_weights(weights)
    expected = class_frequencies(recipe, recipe.phases[-1], load_training_data(recipe, options))
    assert trained.class_frequencies == pytest.approx(expected, abs=1e-12)
    assert trained.logit_prior == "training"
    if keep == "best":
        manifest = build(
            BuildOptions("conv-attention", str(weights), "fp32", output=tmp_path / "a.fer")
        ).bundle.manifest
        assert manifest.class_frequencies == trained.class_frequencies
        assert (manifest.logit_prior, manifest.default_prior) == ("training", None)


@pytest.mark.slow
def test_a_phase_without_logits_records_no_frequencies(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As EmotionalDAN's first phase, which trains landmarks alone."""

    def silent(network: torch.nn.Module, batch: Batch) -> Outcome:
        return Outcome(soft_cross_entropy(network(batch.images), batch.labels), None)

    monkeypatch.setitem(OBJECTIVES, "silent", silent)  # type: ignore[arg-type]
    recipe = dataclasses.replace(SMALL, phases=(Phase(epochs=1, objective="silent"),))
    trained = load_weights(train(recipe, DataOptions(faces, cache=tmp_path), tmp_path / "run"))
    assert trained.class_frequencies is trained.logit_prior is None


@pytest.mark.parametrize(
    "bad",
    [
        {"class_frequencies": {"happy": 1.0}},
        {"class_frequencies": dict.fromkeys(FER2013, 1.0)},
        {"class_frequencies": [1 / 7] * 7},
        {"class_frequencies": dict.fromkeys(FER2013, 1 / 7), "logit_prior": "balanced"},
    ],
    ids=str,
)
def test_weights_that_record_the_impossible_are_refused(bad: dict[str, Any]) -> None:
    from fer_edge.export.checkpoints import random_network

    trained = random_network("visual-attention")
    assert trained.class_frequencies is trained.logit_prior is None
    broken = dataclasses.replace(trained, provenance={**trained.provenance, **bad})
    with pytest.raises(WeightsError, match="class_frequencies|unknown logit_prior"):
        _ = broken.class_frequencies, broken.logit_prior

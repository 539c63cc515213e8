"""Every recipe trains its network on real faces, with a falling loss."""

from __future__ import annotations

import csv
import dataclasses
import gzip
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from fer_edge.errors import UsageError
from fer_edge.export.training.augmentation import AugmentationOptions
from fer_edge.export.training.data.batches import DataOptions, Split
from fer_edge.export.training.data.loading import load_training_data
from fer_edge.export.training.loop import train
from fer_edge.export.training.objectives import OBJECTIVES
from fer_edge.export.training.optimizers import OPTIMIZERS, RATES
from fer_edge.export.training.recipe import Phase, Recipe
from fer_edge.export.training.recipes import RECIPES
from fer_edge.export.weights import load_weights

#: Input sides that keep a test short, for networks of any input size.
SIDES = {"resmasking": 64, "conv-attention": 64, "visual-attention": 64}
#: Networks that train within seconds.
SMALL_NETWORKS = ("conv-attention", "visual-attention")
ROWS = 24
IMAGES = 6
STEPS = 5
#: By optimiser; 1e-3 for the others.
LEARNING_RATES = {"sgd": 1e-2, "radam": 3e-3, "adam-amsgrad": 1e-4}


@pytest.fixture(scope="module")
def faces(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first rows of FER2013 with their FER+ votes."""
    folder, source = tmp_path_factory.mktemp("faces"), shared / "data" / "fer2013"
    with gzip.open(source / "fer2013.csv.gz", "rt", newline="") as file:
        rows = list(islice(csv.reader(file), ROWS + 1))
    with (source / "fer2013new.csv").open(newline="") as file:
        votes = list(islice(csv.reader(file), ROWS + 1))
    for name, table in (("fer2013.csv", rows), ("fer2013new.csv", votes)):
        with (folder / name).open("w", newline="") as file:
            csv.writer(file).writerows(table)
    return folder / "fer2013.csv"


def small(name: str) -> Recipe:
    """The recipe with all images in every step, at rates whose effect shows in few steps."""
    recipe = RECIPES[name]
    side = SIDES.get(recipe.network)
    spec = recipe.spec
    if side and spec.input_height > side:
        spec = dataclasses.replace(spec, input_height=side, input_width=side)
    phases = tuple(
        dataclasses.replace(
            p,
            epochs=STEPS,
            rate="constant",
            rate_options={},
            patience=None,
            learning_rate=LEARNING_RATES.get(p.optimizer, 1e-3),
        )
        for p in recipe.phases
    )
    return dataclasses.replace(recipe, spec=spec, phases=phases, batch_size=IMAGES, per_class=None)


# resmasking differs from resmasking-vemo in the weights of the classes alone, and has 143 million parameters.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if recipe.network in SMALL_NETWORKS else pytest.mark.slow)
        for name, recipe in RECIPES.items()
        if name != "resmasking"
    ],
)
def test_loss_falls(name: str, faces: Path, tmp_path: Path) -> None:
    recipe = small(name)
    losses: list[float] = []
    data = DataOptions(faces, tmp_path, limit=IMAGES + 1, landmark_predictor="mtcnn-mean-face")
    weights = train(recipe, data, tmp_path / "run", on_step=lambda step, total, loss: losses.append(loss))
    assert len(losses) == STEPS * len(recipe.phases)
    for phase in np.split(np.array(losses), len(recipe.phases)):
        assert phase[1:].min() < phase[0]
    trained = load_weights(weights)
    assert trained.spec == recipe.spec
    assert trained.provenance["recipe"]["network"] == recipe.network
    if recipe.network == "emotionaldan":
        assert trained.provenance["landmarks"] == "pseudo: mtcnn 5 points + mean face"
        assert not torch.equal(trained.module.image_mean, torch.zeros(1, 224, 224))


@pytest.mark.parametrize("name", RECIPES)
def test_every_name_in_a_recipe_exists(name: str) -> None:
    recipe = RECIPES[name]
    for phase in recipe.phases:
        assert phase.objective in OBJECTIVES
        assert phase.optimizer in OPTIMIZERS
        assert phase.rate in RATES
    assert recipe.spec.network == recipe.network


def test_papers_choices_are_kept() -> None:
    """Section by section of what the papers and their code fix."""
    rmn = RECIPES["resmasking"].phases[0]
    assert (rmn.optimizer, rmn.learning_rate, rmn.weight_decay, rmn.patience) == ("radam", 1e-4, 1e-3, 8)
    assert RECIPES["resmasking"].augmentation.fill == "black"
    dan = RECIPES["emotionaldan"].phases
    assert [p.objective for p in dan] == ["landmarks", "landmarks-and-expression"]
    assert dan[1].objective_options == {"landmark_weight": 0.4}
    assert RECIPES["conv-attention"].per_class == 13_000
    assert RECIPES["visual-attention"].subject_folds == 5


@pytest.fixture(scope="module")
def ckplus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CK+ in its published layout: one sequence per subject, the same face with varied brightness."""
    import skimage

    root = tmp_path_factory.mktemp("ckplus")
    photograph = cv2.imread(str(Path(skimage.__file__).parent / "data" / "astronaut.png"))[20:220, 120:320]
    for subject in range(5):
        for kind in ("cohn-kanade-images", "Emotion"):
            (root / kind / f"S{subject:03d}" / "001").mkdir(parents=True)
        name = f"S{subject:03d}/001/S{subject:03d}_001_"
        for frame in (1, 2):
            image = cv2.convertScaleAbs(photograph, alpha=0.7 + 0.1 * subject)
            cv2.imwrite(str(root / "cohn-kanade-images" / f"{name}{frame:08d}.png"), image)
        label = (1, 3, 4, 5, 6)[subject]
        (root / "Emotion" / f"{name}00000002_emotion.txt").write_text(f"   {label}.0000000e+00\n")
    return root


def test_folds_share_no_subject_and_photographs_are_cropped(ckplus: Path, tmp_path: Path) -> None:
    recipe = dataclasses.replace(
        RECIPES["visual-attention"], phases=(Phase(epochs=1),), fold=1, dropped_classes=("contempt",)
    )
    data = load_training_data(recipe, DataOptions(ckplus, tmp_path))
    split: Split = data.split
    assert data.dataset.subjects is not None
    trained, held = (set(data.dataset.subjects[part]) for part in (split.training, split.held_out))
    assert held == {"S001"}
    assert not trained & held
    assert split.text.startswith("fold 2 of 5")
    assert len(split.training) + len(split.held_out) == len(data.dataset) == 10
    left, top, right, bottom = data.dataset.boxes_xyxy[0]
    assert 0 <= left < 100 < right <= 200  # the face is in the middle
    assert right - left < 170
    assert data.dataset[0].shape == (bottom - top, right - left, 3)
    assert "largest face by yunet (0 photographs without)" in data.notes["data"]


def test_random_split_says_that_persons_may_repeat(faces: Path, tmp_path: Path) -> None:
    data = load_training_data(RECIPES["visual-attention"], DataOptions(faces, tmp_path))
    assert "the data names no subjects, so one person may be on both sides" in data.split.text


def test_landmarks_refuse_changes_that_they_would_not_follow(faces: Path, tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPES["emotionaldan"], batch_size=4)
    moving = AugmentationOptions(rotation_deg=5)
    phases = (dataclasses.replace(recipe.phases[0], epochs=1, augmentation=moving),)
    data = DataOptions(faces, tmp_path, limit=10, landmark_predictor="mtcnn-mean-face")
    with pytest.raises(UsageError, match="Fix: use photometric augmentations only"):
        train(dataclasses.replace(recipe, phases=phases), data, tmp_path / "run")

"""Training: the loss falls, runs resume bit for bit, damaged checkpoints are refused."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import math
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import safetensors.torch
import torch

from fer_edge.errors import DataError, UsageError, WeightsError
from fer_edge.evaluation.temperature import fit_temperature
from fer_edge.export.training.augmentation import AugmentationOptions
from fer_edge.export.training.data.batches import DataOptions
from fer_edge.export.training.data.loading import load_training_data
from fer_edge.export.training.history import EpochMetrics
from fer_edge.export.training.logs import CURVES, METRICS, TENSORBOARD
from fer_edge.export.training.loop import KEPT, TrainOptions, train
from fer_edge.export.training.recipe import Phase, Recipe
from fer_edge.export.training.recipes import RECIPES
from fer_edge.export.training.state import CHECKPOINT
from fer_edge.export.weights import load_weights
from fer_edge.labels import FER2013, FERPLUS

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
    phases=(Phase(epochs=3, learning_rate=2e-3),),
    batch_size=8,
    ema_decay=0.8,
    bfloat16=False,
)  # fmt: skip


def run(recipe: Recipe, data: Path, output: Path, **arguments: Any) -> Path:
    """Train with the options of :class:`TrainOptions` as keywords."""
    names = [f.name for f in dataclasses.fields(TrainOptions)]
    options = TrainOptions(**{k: arguments.pop(k) for k in names if k in arguments})
    return train(recipe, DataOptions(data, cache=output), output, options, **arguments)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small networks are faster on one thread."""
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


def test_loss_falls_and_results_are_written(faces: Path, tmp_path: Path) -> None:
    recipe = dataclasses.replace(
        SMALL,
        network_options={**SMALL.network_options, "dropout": 0.0},
        phases=(Phase(epochs=20, learning_rate=1e-2),),
        augmentation=STILL,
        side_schedule=((0.0, 1.0),),
    )
    seen: list[EpochMetrics] = []
    steps: list[tuple[int, int]] = []
    output = tmp_path / "run"
    weights = run(
        recipe,
        faces,
        output,
        on_step=lambda step, total, loss: steps.append((step, total)),
        on_epoch=seen.append,
    )
    assert seen[-1].train_loss < 0.7 * seen[0].train_loss
    assert steps == [(i + 1, len(steps)) for i in range(len(steps))]
    assert seen[-1].learning_rate < recipe.phases[0].learning_rate / 100

    with (output / METRICS).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [{k: float(v) for k, v in row.items()} for row in rows] == [m.to_row() for m in seen]
    curves = cv2.imread(str(output / CURVES))
    assert curves is not None
    assert curves.std() > 0

    trained = load_weights(weights)
    assert trained.spec == recipe.spec
    assert trained.provenance["data"] == "FER+ Training"
    assert trained.provenance["epochs"] == 20
    assert trained.provenance["validation"]["train_loss"] == seen[-1].train_loss
    assert trained.provenance["held_out"] == "12 random images of those for training"
    assert {p.name for p in output.iterdir()} == {CHECKPOINT, METRICS, CURVES, TENSORBOARD, weights.name}


def test_a_phase_may_change_images_in_its_own_way(faces: Path, tmp_path: Path) -> None:
    still = dataclasses.replace(SMALL, phases=(Phase(epochs=1),), augmentation=STILL)
    moving = dataclasses.replace(still, augmentation=AugmentationOptions())
    own = dataclasses.replace(moving, phases=(Phase(epochs=1, augmentation=STILL),))
    results = [run(r, faces, tmp_path / str(i)) for i, r in enumerate((still, moving, own))]
    assert identical(results[0], results[2])
    assert not identical(results[0], results[1])


def test_precise_norms_change_statistics_alone(faces: Path, tmp_path: Path) -> None:
    plain = dataclasses.replace(SMALL, phases=(Phase(epochs=1),), training_norms=False, precise_norms=False)
    precise = dataclasses.replace(plain, precise_norms=True)
    first, second = (tensors(run(r, faces, tmp_path / str(i))) for i, r in enumerate((plain, precise)))
    changed = {
        name.rpartition(".")[2] for name, value in first.items() if not torch.equal(value, second[name])
    }
    assert changed == {"running_mean", "running_var", "num_batches_tracked"}


def test_trained_weights_go_on_where_they_stood(faces: Path, tmp_path: Path) -> None:
    """The first loss after the norms were folded and added again is that of the trained weights, not of random ones."""
    recipe = dataclasses.replace(
        SMALL,
        network_options={**SMALL.network_options, "dropout": 0.0},
        phases=(Phase(epochs=12, learning_rate=1e-2),),
        augmentation=STILL,
        side_schedule=((0.0, 1.0),),
        ema_decay=0.5,
    )
    first: list[EpochMetrics] = []
    weights = run(recipe, faces, tmp_path / "first", on_epoch=first.append)
    again = dataclasses.replace(recipe, phases=(Phase(epochs=1, learning_rate=0.0),))
    second: list[EpochMetrics] = []
    run(again, faces, tmp_path / "second", initial=load_weights(weights), on_epoch=second.append)
    assert first[-1].train_loss < 0.7 * first[0].train_loss
    assert second[0].train_loss < 0.8 * first[0].train_loss
    assert load_weights(tmp_path / "second" / "weights.safetensors").provenance["initial"]["epochs"] == 12


def test_resumed_runs_end_bit_for_bit_alike(faces: Path, tmp_path: Path) -> None:
    """Interrupted after an epoch, within one by a step limit, and within one by an error."""
    whole_losses: dict[int, float] = {}
    whole = run(
        SMALL, faces, tmp_path / "whole", on_step=lambda step, _, loss: whole_losses.update({step: loss})
    )
    per_epoch = len(whole_losses) // SMALL.epochs
    assert per_epoch > 2

    for name, limit in (("boundary", per_epoch), ("limit", per_epoch + 2)):
        part = run(SMALL, faces, tmp_path / name, max_steps=limit)
        assert not identical(part, whole)
        assert identical(run(SMALL, faces, tmp_path / name, resume=True), whole)

    losses: dict[int, float] = {}

    def fail(step: int, total: int, loss: float) -> None:
        losses[step] = loss
        if step == 2 * per_epoch - 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(SMALL, faces, tmp_path / "error", on_step=fail)
    resumed = run(
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

    run(SMALL, faces, tmp_path / "run", max_steps=1, on_step=record)
    assert steps == [1]
    run(SMALL, faces, tmp_path / "run", max_steps=6, resume=True, on_step=record)
    assert steps == [1, 2, 3, 4, 5, 6]
    run(SMALL, faces, tmp_path / "run", max_steps=5, resume=True, on_step=record)
    assert steps[-1] == 6


def test_seed_decides_the_run(faces: Path, tmp_path: Path) -> None:
    short = SMALL.with_epochs(1)
    first = run(short, faces, tmp_path / "a")
    assert identical(run(short, faces, tmp_path / "b"), first)
    assert not identical(run(dataclasses.replace(short, seed=1), faces, tmp_path / "c"), first)


@pytest.mark.parametrize("warmup", [0.0, 0.2, 0.5])
@pytest.mark.parametrize("epochs", [1, 2])
def test_runs_of_a_few_steps(faces: Path, tmp_path: Path, epochs: int, warmup: float) -> None:
    """Down to one step: the schedule must not divide by the length of its warm-up."""
    phase = Phase(epochs=epochs, rate_options={"warmup": warmup})
    recipe = dataclasses.replace(SMALL, phases=(phase,), batch_size=40)
    steps: list[int] = []
    run(recipe, faces, tmp_path / "run", on_step=lambda step, total, loss: steps.append(total))
    assert steps == [epochs] * epochs


def test_folder_with_a_subfolder_per_class(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("happy", "sad"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for index in range(12):
            image = rng.integers(0, 256, (60, 50, 3), np.uint8)
            cv2.imwrite(str(tmp_path / "data" / name / f"{index}.png"), image)
    recipe = SMALL.with_epochs(1)
    weights = run(recipe, tmp_path / "data", tmp_path / "run")
    assert load_weights(weights).spec.class_names == FERPLUS


def test_checkpoints_that_cannot_be_used(faces: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    with pytest.raises(
        WeightsError, match=r"expected the checkpoint .*checkpoint.pt for --resume.* Fix: leave --resume out"
    ):
        run(SMALL, faces, output, resume=True)
    run(SMALL.with_epochs(1), faces, output)
    with pytest.raises(WeightsError, match="is from an earlier run. Fix: add --resume, or choose another"):
        run(SMALL, faces, output)

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
        with pytest.raises(
            WeightsError, match=r"is (damaged or )?from another recipe.* Fix: start again in another"
        ) as caught:
            run(recipe, faces, output, resume=True)
        assert "\n" not in str(caught.value)
    for content in ([1], {"network": {}}):
        torch.save(content, output / CHECKPOINT)
        with pytest.raises(WeightsError, match="is damaged or from another recipe"):
            run(SMALL, faces, output, resume=True)


def test_data_that_cannot_be_used(faces: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least one batch of 128"):
        run(dataclasses.replace(SMALL, batch_size=128), faces, tmp_path / "run")
    seven = dataclasses.replace(SMALL.spec, class_names=FERPLUS[:7])
    with pytest.raises(DataError, match="has the classes contempt, which conv-attention does not"):
        run(dataclasses.replace(SMALL, spec=seven), faces, tmp_path / "run")
    unlabelled = tmp_path / "images"
    unlabelled.mkdir()
    cv2.imwrite(str(unlabelled / "a.png"), np.zeros((48, 48), np.uint8))
    with pytest.raises(DataError, match="has no labels"):
        run(SMALL, unlabelled, tmp_path / "run")


def test_finished_runs_resume_to_the_same_weights(faces: Path, tmp_path: Path) -> None:
    recipe = SMALL.with_epochs(1)
    first = run(recipe, faces, tmp_path / "run").read_bytes()
    steps: list[int] = []
    again = run(recipe, faces, tmp_path / "run", resume=True, on_step=lambda s, _, loss: steps.append(s))
    assert steps == []
    assert again.read_bytes() == first


def test_killed_process_resumes_bit_for_bit(faces: Path, tmp_path: Path) -> None:
    """A real process of the command line, killed without warning after a checkpoint."""
    command = [
        sys.executable, "-m", "fer_edge.cli", "train", "--recipe", "visual-attention-fer2013",
        "--data", str(faces), "--batch-size", "4", "--max-steps", "14",
    ]  # fmt: skip
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([*command, "--output", str(whole)], check=True, capture_output=True, timeout=300)
    saving = [*command, "--output", str(killed), "--checkpoint-steps", "2"]
    process = subprocess.Popen(saving, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while not (killed / CHECKPOINT).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (killed / CHECKPOINT).exists()
    assert not (killed / "weights.safetensors").exists()
    subprocess.run([*saving, "--resume"], check=True, capture_output=True, timeout=300)
    assert identical(whole / "weights.safetensors", killed / "weights.safetensors")


def test_tensorboard_reads_the_events_of_a_resumed_run(faces: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    output = tmp_path / "run"
    losses: dict[int, float] = {}
    seen: list[EpochMetrics] = []
    for limit in (5, None):
        run(
            SMALL, faces, output, max_steps=limit, resume=limit is None, on_epoch=seen.append,
            on_step=lambda step, _, loss: losses.update({step: loss}),
        )  # fmt: skip
    events = EventAccumulator(str(output / TENSORBOARD)).Reload()
    logged = {e.step: e.value for e in events.Scalars("train/loss")}
    assert set(logged) == {1, 10}
    assert all(value == pytest.approx(losses[step]) for step, value in logged.items())
    accuracies = [e.value for e in events.Scalars("validation/accuracy")]
    assert accuracies[-1] == pytest.approx(seen[-1].validation_accuracy)


def test_phases_train_what_they_name_and_resume_between(faces: Path, tmp_path: Path) -> None:
    phases = (
        Phase(epochs=1, trained=("head",), optimizer="sgd", rate="constant", learning_rate=0.1),
        Phase(epochs=1, trained=("c1", "attention"), optimizer="adam", rate="constant", weight_decay=0.0),
    )
    recipe = dataclasses.replace(SMALL, phases=phases, keep="last", training_norms=False, precise_norms=False)
    whole = tensors(run(recipe, faces, tmp_path / "whole"))
    steps = 48 // recipe.batch_size
    half = tensors(run(recipe, faces, tmp_path / "half", max_steps=steps))
    changed = {name.split(".")[0] for name in whole if not torch.equal(whole[name], half[name])}
    assert changed == {"c1", "attention"}
    resumed = run(recipe, faces, tmp_path / "half", resume=True)
    assert identical(resumed, tmp_path / "whole" / "weights.safetensors")


def test_unknown_parts_of_a_network_cannot_be_trained(faces: Path, tmp_path: Path) -> None:
    recipe = dataclasses.replace(SMALL, phases=(Phase(epochs=1, trained=("stage2",)),))
    with pytest.raises(UsageError, match="names stage2, but the network has c1, c2, c3"):
        run(recipe, faces, tmp_path / "run")


def test_best_weights_are_those_of_the_best_epoch(faces: Path, tmp_path: Path) -> None:
    seen: list[EpochMetrics] = []
    recipe = dataclasses.replace(
        SMALL, keep="best", phases=(Phase(epochs=6, learning_rate=1e-2, rate="constant"),)
    )
    weights = run(recipe, faces, tmp_path / "run", on_epoch=seen.append)
    accuracies = [m.validation_accuracy for m in seen]
    assert load_weights(weights).provenance["epochs"] == 1 + accuracies.index(max(accuracies))


@pytest.mark.parametrize("keep", KEPT)
def test_a_temperature_is_fitted_for_the_weights_that_are_kept(
    keep: str, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fer_edge.evaluation.temperature._MIN_FACES", 2)
    seen: list[EpochMetrics] = []
    recipe = dataclasses.replace(SMALL, keep=keep, precise_norms=False)
    trained = load_weights(run(recipe, faces, tmp_path / "run", on_epoch=seen.append))
    data = load_training_data(recipe, DataOptions(faces, cache=tmp_path / "run"))
    held_out = data.plain(data.split.held_out)
    with torch.no_grad():
        logits = trained.module(held_out.images).numpy()
    expected = fit_temperature(logits, held_out.labels.argmax(1).numpy())
    assert trained.temperature == pytest.approx(expected, rel=1e-3)
    accuracies = [-1.0, *(m.validation_accuracy for m in seen)]
    for epoch, metrics in enumerate(seen, 1):
        kept = keep == "best" and accuracies[epoch] > max(accuracies[:epoch])
        assert (metrics.temperature is not None) == kept


def test_patience_ends_a_phase(faces: Path, tmp_path: Path) -> None:
    phase = Phase(epochs=50, learning_rate=1e-12, patience=2)
    seen: list[EpochMetrics] = []
    run(dataclasses.replace(SMALL, phases=(phase,)), faces, tmp_path / "run", on_epoch=seen.append)
    accuracies = [m.validation_accuracy for m in seen]
    assert len(seen) - 1 - accuracies.index(max(accuracies)) == 3


def test_training_goes_on_from_initial_weights_with_another_head(faces: Path, tmp_path: Path) -> None:
    first = load_weights(run(SMALL.with_epochs(1), faces, tmp_path / "first"))
    seven = dataclasses.replace(
        SMALL,
        labels="fer2013",
        spec=dataclasses.replace(SMALL.spec, class_names=FER2013),
        network_options={**SMALL.network_options, "num_classes": 7},
        phases=(Phase(epochs=1, learning_rate=1e-12),),
        keep="last",
        training_norms=False,
    )
    weights = run(seven, faces, tmp_path / "second", initial=first, max_steps=1)
    old, new = first.module.state_dict(), tensors(weights)
    torch.testing.assert_close(new["c1.0.weight"], old["c1.0.weight"])
    assert new["head.4.weight"].shape[0] == 7
    assert load_weights(weights).provenance["initial"]["data"] == "FER+ Training"
    wide = dataclasses.replace(seven, network_options={**seven.network_options, "stem_width": 12,
        "c2_widths": (12, 12), "c3_widths": (24, 24, 24)})  # fmt: skip
    with pytest.raises(WeightsError, match="give weights of the same network and widths"):
        run(wide, faces, tmp_path / "third", initial=first)


def test_losses_that_are_not_finite_stop_the_run(faces: Path, tmp_path: Path) -> None:
    phase = Phase(epochs=3, learning_rate=1e30, rate="constant", optimizer="sgd", weight_decay=0.0)
    recipe = dataclasses.replace(SMALL, phases=(phase,), max_gradient_norm=None)
    with pytest.raises(WeightsError, match="the loss is .* at step .* Fix: lower the learning rate"):
        run(recipe, faces, tmp_path / "run")
    assert not (tmp_path / "run" / "weights.safetensors").exists()

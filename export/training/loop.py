"""The training loop: one recipe on one data set, resumable after every epoch.

Each epoch draws its order, its augmentation and its dropout from a seed of its own, so a run that was
killed continues with the same numbers.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fer_edge._files import whole_file
from fer_edge.datasets import FaceDataset, load_dataset
from fer_edge.errors import DataError, WeightsError
from fer_edge.export.networks import NETWORKS, build_network
from fer_edge.export.networks.conv_attention import ConvAttention
from fer_edge.export.training.augmentation import augment
from fer_edge.export.training.losses import soft_cross_entropy
from fer_edge.export.training.plots import save_curves
from fer_edge.export.training.recipes import Recipe
from fer_edge.export.weights import TrainedNetwork, save_weights
from fer_edge.labels import index_map
from fer_edge.metrics import compute_metrics, softmax
from fer_edge.preprocess import resize_image

CHECKPOINT = "checkpoint.pt"
METRICS = "metrics.csv"
WEIGHTS = "weights.safetensors"
CURVES = "curves.png"


@dataclasses.dataclass(frozen=True)
class EpochMetrics:
    """One line of ``metrics.csv``; validation uses the averaged weights."""

    epoch: int
    train_loss: float
    validation_loss: float
    validation_accuracy: float
    validation_macro_f1: float
    learning_rate: float
    seconds: float


def train(
    recipe: Recipe,
    data: str | Path,
    output: str | Path,
    *,
    resume: bool = False,
    max_steps: int | None = None,
    on_step: Callable[[int, int, float], None] = lambda step, total, loss: None,
    on_epoch: Callable[[EpochMetrics], None] = lambda metrics: None,
) -> Path:
    """Train and return the path of the weights file.

    Writes ``checkpoint.pt`` after every epoch, ``metrics.csv``, ``curves.png`` and, at the end,
    ``weights.safetensors`` (the exponential average of the weights).

    Parameters
    ----------
    recipe : Recipe
        See :data:`fer_edge.export.training.recipes.RECIPES`.
    data : path
        A data set that :func:`fer_edge.datasets.load_dataset` reads; of FER2013 the ``Training`` rows.
    output : path
        Folder for the results.
    resume : bool
        Continue from the checkpoint in ``output``.
    max_steps : int, optional
        Stop after so many optimiser steps of the whole run, for a short trial.
    on_step, on_epoch : callable
        Called with (step, total steps, loss) and with each epoch's metrics.

    Raises
    ------
    WeightsError
        If ``resume`` finds no usable checkpoint, or ``output`` holds one and ``resume`` is off.
    """
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    checkpoint_path = output / CHECKPOINT
    if checkpoint_path.exists() and not resume:
        raise WeightsError(
            f"{checkpoint_path} is from an earlier run: add --resume, or choose another --output"
        )
    images, labels = _training_tensors(recipe, Path(data))
    order = torch.from_numpy(np.random.default_rng(recipe.seed).permutation(len(images)))
    held_out = min(recipe.validation_count, len(images) // 5)
    validation, training = order[:held_out], order[held_out:]

    torch.manual_seed(recipe.seed)
    network = _channels_last(build_network(recipe.network, recipe.network_options))
    decay = get_ema_multi_avg_fn(recipe.ema_decay)  # type: ignore[no-untyped-call]
    average = AveragedModel(network, multi_avg_fn=decay, use_buffers=True)
    optimizer = torch.optim.AdamW(
        _parameter_groups(network, recipe.weight_decay), lr=recipe.max_learning_rate
    )
    steps_per_epoch = len(training) // recipe.batch_size
    if steps_per_epoch == 0:
        raise DataError(
            f"{data} has {len(training)} training images, fewer than one batch of {recipe.batch_size}"
        )
    total_steps = steps_per_epoch * recipe.epochs
    # OneCycleLR divides by the steps of its warm-up less one.
    warmup = 0.0 if recipe.warmup_fraction * total_steps == 1 else recipe.warmup_fraction
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.max_learning_rate, total_steps=total_steps, pct_start=warmup
    )
    state = _State(network, average, optimizer, schedule)
    history = state.load(checkpoint_path, recipe) if resume else []
    step = len(history) * steps_per_epoch

    last_step = total_steps if max_steps is None else min(max_steps, total_steps)
    for epoch in range(len(history), recipe.epochs):
        if step >= last_step:
            break
        started = time.perf_counter()
        losses: list[float] = []
        for batch, target in _batches(images, labels, training, recipe, epoch):
            losses.append(_step(network, average, optimizer, schedule, batch, target, recipe))
            step += 1
            on_step(step, total_steps, losses[-1])
            if step >= last_step:
                break
        loss, accuracy, macro_f1 = _validate(average.module, images[validation], labels[validation], recipe)
        metrics = EpochMetrics(
            epoch=epoch + 1,
            train_loss=float(np.mean(losses)),
            validation_loss=loss,
            validation_accuracy=accuracy,
            validation_macro_f1=macro_f1,
            learning_rate=float(schedule.get_last_lr()[0]),
            seconds=time.perf_counter() - started,
        )
        history.append(metrics)
        _write_metrics(output / METRICS, history)
        save_curves(output / CURVES, history)
        if step == (epoch + 1) * steps_per_epoch:  # a part of an epoch cannot be resumed
            state.save(checkpoint_path, recipe, history)
        on_epoch(metrics)

    provenance = {
        "network": recipe.network,
        "paper": NETWORKS[recipe.network].paper,
        "weights": "trained",
        "licence": "Apache-2.0",
        "data": load_name(recipe),
        "recipe": recipe.to_dict(),
        "epochs": len(history),
        "validation": dataclasses.asdict(history[-1]),
    }
    weights_path = output / WEIGHTS
    save_weights(
        weights_path, TrainedNetwork(average.module, recipe.spec, recipe.network_options, provenance)
    )
    return weights_path


def _channels_last(network: nn.Module) -> nn.Module:
    """Twice as fast as channels-first for convolutions on a CPU."""
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def load_name(recipe: Recipe) -> str:
    """Return the name of a recipe's training data, for records."""
    return {"ferplus": "FER+ Training", "fer2013": "FER2013 Training"}.get(recipe.labels, recipe.labels)


def _training_tensors(recipe: Recipe, path: Path) -> tuple[Tensor, Tensor]:
    """Return ``[N, C, H, W]`` uint8 images and ``[N, K]`` label distributions in the spec's class order."""
    split = "Training" if path.is_file() else None
    dataset = load_dataset(path, split, recipe.labels if path.is_file() else "auto")
    if dataset.labels is None:
        raise DataError(f"{path} has no labels: give a folder with a subfolder per class, or fer2013.csv")
    mapping = index_map(dataset.class_names, recipe.spec.class_names)
    if (mapping < 0).any():
        unknown = [n for n, m in zip(dataset.class_names, mapping, strict=True) if m < 0]
        raise DataError(
            f"{path} has the classes {', '.join(unknown)}, which {recipe.network} does not: choose another recipe"
        )
    labels = np.zeros((len(dataset), len(recipe.spec.class_names)), np.float32)
    labels[:, mapping] = dataset.labels
    return torch.from_numpy(_prepare(dataset, recipe)), torch.from_numpy(labels)


def _prepare(dataset: FaceDataset, recipe: Recipe) -> np.ndarray:
    return np.stack([resize_image(image, recipe.spec) for image in dataset]).transpose(0, 3, 1, 2)


def _parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Decay matrices and kernels only: biases, scales and γ are left alone."""
    decayed = [p for p in network.parameters() if p.ndim > 1]
    free = [p for p in network.parameters() if p.ndim <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]


def _normalise(batch: Tensor, recipe: Recipe) -> Tensor:
    shape = (1, -1, 1, 1)
    return (batch - torch.tensor(recipe.spec.mean).view(shape)) / torch.tensor(recipe.spec.std).view(shape)


def _batches(
    images: Tensor, labels: Tensor, indices: Tensor, recipe: Recipe, epoch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    seed = recipe.seed * 100_003 + epoch
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)  # dropout
    shuffled = indices[torch.randperm(len(indices), generator=generator)]
    for start in range(0, len(shuffled) - recipe.batch_size + 1, recipe.batch_size):
        chosen = shuffled[start : start + recipe.batch_size]
        batch = augment(images[chosen].float() / 255, recipe.augmentation, generator)
        yield _normalise(batch, recipe).contiguous(memory_format=torch.channels_last), labels[chosen]


def _step(
    network: nn.Module,
    average: AveragedModel,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    batch: Tensor,
    target: Tensor,
    recipe: Recipe,
) -> float:
    network.train()
    with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bfloat16):
        logits = network(batch)
    loss = soft_cross_entropy(logits, target)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(network.parameters(), recipe.max_gradient_norm)
    optimizer.step()
    if isinstance(network, ConvAttention):
        network.after_step()
    schedule.step()
    average.update_parameters(network)
    return float(loss.detach())


@torch.no_grad()
def _validate(
    network: nn.Module, images: Tensor, labels: Tensor, recipe: Recipe
) -> tuple[float, float, float]:
    network.eval()
    logits = torch.cat([network(_normalise(part.float() / 255, recipe)) for part in torch.split(images, 250)])
    targets = labels.argmax(1)
    metrics = compute_metrics(softmax(logits.numpy()), targets.numpy(), recipe.spec.class_names)
    return float(soft_cross_entropy(logits, labels)), metrics.accuracy, metrics.macro_f1


def _write_metrics(path: Path, history: list[EpochMetrics]) -> None:
    with whole_file(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [f.name for f in dataclasses.fields(EpochMetrics)])
        writer.writeheader()
        writer.writerows(dataclasses.asdict(m) for m in history)


@dataclasses.dataclass(frozen=True)
class _State:
    """Everything that a resumed run needs."""

    network: nn.Module
    average: AveragedModel
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler

    def save(self, path: Path, recipe: Recipe, history: list[EpochMetrics]) -> None:
        value: dict[str, Any] = {name: part.state_dict() for name, part in vars(self).items()}
        value["recipe"] = json.dumps(recipe.to_dict())
        value["history"] = [dataclasses.asdict(m) for m in history]
        with whole_file(path) as part:
            torch.save(value, part)

    def load(self, path: Path, recipe: Recipe) -> list[EpochMetrics]:
        try:
            value = torch.load(path, weights_only=True)
            if value["recipe"] != json.dumps(recipe.to_dict()):
                raise WeightsError(
                    f"{path} cannot be resumed from (it is from another recipe): start again in another --output"
                )
            for name, part in vars(self).items():
                part.load_state_dict(value[name])
            return [EpochMetrics(**m) for m in value["history"]]
        except FileNotFoundError as error:
            raise WeightsError(f"there is no {path} to resume from: leave --resume out") from error
        except WeightsError:
            raise
        except Exception as error:  # damaged bytes can raise anything in the unpickler
            raise WeightsError(
                f"{path} cannot be resumed from ({type(error).__name__}): it is damaged or from another recipe: start again in another --output"
            ) from error

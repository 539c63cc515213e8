"""The training loop: one recipe on one data set, resumable from any step.

Order, augmentation and dropout are drawn from seeds of the epoch and of the step, and rates follow from
the position in the run, so a run that was killed continues with the same numbers.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fer_edge._utils.checks import require_flag, require_whole
from fer_edge.errors import DataError, UsageError, WeightsError
from fer_edge.export.networks import NETWORKS, build_network
from fer_edge.export.networks.conv_attention import ConvAttention
from fer_edge.export.training.data.batches import DataOptions, TrainingData
from fer_edge.export.training.data.loading import load_training_data
from fer_edge.export.training.data.sampling import balanced_indices
from fer_edge.export.training.frequencies import class_frequencies
from fer_edge.export.training.history import EpochMetrics, Progress
from fer_edge.export.training.initial import make_network
from fer_edge.export.training.logs import RunLog
from fer_edge.export.training.norms import add_norms, fold_norms, reestimate_norms
from fer_edge.export.training.objectives import OBJECTIVES, Outcome
from fer_edge.export.training.optimizers import Position, apply_rate, make_optimizer
from fer_edge.export.training.recipe import Phase, Recipe
from fer_edge.export.training.state import CHECKPOINT, RunState
from fer_edge.export.training.validation import Validation, validate
from fer_edge.export.weights import TrainedNetwork, save_weights

WEIGHTS = "weights.safetensors"
BEST = "best.safetensors"
PRECISE_NORMS_IMAGES = 6400
KEPT = ("average", "best", "last")
_MAX_STEPS = 10**12


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """Options of a run, beside its recipe.

    Attributes
    ----------
    resume : bool
        Continue from the checkpoint in the output folder.
    initial : TrainedNetwork or None
        Start from these weights where names and shapes agree; a head for other classes starts fresh.
    max_steps : int or None
        Stop after this number of steps of the whole run, for a short trial.
    checkpoint_steps : int or None
        Save a checkpoint also every so many steps, not only after every epoch.
    """

    resume: bool = False
    initial: TrainedNetwork | None = None
    max_steps: int | None = None
    checkpoint_steps: int | None = None

    def __post_init__(self) -> None:
        require_flag("resume", self.resume)
        require_whole("max_steps", self.max_steps, 1, _MAX_STEPS, optional=True)
        require_whole("checkpoint_steps", self.checkpoint_steps, 1, _MAX_STEPS, optional=True)


def train(
    recipe: Recipe,
    data: DataOptions,
    output: Path,
    options: TrainOptions | None = None,
    *,
    on_step: Callable[[int, int, float], None] = lambda step, total, loss: None,
    on_epoch: Callable[[EpochMetrics], None] = lambda metrics: None,
) -> Path:
    """Train and return the path of the weights file.

    Writes ``checkpoint.pt`` after every epoch, ``metrics.csv``, ``curves.png``, TensorBoard events in
    ``tensorboard/`` and, at the end, ``weights.safetensors``.

    Parameters
    ----------
    recipe : Recipe
        See :data:`fer_edge.export.training.recipes.RECIPES`.
    data : DataOptions
        The data set; by default the training part of its authors.
    output : Path
        Folder for the results.
    options : TrainOptions, optional
        Resuming, initial weights, limits.
    on_step, on_epoch : callable
        Called with (step, total steps, loss) and with each epoch's metrics.

    Raises
    ------
    WeightsError
        If ``resume`` finds no usable checkpoint, or ``output`` holds one and ``resume`` is off; if the
        loss is not finite.
    DataError
        If the data cannot be used for the recipe.
    """
    options = options or TrainOptions()
    if recipe.keep not in KEPT:
        raise UsageError(
            f"recipe.keep must be one of {', '.join(KEPT)}, found {recipe.keep!r}. Fix: set keep to one of them."
        )
    output.mkdir(parents=True, exist_ok=True)
    if (output / CHECKPOINT).exists() and not options.resume:
        raise WeightsError(
            f"{output / CHECKPOINT} is from an earlier run. Fix: add --resume, or choose another --output."
        )
    torch.manual_seed(recipe.seed)
    run = _Run(recipe, load_training_data(recipe, data), output, options)
    run.go(on_step, on_epoch)
    return run.finish()


class _Run:
    """One call of :func:`train`."""

    def __init__(self, recipe: Recipe, data: TrainingData, output: Path, options: TrainOptions) -> None:
        self.recipe, self.data, self.output, self.options = recipe, data, output, options
        self.network = make_network(recipe, data, options.initial)
        decay = get_ema_multi_avg_fn(recipe.ema_decay)  # type: ignore[no-untyped-call]
        average = recipe.keep == "average"
        self.average = AveragedModel(self.network, multi_avg_fn=decay, use_buffers=True) if average else None
        self.progress = Progress()
        images = len(self._order(0))
        self.epoch_steps = images // recipe.batch_size
        if self.epoch_steps == 0:
            raise DataError(
                f"{data.dataset.name} has {images} training images, expected at least one batch of {recipe.batch_size}. Fix: give more data, or a smaller --batch-size."
            )

    def go(
        self, on_step: Callable[[int, int, float], None], on_epoch: Callable[[EpochMetrics], None]
    ) -> None:
        """Run the phases, from the checkpoint on."""
        total = self.epoch_steps * self.recipe.epochs
        last = total if self.options.max_steps is None else min(self.options.max_steps, total)
        loaded = RunState.load(self.output / CHECKPOINT, self.recipe) if self.options.resume else None
        if loaded is not None:
            self.progress = loaded.progress
        progress = self.progress
        with RunLog(self.output, progress) as log:
            while progress.phase < len(self.recipe.phases):
                phase = self.recipe.phases[progress.phase]
                _freeze(self.network, phase)
                optimizer = make_optimizer(phase, self.network)
                if loaded is not None:
                    loaded.restore(self.network, self.average, optimizer)
                    loaded = None
                state = RunState(self.recipe, progress, self.network, self.average, optimizer)
                while not progress.phase_ends(phase):
                    if progress.step >= last:
                        return
                    started = time.perf_counter()
                    for loss, rate in self._epoch(phase, optimizer, last):
                        log.step(progress.step, loss, rate)
                        on_step(progress.step, total, loss)
                        if self._checkpoint_due():
                            state.save(self.output / CHECKPOINT)
                    metrics = self._close_epoch(phase, rate, time.perf_counter() - started)
                    log.epoch(progress, metrics)
                    state.save(self.output / CHECKPOINT)
                    on_epoch(metrics)
                progress.next_phase()

    def _checkpoint_due(self) -> bool:
        every = self.options.checkpoint_steps
        return every is not None and self.progress.step % every == 0

    def _epoch(
        self, phase: Phase, optimizer: torch.optim.Optimizer, last: int
    ) -> Iterator[tuple[float, float]]:
        epoch = len(self.progress.history)
        order = self._order(epoch)
        for batch in range(len(self.progress.losses), self.epoch_steps):
            if self.progress.step >= last:
                return
            position = Position(
                step=self.progress.step - self.progress.phase_step,
                steps=phase.epochs * self.epoch_steps,
                steps_per_epoch=self.epoch_steps,
                accuracies=self.progress.phase_accuracies,
            )
            rate = apply_rate(phase, position, optimizer)
            chosen = order[batch * self.recipe.batch_size :][: self.recipe.batch_size]
            loss = self._step(phase, chosen, optimizer)
            self.progress.add(loss)
            yield loss, rate

    def _step(self, phase: Phase, chosen: Tensor, optimizer: torch.optim.Optimizer) -> float:
        recipe = self.recipe
        seed = _seed(recipe.seed, 1, self.progress.step)
        torch.manual_seed(seed)  # dropout
        changes = phase.augmentation or recipe.augmentation
        batch = self.data.draw(chosen, torch.Generator().manual_seed(seed), self._size(), changes)
        self.network.train()
        for name, child in self.network.named_children():
            child.train(not phase.trained or name in phase.trained)
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bfloat16):
            outcome: Outcome = OBJECTIVES[phase.objective](self.network, batch, **phase.objective_options)
        loss = float(outcome.loss.detach())
        if not np.isfinite(loss):
            raise WeightsError(
                f"the loss is {loss} at step {self.progress.step + 1}, expected a finite number. Fix: lower the learning rate, or remove damaged data."
            )
        optimizer.zero_grad(set_to_none=True)
        outcome.loss.backward()  # type: ignore[no-untyped-call]
        if recipe.max_gradient_norm is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), recipe.max_gradient_norm)
        optimizer.step()
        if isinstance(self.network, ConvAttention):
            self.network.after_step()
        if self.average is not None:
            self.average.update_parameters(self.network)
        return loss

    def _close_epoch(self, phase: Phase, rate: float, seconds: float) -> EpochMetrics:
        """Validate; count the epoch as done unless it ended at the limit of steps."""
        validation = self._validate(phase)
        metrics = EpochMetrics(
            epoch=len(self.progress.history) + 1,
            train_loss=float(np.mean(self.progress.losses)),
            learning_rate=rate,
            seconds=seconds,
            **validation.to_metrics(),
        )
        accuracy, best = metrics.validation_accuracy, self.progress.best_accuracy
        if self.recipe.keep == "best" and (best is None or (accuracy is not None and accuracy > best)):
            metrics = dataclasses.replace(metrics, temperature=validation.temperature())
            self._save(self.output / BEST, self.network, metrics, phase)
        self.progress.close_epoch(metrics, len(self.progress.losses) == self.epoch_steps)
        return metrics

    def _validate(self, phase: Phase) -> Validation:
        return validate(self._kept(), self.data, phase, self.recipe.spec.class_names)

    def _kept(self) -> nn.Module:
        """Return the network with the averaged weights, if there is an average."""
        return self.network if self.average is None else self.average.module

    def finish(self) -> Path:
        """Write the weights that the recipe keeps."""
        path = self.output / WEIGHTS
        if self.recipe.keep == "best":
            shutil.copyfile(self.output / BEST, path)
        else:
            network = self._kept()
            if self.recipe.precise_norms:
                images = self._order(0)[:PRECISE_NORMS_IMAGES]
                reestimate_norms(network, (self.data.plain(i).images for i in torch.split(images, 128)))
            phase = self.recipe.phases[min(self.progress.phase, len(self.recipe.phases) - 1)]
            found = self._validate(phase)
            metrics = dataclasses.replace(
                self.progress.last_metrics, **found.to_metrics(), temperature=found.temperature()
            )
            self._save(path, network, metrics, phase)
        return path

    def _save(self, path: Path, network: nn.Module, metrics: EpochMetrics, phase: Phase) -> None:
        recipe = self.recipe
        provenance = {
            "network": recipe.network,
            "paper": NETWORKS[recipe.network].paper,
            "weights": "trained",
            "licence": "Apache-2.0",
            "recipe": recipe.to_dict(),
            **self.data.notes,
            "held_out": self.data.split.text,
            "epochs": metrics.epoch,
            "steps": self.progress.step,
            "validation": dataclasses.asdict(metrics),
        }
        if metrics.validation_accuracy is not None:  # the phase trains logits
            provenance["class_frequencies"] = class_frequencies(recipe, phase, self.data)
            provenance["logit_prior"] = "training"
        if self.options.initial is not None:
            provenance["initial"] = dict(self.options.initial.provenance)
        plain = build_network(recipe.network, recipe.network_options)
        if recipe.training_norms:
            add_norms(plain)
        plain.load_state_dict(network.state_dict())
        fold_norms(plain)
        save_weights(path, TrainedNetwork(plain, recipe.spec, recipe.network_options, provenance))

    def _order(self, epoch: int) -> Tensor:
        """Return the indices of the training images in the order of ``epoch``."""
        generator = torch.Generator().manual_seed(_seed(self.recipe.seed, 0, epoch))
        training = self.data.split.training
        if self.recipe.per_class is None:
            return training[torch.randperm(len(training), generator=generator)]
        targets = torch.from_numpy(self.data.dataset.targets)[training]
        return training[balanced_indices(targets, self.recipe.per_class, generator)]

    def _size(self) -> tuple[int, int]:
        recipe = self.recipe
        done = len(self.progress.history) / recipe.epochs
        share = max(pair for pair in recipe.side_schedule if pair[0] <= done)[1]
        return round(share * recipe.spec.input_height), round(share * recipe.spec.input_width)


def _freeze(network: nn.Module, phase: Phase) -> None:
    children = dict(network.named_children())
    unknown = [name for name in phase.trained if name not in children]
    if unknown:
        raise UsageError(
            f"phase.trained names {', '.join(unknown)}, but the network has {', '.join(children)}. Fix: name children of the network."
        )
    for name, child in children.items():
        child.requires_grad_(not phase.trained or name in phase.trained)


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])

"""Learning curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
from matplotlib.figure import Figure

from fer_edge._files import whole_file

if TYPE_CHECKING:
    from fer_edge.export.training.loop import EpochMetrics

matplotlib.use("Agg")


def save_curves(path: Path, history: Sequence[EpochMetrics]) -> None:
    """Draw loss and accuracy against epochs."""
    epochs = [m.epoch for m in history]
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    loss.plot(epochs, [m.train_loss for m in history], label="training")
    loss.plot(epochs, [m.validation_loss for m in history], label="held-out training rows")
    loss.set(xlabel="epoch", ylabel="cross-entropy")
    loss.legend()
    accuracy.plot(epochs, [100 * m.validation_accuracy for m in history], label="accuracy")
    accuracy.plot(epochs, [100 * m.validation_macro_f1 for m in history], label="macro-F1")
    accuracy.set(xlabel="epoch", ylabel="% of held-out training rows")
    accuracy.legend()
    with whole_file(path) as part:
        figure.savefig(part, dpi=120)

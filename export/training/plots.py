"""Learning curves."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from fer_edge._utils.files import whole_file
from fer_edge.export.training.history import EpochMetrics

matplotlib.use("Agg")


def save_curves(path: Path, history: Sequence[EpochMetrics]) -> None:
    """Draw loss and accuracy against epochs."""
    epochs = [m.epoch for m in history]
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    loss.plot(epochs, [m.train_loss for m in history], label="training")
    loss.plot(epochs, [m.validation_loss for m in history], label="held out")
    for name in dict.fromkeys(name for m in history for name in m.parts):
        values = [m.parts.get(name, nan) for m in history]
        loss.plot(epochs, values, "--", label=f"held out: {name}")
    loss.set(xlabel="epoch", ylabel="loss")
    # A fixed legend position: matplotlib searches for the best one for seconds on slow machines, and warns.
    loss.legend(loc="upper right")
    for label, shares in (
        ("accuracy", [m.validation_accuracy for m in history]),
        ("macro-F1", [m.validation_macro_f1 for m in history]),
    ):
        accuracy.plot(epochs, [nan if share is None else 100 * share for share in shares], label=label)
    accuracy.set(xlabel="epoch", ylabel="% of held-out images")
    accuracy.legend(loc="lower right")
    # Matplotlib cannot open a path whose bytes are not UTF-8.
    with whole_file(path) as part, part.open("wb") as file:
        figure.savefig(file, format=part.suffix.removeprefix("."), dpi=120)

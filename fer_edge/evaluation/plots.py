"""Plot of the confusion matrix. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fer_edge._utils.files import whole_file
from fer_edge.evaluation.metrics import Metrics
from fer_edge.system.extras import require_extra


def save_confusion(path: Path, metrics: Metrics, title: str) -> None:
    """Draw the confusion matrix: counts, coloured by their share of the true class.

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.
    """
    require_extra("plots", "drawing the confusion matrix")
    from matplotlib.figure import Figure

    counts = np.array(metrics.confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = 1.8 + 0.75 * len(counts)
    figure = Figure(figsize=(size + 0.8, size), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        color = "white" if shares[row, column] > 0.55 else "black"
        axes.text(
            column,
            row,
            f"{count}\n{100 * shares[row, column]:.0f}%",
            ha="center",
            va="center",
            color=color,
            fontsize=8,
        )
    ticks = range(len(counts))
    axes.set_xticks(ticks, metrics.class_names, rotation=40, ha="right")
    axes.set_yticks(ticks, metrics.class_names)
    axes.set(
        xlabel="predicted",
        ylabel="annotated",
        title=f"{title}\naccuracy {100 * metrics.accuracy:.2f} % of {metrics.count}",
    )
    # Matplotlib cannot open a path that is not valid UTF-8.
    with whole_file(path) as part, part.open("wb") as file:
        figure.savefig(file, format=part.suffix.removeprefix("."), dpi=120)

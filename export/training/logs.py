"""Logs of a run: ``metrics.csv``, ``curves.png`` and TensorBoard events."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path
from types import TracebackType

from fer_edge._utils.files import whole_file
from fer_edge.export.training.history import EpochMetrics, Progress
from fer_edge.export.training.plots import save_curves

METRICS = "metrics.csv"
CURVES = "curves.png"
TENSORBOARD = "tensorboard"
#: Steps between two events.
STEP_EVENTS = 10


class RunLog:
    """Log files, written after every epoch; a resumed run continues them."""

    def __init__(self, output: Path, progress: Progress) -> None:
        self._output = output
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TensorBoard's protocol buffers warn on import
            from torch.utils.tensorboard import SummaryWriter
        self._events = SummaryWriter(
            str(output / TENSORBOARD), purge_step=progress.step + 1 if progress.step else None
        )

    def step(self, step: int, loss: float, rate: float) -> None:
        """Log a step."""
        if step % STEP_EVENTS == 0 or step == 1:
            self._scalar("train/loss", loss, step)
            self._scalar("train/learning_rate", rate, step)

    def epoch(self, progress: Progress, metrics: EpochMetrics) -> None:
        """Log an epoch and redraw the curves."""
        for name, value in metrics.to_row().items():
            if name.startswith("validation_") and value is not None:
                self._scalar(f"validation/{name.removeprefix('validation_')}", value, progress.step)
        self._events.flush()
        write_metrics(self._output / METRICS, progress.all_metrics)
        save_curves(self._output / CURVES, progress.all_metrics)

    def _scalar(self, name: str, value: float, step: int) -> None:
        self._events.add_scalar(name, value, step)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._events.close()


def write_metrics(path: Path, metrics: list[EpochMetrics]) -> None:
    """Write one line per epoch; a column that an epoch does not have is empty."""
    rows = [m.to_row() for m in metrics]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with whole_file(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)

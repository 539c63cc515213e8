"""What commands share: consoles, tables, progress."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from fer_edge.detection import DETECTORS, DetectorOptions


class Command(Protocol):
    """One subcommand."""

    name: str
    help: str

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add arguments."""

    def execute(self, args: argparse.Namespace) -> int:
        """Do the work and return the exit code."""


def add_detector(parser: argparse.ArgumentParser) -> None:
    """Add which detector to use, its weights, and where its networks run."""
    parser.add_argument("--detector", default="mtcnn", help=f"one of {', '.join(DETECTORS)}")
    parser.add_argument("--detector-model", type=Path, metavar="FILE", help="weights of the detector (yunet)")
    parser.add_argument(
        "--detector-backend", default=DetectorOptions.backend, metavar="NAME", help="where its networks run"
    )


def print_result(args: argparse.Namespace, value: dict[str, Any], *tables: Table | str) -> None:
    """Print ``value`` as JSON with ``--json``, else the tables."""
    if args.json:
        print(json.dumps(value, indent=2, default=str))
        return
    # Names of files, layers and extras hold square brackets, which are no markup.
    console = Console(highlight=False, markup=False)
    for table in tables:
        console.print(table)


def make_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """Return a table; columns of figures are right-aligned."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for i, column in enumerate(columns):
        figures = i > 0 and all(str(row[i])[:1].isdigit() for row in rows)
        table.add_column(column, justify="right" if figures else "left")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    return table


class Stages:
    """A progress bar per stage, on standard error."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, Any] = {}

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        """Show that ``done`` of ``total`` are done."""
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=total)
        self._progress.update(self._tasks[stage], completed=done)


@contextmanager
def progress_bars() -> Iterator[Stages]:
    """Yield :class:`Stages`; nothing is drawn where standard error is no terminal."""
    console = Console(file=sys.stderr)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield Stages(progress)


def percent(value: float) -> str:
    """Format a share as per cent with two decimals."""
    return f"{100 * value:.2f} %"


def megabytes(size: int) -> str:
    """Format bytes as MB."""
    return f"{size / 1e6:.2f} MB"

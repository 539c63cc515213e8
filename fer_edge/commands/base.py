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
from fer_edge.errors import UsageError, closest
from fer_edge.probabilities import NAMED_PRIORS, Prior, ProbabilityRule


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


def add_prior(parser: argparse.ArgumentParser) -> None:
    """Add how frequent the classes are where the network is used; read it with :func:`parse_prior`."""
    parser.add_argument(
        "--prior",
        metavar="NAME|FILE.json|CLASS=P,…",
        help=f"how frequent the classes are: {', '.join(NAMED_PRIORS)}, a JSON object of a probability for each "
        "class, or such as anger=0.1,…; the default of the bundle, if left out",
    )


def parse_prior(text: str | None) -> Prior | None:
    """Return a named prior, or class name → probability from a file or from pairs.

    Raises
    ------
    UsageError
        If it is neither, or a class is given twice. The classes themselves are compared with those of a network by
        :func:`fer_edge.probabilities.make_rule`.
    """
    if text is None or text in NAMED_PRIORS:
        return text
    if text.endswith(".json"):
        return _prior_of_file(Path(text))
    if "=" not in text:
        names = ", ".join(NAMED_PRIORS)
        raise UsageError(
            f"unknown prior {text!r:.80}: choose from {names}, or give FILE.json or pairs such as anger=0.1,…"
            f"{closest(text, NAMED_PRIORS)}"
        )
    pairs = []
    for part in text.split(","):
        name, found, value = part.partition("=")
        try:
            pairs.append((name.strip(), float(value)))
        except ValueError:
            found = ""
        if not found or not name.strip():
            raise UsageError(f"--prior: expected pairs such as anger=0.1, found {part!r:.80}")
    return _without_duplicates(pairs)


def _prior_of_file(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_without_duplicates)
    except OSError as error:
        raise UsageError(f"--prior {path} cannot be read ({error.strerror}): give a JSON file") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"--prior {path} is no JSON ({error}): give an object of a probability for each class"
        ) from error
    if not isinstance(value, dict):
        raise UsageError(
            f"--prior {path} holds a JSON {type(value).__name__}: give an object of a probability for each class"
        )
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"--prior gives {', '.join(twice)} twice: give each class once")
    return dict(pairs)


def prior_text(rule: ProbabilityRule) -> str:
    """Return the prior of a rule as the user would give it."""
    if rule.class_prior is None or rule.prior in NAMED_PRIORS:
        return rule.prior
    return ", ".join(f"{name}={value:g}" for name, value in rule.class_prior.items())


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

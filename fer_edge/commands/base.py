"""Shared arguments, tables and output of the commands."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from fer_edge.commands.parser import offer
from fer_edge.detection import DETECTORS
from fer_edge.detection.base import DEFAULT_DETECTOR, DetectorOptions
from fer_edge.errors import UsageError, closest, lookup
from fer_edge.manifest import PRECISIONS
from fer_edge.models.catalogue import CATALOGUE, SHIPPED
from fer_edge.probabilities import NAMED_PRIORS, Prior, ProbabilityRule

_FILE_COLUMNS = 160
#: Longer words, such as paths and hashes, are broken, except in the first column.
_MAX_WORD_COLUMNS = 40


class Command(Protocol):
    """A subcommand of ``fer-edge``."""

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add arguments."""

    def execute(self, args: argparse.Namespace) -> int:
        """Do the work and return the exit code."""


def add_bundle(parser: argparse.ArgumentParser, **settings: Any) -> None:
    """Add the bundle argument, to be resolved with :func:`fer_edge.models.catalogue.find_bundle`."""
    names = ("default", *SHIPPED)
    text = f"path of a bundle, or name of a shipped one ({', '.join(names)})"
    offer(parser.add_argument("bundle", **{"help": text, **settings}), lambda: names)


def add_model(parser: argparse.ArgumentParser, **settings: Any) -> None:
    """Add the option for the network, a key of :data:`fer_edge.models.catalogue.CATALOGUE`."""
    text = f"one of {', '.join(CATALOGUE)}"
    offer(parser.add_argument("--model", **{"metavar": "NAME", "help": text, **settings}), lambda: CATALOGUE)


def add_backend(parser: argparse.ArgumentParser, purpose: str = "backend of the network") -> None:
    """Add the option for the backend."""
    text = f"{purpose}: a name listed by 'fer-edge doctor', or auto"
    offer(parser.add_argument("--backend", default="auto", metavar="NAME", help=text), _backend_names)


def _backend_names() -> list[str]:
    from fer_edge.backends import BACKENDS

    return ["auto", *BACKENDS]


def add_precision(
    parser: argparse.ArgumentParser, purpose: str = "default: the precision that the bundle was built for"
) -> None:
    """Add the option for the precision."""
    parser.add_argument("--precision", choices=PRECISIONS, help=purpose)


def add_reading(parser: argparse.ArgumentParser) -> None:
    """Add options for bad rows and pictures, and for numbered classes."""
    parser.add_argument(
        "--skip-bad",
        action="store_true",
        help="leave out rows and pictures that cannot be read, and list them",
    )
    parser.add_argument(
        "--class-order",
        metavar="NAME,…",
        help="class names, in the order of the numbers used for folders or labels",
    )


def reading_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options of :func:`add_reading` as arguments of :func:`fer_edge.datasets.load_dataset`."""
    return {"on_bad_row": "skip" if args.skip_bad else "error", "class_order": args.class_order}


def add_detector(parser: argparse.ArgumentParser) -> None:
    """Add options for the detector, its weights and its backend."""
    text = f"one of {', '.join(DETECTORS)}; default: {DEFAULT_DETECTOR}"
    named = parser.add_argument("--detector", default=DEFAULT_DETECTOR, metavar="NAME", help=text)
    offer(named, lambda: DETECTORS)
    parser.add_argument(
        "--detector-model",
        type=Path,
        metavar="FILE",
        help="YuNet file for the detector yunet instead of the one of the package",
    )
    backend = parser.add_argument(
        "--detector-backend", default=DetectorOptions.backend, metavar="NAME", help="backend of the detector"
    )
    offer(backend, _backend_names)


def detector_options(args: argparse.Namespace, **others: Any) -> DetectorOptions:
    """Return the options of :func:`add_detector`, after checking the detector's name.

    Raises
    ------
    UsageError
        If there is no such detector.
    """
    lookup(DETECTORS, args.detector, "detector")
    return DetectorOptions(model=args.detector_model, backend=args.detector_backend, **others)


def add_prior(parser: argparse.ArgumentParser) -> None:
    """Add the option for the class prior, to be read with :func:`parse_prior`."""
    parser.add_argument(
        "--prior",
        metavar="NAME|FILE.json|CLASS=P,…",
        help=f"class prior: {', '.join(NAMED_PRIORS)}, a JSON file with an object of class probabilities, "
        "or pairs such as anger=0.1,…; default: the prior of the bundle",
    )


def parse_prior(text: str | None) -> Prior | None:
    """Return a named prior, or class name → probability from a file or from pairs.

    Raises
    ------
    UsageError
        If it is neither, or a class is given twice. :func:`fer_edge.probabilities.make_rule` checks the class names
        against those of a network.
    """
    if text is None or text in NAMED_PRIORS:
        return text
    if text.endswith(".json"):
        return _prior_of_file(Path(text))
    if "=" not in text:
        names = ", ".join(NAMED_PRIORS)
        raise UsageError(
            f"unknown prior {text!r:.80}. Fix: choose from {names}, or give FILE.json or pairs such as anger=0.1,…"
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
            raise UsageError(
                f"expected CLASS=PROBABILITY in --prior, found {part!r:.80}. Fix: give pairs such as anger=0.1,happy=0.3"
            )
    return _without_duplicates(pairs)


def _prior_of_file(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_without_duplicates)
    except OSError as error:
        raise UsageError(
            f"--prior {path} cannot be read ({error.strerror}). Fix: give a JSON file"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"--prior {path} is not JSON ({error}). Fix: write a JSON object with a probability for each class"
        ) from error
    if not isinstance(value, dict):
        raise UsageError(
            f"expected a JSON object in --prior {path}, found {type(value).__name__}. "
            "Fix: write an object with a probability for each class"
        )
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"--prior has {', '.join(twice)} more than once. Fix: give each class once")
    return dict(pairs)


def prior_text(rule: ProbabilityRule) -> str:
    """Return the prior of a rule in the syntax of ``--prior``."""
    if rule.class_prior is None or rule.prior in NAMED_PRIORS:
        return rule.prior
    return ", ".join(f"{name}={value:g}" for name, value in rule.class_prior.items())


class _Console(Console):
    """A console that passes on a closed pipe, for which the command line has an exit code."""

    def on_broken_pipe(self) -> None:
        """Raise the error again that rich has caught."""
        raise BrokenPipeError


def print_result(args: argparse.Namespace, value: dict[str, Any], *tables: Table | str) -> None:
    """Print ``value`` as JSON with ``--json``, else the tables."""
    if args.json:
        print(json.dumps(value, indent=2, default=str))
        return
    # Names of files, layers and extras may contain square brackets, which are not markup.
    console = _Console(highlight=False, markup=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _FILE_COLUMNS  # output to a file has no window width
    for table in tables:
        console.print(table, soft_wrap=isinstance(table, str))


class _NamedRows(Table):
    """A table that breaks neither the names in its first column nor the words in the others.

    If it is too wide, its borders are left out; if that is not enough, each name gets a line of its own.
    """

    def __init__(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        super().__init__()
        self._heading, self._headers, self._rows = Text(title, "bold", overflow="fold"), columns, rows
        for i, column in enumerate(columns):
            figures = i > 0 and all(row[i][:1].isdigit() or row[i] in ("", "–") for row in rows)
            self.add_column(column, justify="right" if figures else "left", overflow="fold")
        for row in rows:
            self.add_row(*row)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self._heading
        count = len(self._headers)
        widths = self._share(options.max_width - 3 * count - 1)
        if widths is None:
            self.box, self.pad_edge = None, False
            widths = self._share(options.max_width - 2 * count + 2)
        if widths is None:
            yield from self._blocks()
            return
        for column, width in zip(self.columns, widths, strict=True):
            column.width = width
        yield from super().__rich_console__(console, options)

    def _share(self, room: int) -> list[int] | None:
        """Return the width of each column, or ``None`` if names and words need more than ``room``."""
        cells = list(zip(self._headers, *self._rows, strict=True))
        wanted = [max(cell_len(line) for cell in column for line in cell.split("\n")) for column in cells]
        widths = [wanted[0], *(min(_widest_word(column), _MAX_WORD_COLUMNS) for column in cells[1:])]
        if sum(widths) > room:
            return None
        for _ in range(room - sum(widths)):
            narrowest = max(range(len(widths)), key=lambda i: wanted[i] / max(widths[i], 1))
            if widths[narrowest] >= wanted[narrowest]:
                break
            widths[narrowest] += 1
        return widths

    def _blocks(self) -> RenderResult:
        for name, *others in self._rows:
            cells = zip(self._headers[1:], others, strict=True)
            yield Text(name, overflow="fold")
            line = ", ".join(f"{column} {cell}".strip() for column, cell in cells if cell)
            yield Padding(Text(line, overflow="fold"), (0, 0, 0, 2))


def _widest_word(cells: Sequence[str]) -> int:
    """Return the width of the widest word; a figure with its unit, such as ``6.11 MB``, is one word."""
    return max(
        cell_len(word)
        for cell in cells
        for word in ([cell] if cell[:1].isdigit() and cell.count(" ") == 1 else ["", *cell.split()])
    )


def make_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """Return a table with names in the first column; columns of figures are right-aligned."""
    return _NamedRows(title, columns, [[str(cell) for cell in row] for row in rows])


def percent(value: float | None) -> str:
    """Format a share as per cent with two decimals; ``None`` as a dash."""
    return "–" if value is None else f"{100 * value:.2f} %"


def megabytes(size: int) -> str:
    """Format bytes as MB."""
    return f"{size / 1e6:.2f} MB"

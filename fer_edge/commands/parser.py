"""Argument parser with suggestions for mistyped names, and types for bounded numbers."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

from fer_edge.errors import closest


class Parser(argparse.ArgumentParser):
    """An :class:`argparse.ArgumentParser` that suggests the nearest name. Options are not abbreviated."""

    def __init__(self, **settings: Any) -> None:
        # A new option could make an existing abbreviation ambiguous.
        super().__init__(allow_abbrev=False, **settings)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            names = [str(choice) for choice in action.choices]
            raise argparse.ArgumentError(
                action, f"unknown {value!r}. Fix: choose from {', '.join(names)}{closest(str(value), names)}"
            )

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as :mod:`argparse` does, and suggest the nearest option for each unknown one."""
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            parser = self._chosen(getattr(found, "command", None))
            known = [text for action in parser._actions for text in action.option_strings]
            parser.error("; ".join(_describe(word, known) for word in unknown))
        return found

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as :mod:`argparse` does, and keep the words for suggestions."""
        self._words = args
        return super().parse_known_args(args, namespace)

    def _suggest_source(self) -> str:
        """Return the word that was meant as ``--source``: a file, camera or address in the place of a bundle or after it."""
        source = next(a for a in self._actions if "--source" in a.option_strings)
        source.required = False
        try:
            found, others = super().parse_known_args(list(self._words or ()))
        finally:
            source.required = True
        bundle = str(getattr(found, "bundle", ""))
        words = [bundle] * _is_source(bundle) + [word for word in others if not word.startswith("-")]
        return f". Fix: give --source (did you mean --source {shlex.quote(words[-1])}?)" if words else ""

    def _chosen(self, command: str | None) -> Parser:
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction) and command in action.choices:
                return action.choices[command]
        return self

    def error(self, message: str) -> NoReturn:
        """Print the usage and the message; exit with 2."""
        if message.endswith("required: --source"):
            message += self._suggest_source()
        self.print_usage()
        self.exit(2, f"{self.prog}: {message}\n")

    def print_usage(self, file: Any = None) -> None:
        """Print the usage on standard error."""
        super().print_usage(file or sys.stderr)


def _describe(word: str, known: Iterable[str]) -> str:
    if word.startswith("-"):
        return f"unknown option {word}{closest(word.partition('=')[0], known)}"
    return f"{word!r} is one argument too many"


def _is_source(word: str) -> bool:
    return (
        word.isdecimal()
        or "://" in word
        or (bool(word) and not word.endswith(".fer") and Path(word).exists())
    )


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """Return an ``add_argument(type=…)`` for whole numbers from ``least`` to ``most``."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least or (most is not None and value > most):
            raise argparse.ArgumentTypeError(
                f"must be a whole number {_range(least, most)}, found {text!r:.60}"
            )
        return value

    return read


def number(least: float, most: float | None = None) -> Callable[[str], float]:
    """Return an ``add_argument(type=…)`` for finite numbers from ``least`` to ``most``."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not (least <= value <= (float("1e300") if most is None else most)):
            raise argparse.ArgumentTypeError(f"must be a number {_range(least, most)}, found {text!r:.60}")
        return value

    return read


def offer(argument: argparse.Action, names: Callable[[], Iterable[str]]) -> None:
    """Let the shell complete the value of an argument with ``names``, called only on completion."""
    argument.completer = lambda **context: list(names())  # type: ignore[attr-defined]


def _range(least: float, most: float | None) -> str:
    return f"of at least {least:g}" if most is None else f"from {least:g} to {most:g}"

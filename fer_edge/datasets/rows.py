"""Rows of label files, and what becomes of bad ones: an error that names the line, or a counted skip."""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fer_edge.errors import DataError, UsageError, closest

#: Of the skipped rows so many are kept word for word; the rest are only counted.
LISTED = 20
ON_BAD_ROW = ("error", "skip")
_SURROGATE = re.compile("[\udc80-\udcff]")  # what "surrogateescape" makes of bytes that are no UTF-8


@dataclass(frozen=True)
class Skipped:
    """Rows that were left out because they are bad.

    Attributes
    ----------
    count : int
        All of them.
    first : tuple of str
        The first 20: file, line and what is wrong.
    """

    count: int = 0
    first: tuple[str, ...] = ()


class BadRows:
    """The user's choice about bad rows, and the account of those that were skipped.

    Raises
    ------
    UsageError
        If the choice is neither ``error`` nor ``skip``.
    """

    def __init__(self, on_bad_row: str = "error") -> None:
        if on_bad_row not in ON_BAD_ROW:
            raise UsageError(
                f"unknown on_bad_row {on_bad_row!r}: choose error or skip{closest(on_bad_row, ON_BAD_ROW)}"
            )
        self.skips = on_bad_row == "skip"
        self._count = 0
        self._first: list[str] = []

    @contextmanager
    def row(self, where: str) -> Iterator[None]:
        """Name the row in a :class:`DataError` of the body; swallow and count it where that was asked."""
        try:
            yield
        except DataError as error:
            if not self.skips:
                raise DataError(f"{where}: {error}") from error
            self.skip(f"{where}: {error}")

    def skip(self, problem: str) -> None:
        """Count one bad row."""
        self._count += 1
        if len(self._first) < LISTED:
            self._first.append(problem)

    @property
    def skipped(self) -> Skipped:
        """What was skipped so far."""
        return Skipped(self._count, tuple(self._first))


@dataclass(frozen=True)
class Row:
    """One line of a label file; ``problem`` says why it has no ``fields``."""

    where: str
    fields: list[str]
    problem: str = ""

    def columns(self, count: int) -> list[str]:
        """Return the fields.

        Raises
        ------
        DataError
            If the line could not be split, is no UTF-8 text, or has another number of fields.
        """
        if self.problem:
            raise DataError(self.problem)
        if any(not text.isascii() and _SURROGATE.search(text) for text in self.fields):
            raise DataError("not UTF-8 text")
        if len(self.fields) != count:
            raise DataError(f"expected {count} columns, found {len(self.fields)}")
        return self.fields


def open_text(path: Path) -> io.TextIOBase:
    """Open a plain or ``.gz`` text file; bytes that are no UTF-8 are kept for :meth:`Row.columns` to report."""
    if path.suffix == ".gz":
        return io.TextIOWrapper(gzip.open(path, "rb"), encoding="utf-8", errors="surrogateescape", newline="")
    return path.open(encoding="utf-8", errors="surrogateescape", newline="")


@contextmanager
def _readable(path: Path, line: list[int]) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read beyond line {line[0]} ({error}): fetch it again") from error


def csv_header(path: Path) -> tuple[str, ...]:
    """Return the first row of a CSV file."""
    with _readable(path, [0]), open_text(path) as file:
        try:
            return tuple(next(csv.reader(file), []))
        except csv.Error:
            return ()


def csv_rows(path: Path, header: Sequence[str]) -> Iterator[Row]:
    """Yield the rows of a CSV file after checking its header.

    Raises
    ------
    DataError
        If the header is another, or the file is damaged: no row after that can be trusted.
    """
    line = [0]
    with _readable(path, line), open_text(path) as file:
        reader = csv.reader(file)
        try:
            first = next(reader, [])
        except csv.Error:
            first = []
        if tuple(first) != tuple(header):
            found = ",".join(first)[:80].encode("utf-8", "replace").decode()
            raise DataError(f"{path}, line 1: expected the columns {','.join(header)}, found {found!r}")
        while True:
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                line[0] = reader.line_num
                yield Row(f"{path}, line {line[0]}", [], str(error))
                continue
            line[0] = reader.line_num
            yield Row(f"{path}, line {line[0]}", fields)


def text_rows(path: Path) -> Iterator[Row]:
    """Yield the lines of a text file, split at white space; empty lines at the end do not count."""
    with _readable(path, [0]), open_text(path) as file:
        lines = file.read().rstrip().split("\n")
    for number, line in enumerate(lines, 1):
        yield Row(f"{path}, line {number}", line.split())

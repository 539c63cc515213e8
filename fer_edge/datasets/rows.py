"""Rows of label files, and what becomes of bad ones: an error that names the line, or a counted skip."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fer_edge._utils.listing import require_file
from fer_edge.errors import DataError, UsageError, closest

#: Of the skipped rows so many are kept word for word; the rest are only counted.
LISTED = 20
ON_BAD_ROW = ("error", "skip")
SKIP_ADVICE = 'correct it, or leave bad rows out (--skip-bad of build, eval, emfacs and train; on_bad_row="skip" in Python)'
#: Of a list of images without a header. RAF-DB's has 0.4 MB.
MAX_TEXT_BYTES = 32 << 20
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


class BadRowError(DataError):
    """A row that is named, with the advice how to leave it out."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"{problem}; {SKIP_ADVICE}")


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
        except BadRowError:  # named already, by a part of the row
            raise
        except DataError as error:
            if not self.skips:
                raise BadRowError(f"{where}: {error}") from error
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
    """One row of a label file.

    Attributes
    ----------
    where : str
        File and line.
    fields : list of str
        What stands there.
    problem : str
        Why there are no ``fields``.
    width : int
        How many columns the header names; 0 where there is no header.
    places : tuple of int
        Which of them are wanted, in which order.
    """

    where: str
    fields: list[str]
    problem: str = ""
    width: int = 0
    places: tuple[int, ...] = ()

    def columns(self, count: int) -> list[str]:
        """Return the wanted fields.

        Raises
        ------
        DataError
            If the line could not be split, is no UTF-8 text, or has another number of fields.
        """
        if self.problem:
            raise DataError(self.problem)
        if any(not text.isascii() and _SURROGATE.search(text) for text in self.fields):
            raise DataError("not UTF-8 text")
        expected = self.width or count
        if len(self.fields) != expected:
            raise DataError(f"expected {expected} columns, found {len(self.fields)}")
        return [self.fields[i] for i in self.places] if self.width else self.fields

    def value(self, index: int) -> str | None:
        """Return one wanted field, ``None`` if the row has another number of fields."""
        return self.fields[self.places[index]].strip() if len(self.fields) == self.width else None


def text_rows(path: Path) -> Iterator[Row]:
    """Yield the lines of a text file, split at white space; empty lines at the end do not count.

    Raises
    ------
    DataError
        If the file cannot be read or is far larger than any list of a data set.
    """
    require_file(path)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TEXT_BYTES + 1)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}): fetch it again") from error
    if len(data) > MAX_TEXT_BYTES:
        raise DataError(f"{path} has more than {MAX_TEXT_BYTES >> 20} MiB: this is no list of images")
    text = data.decode("utf-8-sig", "surrogateescape").rstrip()
    for number, line in enumerate(text.split("\n"), 1):
        yield Row(f"{path}, line {number}", line.split())

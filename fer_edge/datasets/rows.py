"""Rows of label files; a bad row raises an error that names the line, or is skipped and counted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fer_edge._utils.listing import require_file
from fer_edge.errors import DataError, UsageError, closest, without_fix

#: Number of skipped rows whose problem is recorded; the rest are only counted.
LISTED = 20
ON_BAD_ROW = ("error", "skip")
SKIP_ADVICE = 'correct it, or leave bad rows out (--skip-bad of build, eval, emfacs and train; on_bad_row="skip" in Python)'
#: Size of a list of images without a header. That of RAF-DB has 0.4 MB.
MAX_TEXT_BYTES = 32 << 20
_SURROGATE = re.compile("[\udc80-\udcff]")  # "surrogateescape" maps invalid UTF-8 to these


@dataclass(frozen=True)
class Skipped:
    """Bad rows that were left out.

    Attributes
    ----------
    count : int
        Number of rows.
    first : tuple of str
        The first 20: file, line and problem.
    """

    count: int = 0
    first: tuple[str, ...] = ()


class BadRowError(DataError):
    """A bad row, with its file and line, and the option that leaves it out."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"{problem}. Fix: {SKIP_ADVICE}")


class BadRows:
    """Policy for bad rows, and the record of those that were skipped.

    Raises
    ------
    UsageError
        If the choice is neither ``error`` nor ``skip``.
    """

    def __init__(self, on_bad_row: str = "error") -> None:
        if on_bad_row not in ON_BAD_ROW:
            raise UsageError(
                f"unknown on_bad_row {on_bad_row!r}. Fix: choose error or skip{closest(on_bad_row, ON_BAD_ROW)}"
            )
        self.skips = on_bad_row == "skip"
        self._count = 0
        self._first: list[str] = []

    @contextmanager
    def row(self, where: str) -> Iterator[None]:
        """Add the row to a :class:`DataError` of the body, or skip and count the row."""
        try:
            yield
        except BadRowError:  # an inner block has named the row
            raise
        except DataError as error:
            problem = f"{where}: {without_fix(error)}"
            if not self.skips:
                raise BadRowError(problem) from error
            self.skip(problem)

    def skip(self, problem: str) -> None:
        """Count one bad row."""
        self._count += 1
        if len(self._first) < LISTED:
            self._first.append(problem)

    @property
    def skipped(self) -> Skipped:
        """Rows skipped so far."""
        return Skipped(self._count, tuple(self._first))


@dataclass(frozen=True)
class Row:
    """One row of a label file.

    Attributes
    ----------
    where : str
        File and line.
    fields : list of str
        Text of the fields.
    problem : str
        Reason if the line could not be split into fields.
    width : int
        Number of columns in the header; 0 without a header.
    places : tuple of int
        Indices of the requested columns, in order.
    """

    where: str
    fields: list[str]
    problem: str = ""
    width: int = 0
    places: tuple[int, ...] = ()

    def columns(self, count: int) -> list[str]:
        """Return the requested fields.

        Raises
        ------
        DataError
            If the line could not be split, is not UTF-8 text, or has another number of fields.
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
        """Return one requested field, ``None`` if the row has another number of fields."""
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
        raise DataError(
            f"{path} cannot be read ({error.strerror or error}). Fix: download it again"
        ) from error
    if len(data) > MAX_TEXT_BYTES:
        raise DataError(
            f"{path} has more than {MAX_TEXT_BYTES >> 20} MiB, too large for a list of images. Fix: give the label file of the data set"
        )
    text = data.decode("utf-8-sig", "surrogateescape").rstrip()
    for number, line in enumerate(text.split("\n"), 1):
        yield Row(f"{path}, line {number}", line.split())

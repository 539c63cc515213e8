"""CSV files, plain, ``.gz`` or in a ``.zip``, with columns that are found by name."""

from __future__ import annotations

import csv
import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from fer_edge._utils.listing import describe, is_data, list_files, shown
from fer_edge.datasets.rows import Row
from fer_edge.errors import DataError, without_fix

_TEXT_SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
_ZIP = ".zip"
_DELIMITERS = (",", ";", "\t")
#: Size of one CSV file, decompressed. FER2013 has 0.3 GB.
MAX_BYTES = 4 << 30
#: Compression ratio, beyond the first 16 MiB. That of FER2013 is 4.
MAX_GROWTH = 100
_FREE_BYTES = 16 << 20
MAX_LINES = 2_000_000
#: Consecutive blank lines.
MAX_BLANK_LINES = 10_000
#: Length of one row, over all its lines.
MAX_ROW_CHARS = 1 << 20
#: Directory of an archive with 60,000 files. In memory it takes many times its size.
_MAX_LIST_BYTES = 4 << 20
_SHOWN_CHARS = 80


@dataclass(frozen=True)
class Table:
    """A CSV file; ``member`` is its name where ``path`` is an archive."""

    path: Path
    member: str = ""

    def __str__(self) -> str:
        return f"{self.path} ({shown(self.member)})" if self.member else str(self.path)

    @property
    def name(self) -> str:
        """File name without folders."""
        return self.member.rpartition("/")[2] or self.path.name


@dataclass(frozen=True)
class Header:
    """Column names of a table, stripped and case-folded, and their delimiter."""

    table: Table
    names: tuple[str, ...]
    delimiter: str

    def find(self, *synonyms: str) -> str | None:
        """Return the column with one of these names, ``None`` if there is none.

        Raises
        ------
        DataError
            If several columns match.
        """
        found = [name for name in self.names if name in synonyms]
        if len(found) > 1:
            raise DataError(
                f"{self.table}, line 1: {len(found)} columns could be the {synonyms[0]} ({', '.join(found)}). "
                "Fix: rename all but one"
            )
        return found[0] if found else None

    def text(self) -> str:
        """Return the columns for a message."""
        return shown(",".join(self.names)[:_SHOWN_CHARS])


def is_table(path: Path) -> bool:
    """Return ``True`` if a file name is that of a CSV file or of an archive that may hold one."""
    return path.name.casefold().endswith((*_TEXT_SUFFIXES, _ZIP))


def tables_of(path: Path) -> list[Table]:
    """Return the CSV file at ``path``, or the CSV files in that archive; nested archives are not opened.

    Raises
    ------
    DataError
        If it is an archive that cannot be read.
    """
    if not path.name.casefold().endswith(_ZIP):
        return [Table(path)] if is_table(path) else []
    with _readable(str(path), None), ExitStack() as stack:
        names = _archive(path, stack).namelist()
    return [
        Table(path, name)
        for name in sorted(names)
        if name.casefold().endswith((".csv", ".tsv")) and all(map(is_data, name.split("/")))
    ]


def read_header(table: Table) -> Header:
    """Return the columns of the first line that is not blank.

    Raises
    ------
    DataError
        If the file cannot be read.
    """
    with _open_lines(table) as lines:
        return _header(table, lines)


def table_rows(table: Table, wanted: Sequence[str]) -> Iterator[Row]:
    """Yield the rows of a table; ``Row.columns`` returns the fields of ``wanted``, in that order. Blank lines are skipped.

    Raises
    ------
    DataError
        If a column is missing or occurs twice, or the file is damaged or decompresses beyond its limit, so that later
        rows cannot be trusted.
    """
    with _open_lines(table) as lines:
        header = _header(table, lines)
        folded = [name.casefold() for name in wanted]
        for name in folded:
            if header.find(name) is None:
                raise DataError(
                    f"{table}, line 1: expected the columns {','.join(wanted)}, found {header.text()!r}. "
                    "Fix: rename the columns"
                )
        places = tuple(header.names.index(name) for name in folded)
        reader = csv.reader(lines, delimiter=header.delimiter)
        while True:
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield Row(f"{table}, line {lines.number}", [], str(error))
            else:
                if any(field.strip() for field in fields):
                    yield Row(f"{table}, line {lines.number}", fields, width=len(header.names), places=places)
            lines.row_chars = 0


def find_tables(folder: Path, accepts: Callable[[Header], bool]) -> list[Table]:
    """Return the tables in ``folder`` whose header is accepted; archives are opened only if no plain file matches.

    Files that cannot be read are ignored here; :func:`describe_tables` names them.
    """
    paths = list_files(folder, (*_TEXT_SUFFIXES, _ZIP))
    for archives in (False, True):
        found: list[Table] = []
        for path in paths:
            if path.name.casefold().endswith(_ZIP) is archives:
                found += accepted_tables(path, accepts, strict=False)
        if found:
            return found
    return []


def accepted_tables(path: Path, accepts: Callable[[Header], bool], *, strict: bool = True) -> list[Table]:
    """Return the tables of a file whose header is accepted; an unreadable file raises if ``strict``."""
    found = []
    try:
        for table in tables_of(path):
            if accepts(read_header(table)):
                found.append(table)
    except DataError:
        if strict:
            raise
    return found


def only_one(tables: Sequence[Table], where: Path) -> Table | None:
    """Return the only table, ``None`` without tables.

    Raises
    ------
    DataError
        If there are several.
    """
    if len(tables) > 1:
        names = ", ".join(str(table) for table in tables[:5])
        advice = "unpack, and name" if any(table.member for table in tables) else "name"
        raise DataError(f"{where} holds {len(tables)} matching tables. Fix: {advice} one of {names}")
    return tables[0] if tables else None


def describe_tables(path: Path) -> str:
    """Return a description of the files at ``path``, and the columns of its first tables."""
    text = describe(path)
    try:
        paths = list_files(path, (*_TEXT_SUFFIXES, _ZIP)) if path.is_dir() else (path,)
        for file in paths[:3]:
            if path.is_dir() or is_table(file):
                tables = tables_of(file)
                headers = [f"{t.name} with the columns {read_header(t).text()!r}" for t in tables[:3]]
                text += "; " + (", ".join(headers) or f"no CSV file in {shown(file.name)}")
    except DataError as error:
        text += f"; {without_fix(error)}"
    return text


class _Lines:
    """Lines of a text file, of bounded length and number; the caller sets ``row_chars`` to 0 after each row."""

    def __init__(self, file: io.TextIOBase, table: Table) -> None:
        self._file, self._table = file, table
        self.number = self.row_chars = self._blank = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._file.readline(MAX_ROW_CHARS + 1)
        if not line:
            raise StopIteration
        self.number += 1
        self.row_chars += len(line)
        if self.row_chars > MAX_ROW_CHARS:
            raise DataError(
                f"{self._table}, line {self.number}: a row has more than {MAX_ROW_CHARS:,} characters. "
                "Fix: add the missing quotation mark or line end"
            )
        self._blank = self._blank + 1 if line.isspace() else 0
        if self.number > MAX_LINES or self._blank > MAX_BLANK_LINES:
            raise DataError(
                f"{self._table}, line {self.number}: expected at most {MAX_LINES:,} lines, and {MAX_BLANK_LINES:,} "
                "consecutive blank lines. Fix: give the label file of the data set"
            )
        return line


def _header(table: Table, lines: _Lines) -> Header:
    for line in lines:
        if line.strip():
            break
    else:
        return Header(table, (), ",")
    lines.row_chars = 0
    best: list[str] = []
    chosen = ","
    for delimiter in _DELIMITERS:
        try:
            fields = next(csv.reader([line], delimiter=delimiter), [])
        except csv.Error:
            continue
        if len(fields) > len(best):
            best, chosen = fields, delimiter
    return Header(table, tuple(" ".join(field.split()).casefold() for field in best), chosen)


@contextmanager
def _open_lines(table: Table) -> Iterator[_Lines]:
    lines: list[_Lines] = []
    with _readable(str(table), lines), ExitStack() as stack:
        size = table.path.stat().st_size
        if table.member:
            archive = _archive(table.path, stack)
            info = archive.getinfo(table.member)
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise DataError(f"{table} is compressed by an unsupported method. Fix: unpack it")
            size = min(size, info.compress_size)
            _refuse_growth(table, info.file_size, size)
            stream: IO[bytes] | Any = stack.enter_context(archive.open(info))
        elif table.path.suffix.casefold() == ".gz":
            stream = stack.enter_context(gzip.open(table.path, "rb"))
        else:
            size = MAX_BYTES
            stream = stack.enter_context(table.path.open("rb"))
        counted = io.BufferedReader(_Counted(stream, table, size), 1 << 16)
        # Invalid UTF-8 is kept, so that Row.columns can report its line.
        text = io.TextIOWrapper(counted, encoding="utf-8-sig", errors="surrogateescape", newline="")
        lines.append(_Lines(text, table))
        yield lines[0]


@contextmanager
def _readable(what: str, lines: list[_Lines] | None) -> Iterator[None]:
    try:
        yield
    # The errors that zipfile raises for damaged or encrypted archives are not documented.
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, struct.error, ValueError, LookupError,
            RuntimeError, OverflowError) as error:  # fmt: skip
        beyond = f" beyond line {lines[0].number if lines else 0}" if lines is not None else ""
        raise DataError(f"{what} cannot be read{beyond} ({error}). Fix: download it again") from error


class _Counted(io.RawIOBase):
    """A stream whose decompressed size is limited."""

    def __init__(self, stream: Any, table: Table, compressed_bytes: int) -> None:
        super().__init__()
        self._stream, self._table, self._size = stream, table, compressed_bytes
        self._read = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        self._read += len(data)
        _refuse_growth(self._table, self._read, self._size)
        buffer[: len(data)] = data
        return len(data)


def _refuse_growth(table: Table, size: int, compressed: int) -> None:
    most = min(MAX_BYTES, max(_FREE_BYTES, MAX_GROWTH * compressed))
    if size > most:
        raise DataError(
            f"{table} decompresses to more than {most >> 20} MiB, expected about 290 MiB as FER2013, at a ratio of 4. "
            "Fix: give the label file of the data set"
        )


def _archive(path: Path, stack: ExitStack) -> zipfile.ZipFile:
    file = stack.enter_context(path.open("rb"))
    return stack.enter_context(zipfile.ZipFile(_ShortReads(file, path)))


class _ShortReads:
    """A file whose single reads are limited, since ``zipfile`` reads an archive directory of any length at once."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file, self._path = file, path

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(_MAX_LIST_BYTES + 1 if size < 0 else min(size, _MAX_LIST_BYTES + 1))
        if len(data) > _MAX_LIST_BYTES:
            raise DataError(f"{self._path} holds too many files. Fix: unpack it and give the folder")
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

"""CSV files and archives that would exhaust memory or never end."""

from __future__ import annotations

import csv
import gzip
import io
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from fer_edge.datasets import load_dataset, tables
from fer_edge.datasets.tables import Table, read_header, table_rows
from fer_edge.errors import DataError

HEADER = b"emotion,pixels,Usage\n"


def gz(data: bytes) -> bytes:
    return gzip.compress(data, 9)


def zipped(data: bytes, name: str = "fer2013.csv", method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr(name, data)
    return buffer.getvalue()


def claiming(size: int) -> bytes:
    """A zip whose directory declares ``size`` bytes for its file."""
    data = bytearray(zipped(HEADER * 1000))
    place = data.index(b"PK\1\2")
    data[place + 24 : place + 28] = struct.pack("<I", size)
    return bytes(data)


def many_files(count: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a" * 200, b"")
        archive.filelist *= count
    return buffer.getvalue()


BOMB = HEADER + b"0," + b"0 " * 2303 + b"0,Training\n"
HOSTILE: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "gz of equal rows": ("a.csv.gz", lambda: gz(HEADER + (b"0," + b"0 " * 2303 + b"0,T\n") * 5_000), "decompresses to more"),
    "gz of blank lines": ("a.csv.gz", lambda: gz(HEADER + b"\n" * (17 << 20)), "consecutive blank lines"),
    "zip of blank lines": ("a.zip", lambda: zipped(HEADER + b"\n" * (17 << 20)), "decompresses to more"),
    "zip that claims 4 GiB": ("a.zip", lambda: claiming(0xFFFFFFFE), "decompresses to more"),
    "zip of 30,000 long names": ("a.zip", lambda: many_files(30_000), "holds too many files"),
    "LZMA, whose dictionary may have 4 GiB": ("a.zip", lambda: zipped(BOMB, method=zipfile.ZIP_LZMA), "unsupported method"),
    "one line": ("a.csv", lambda: HEADER + b"0" * (9 << 20), "a row has more than 1,048,576 characters"),
    "a header without end": ("a.csv", lambda: b"emotion," * (1 << 20), "a row has more than"),
    "a quotation mark without end": ("a.csv", lambda: HEADER + b'x","y\n' * 400_000, "a row has more than"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_it_is_refused_before_it_fills_the_memory(tmp_path: Path, name: str) -> None:
    file, make, problem = HOSTILE[name]
    path = tmp_path / file
    path.write_bytes(make())
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=problem):
            load_dataset(path, on_bad_row="skip")
        assert tracemalloc.get_traced_memory()[1] < 128 << 20
    finally:
        tracemalloc.stop()


def test_a_file_that_grows_as_text_does_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_FREE_BYTES", 0)
    data = b"image,emotion\n" + b"".join(b"%d.png,sad\n" % i for i in range(5000))
    for name, content in (("a.csv", data), ("a.csv.gz", gz(data)), ("a.zip", zipped(data, "a.csv"))):
        (tmp_path / name).write_bytes(content)
        (table,) = tables.tables_of(tmp_path / name)
        rows = [row.columns(2) for row in table_rows(table, ("emotion", "image"))]
        assert rows == [["sad", f"{i}.png"] for i in range(5000)]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_rows_are_those_of_the_csv_module(tmp_path: Path, delimiter: str) -> None:
    """Quoted delimiters, quotation marks and line ends; the reference is written by Python."""
    expected = [["a,b;c\td", 'say "x"'], ["two\nlines", ""], ["", "é"]]
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows(
            [["Index", " First  Name", "LAST"], *([str(i), *row] for i, row in enumerate(expected))]
        )
    table = Table(tmp_path / "a.csv")
    assert read_header(table).names == ("index", "first name", "last")
    rows = list(table_rows(table, ("First Name", "last")))
    assert [row.columns(2) for row in rows] == expected
    assert [row.where.rpartition(" ")[2] for row in rows] == ["2", "4", "5"]


def test_an_encrypted_archive_is_named(tmp_path: Path) -> None:
    data = bytearray(zipped(HEADER))
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.index(signature) + offset] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(DataError, match=r"a\.zip .*cannot be read.*encrypted"):
        load_dataset(tmp_path / "a.zip")

"""Atomic writes of files and folders."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from fer_edge._utils.files import cache_folder, sha256_of, whole_file, whole_folder, write_json


@pytest.mark.parametrize("data", [b"", b"abc", bytes(range(256)) * 8192 + b"x"], ids=len)
def test_sha256(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a").write_bytes(data)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(data).hexdigest()


def test_whole_file_appears_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.mp4"
    with whole_file(path) as part:
        part.write_text("x")
        assert not path.exists()
        assert part.suffix == ".mp4"
    assert path.read_text() == "x"
    assert list(path.parent.iterdir()) == [path]


def test_failed_file_keeps_the_old(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), whole_file(path) as part:
        part.with_name("missing").rename(part)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_do_not_share_a_part(tmp_path: Path) -> None:
    with whole_file(tmp_path / "a") as first, whole_file(tmp_path / "a") as second:
        assert first != second
        first.write_text("1")
        second.write_text("2")
    with whole_folder(tmp_path / "b") as one, whole_folder(tmp_path / "b") as two:
        assert one != two
        (one / "x").write_text("1")
        (two / "x").write_text("2")
    # The context managers close in reverse: the first to open is the last to rename.
    assert (tmp_path / "a").read_text() == (tmp_path / "b" / "x").read_text() == "1"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_whole_folder_replaces_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.mkdir()
    (path / "old").write_text("")
    with whole_folder(path) as part:
        (part / "new").write_text("")
        assert (path / "old").exists()
    assert [p.name for p in path.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_placed_leaves_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("a file")
    with pytest.raises(OSError, match="Not a directory"), whole_folder(path):
        pass
    assert path.read_text() == "a file"
    assert list(tmp_path.iterdir()) == [path]


def test_write_json(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"ü": [1, None]})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"ü": [1, None]}
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", float("nan"))
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    monkeypatch.delenv("FER_EDGE_CACHE", raising=False)
    assert cache_folder() == Path("/x/fer-edge")
    monkeypatch.setenv("FER_EDGE_CACHE", "/y")
    assert cache_folder() == Path("/y")

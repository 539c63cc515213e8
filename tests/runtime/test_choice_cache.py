"""Cached measurements are read back unchanged, and never if damaged or writable by another user."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fer_edge.runtime.choice import Candidate, Choice
from fer_edge.runtime.choice_cache import ChoiceCache, Tuning
from fer_edge.runtime.timing import Timing

KEY = {"bundle": "abc"}
PLAIN, FAST = Candidate("openvino", "int8"), Candidate("onnxruntime", "fp32", 1, 1)
CANDIDATES = (PLAIN, FAST)
TUNING = Tuning(
    Choice("onnxruntime", "fp32", 1, 1, "measured", "it is faster", 2.0, 4.0),
    (Timing(PLAIN, "measured", "", 4.0, 16.0, 9), Timing(FAST, "measured", "", 2.0, 8.0, 9)),
    "2026-11-27T12:00:00+00:00",
)


@pytest.fixture
def cache(tmp_path: Path) -> ChoiceCache:
    return ChoiceCache(tmp_path / "tune")


def test_what_was_written_is_read(cache: ChoiceCache, caplog: pytest.LogCaptureFixture) -> None:
    assert cache.read(KEY, CANDIDATES) is None
    path = cache.write(KEY, TUNING)
    assert path == cache.path_of(KEY)
    assert path is not None
    assert path.stat().st_mode & 0o777 == 0o600
    found = cache.read(KEY, CANDIDATES)
    assert found is not None
    assert (found.choice, found.timings, found.date, found.path) == (
        TUNING.choice,
        TUNING.timings,
        TUNING.date,
        path,
    )
    assert cache.read({"bundle": "abd"}, CANDIDATES) is None
    assert caplog.messages == []


def change(*keys: str | int, to: Any) -> Callable[[Any], Any]:
    def apply(value: Any) -> Any:
        inner = value
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = to
        return value

    return apply


@pytest.mark.parametrize(
    "damage",
    [
        change("schema", to=2),
        change("choice", "backend", to="tensorrt"),
        change("choice", "threads", to=1000),
        change("choice", "precision", to=["int8"]),
        change("choice", "by", to="asked"),
        change("choice", "because", to="\x1b[2J"),
        change("choice", "face_ms", to="fast"),
        change("choice", "extra", to=1),
        change("choice", to=None),
        change("date", to=7),
        change("timings", to=[]),
        change("timings", to=[{}] * 1000),
        change("timings", 0, "n", to=-1),
        change("timings", 0, "one_face_ms", to=-1),
        change("timings", 0, "state", to="won"),
        change("timings", 0, "reason", to="x" * 9999),
        change("timings", 0, "candidate", to=3),
        lambda value: [value],
        lambda value: None,
    ],
)
def test_a_damaged_file_is_not_used(
    cache: ChoiceCache, damage: Callable[[Any], Any], caplog: pytest.LogCaptureFixture
) -> None:
    path = cache.write(KEY, TUNING)
    assert path is not None
    path.write_text(json.dumps(damage(json.loads(path.read_text()))))
    assert cache.read(KEY, CANDIDATES) is None
    assert "is damaged and is repeated" in caplog.text
    assert cache.write(KEY, TUNING) == path
    assert cache.read(KEY, CANDIDATES) is not None


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[" * 200_000, b" " * (1 << 20), b'{"schema": NaN}']
)
def test_what_is_no_json_is_not_used(cache: ChoiceCache, content: bytes) -> None:
    cache.write(KEY, TUNING)
    cache.path_of(KEY).write_bytes(content)
    assert cache.read(KEY, CANDIDATES) is None


@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_others_can_write_is_not_used(
    cache: ChoiceCache, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = cache.write(KEY, TUNING)
    assert path is not None
    (path if what == "file" else cache.folder).chmod(0o777)
    assert cache.read(KEY, CANDIDATES) is None
    assert "can be written by every user" in caplog.text
    if what == "folder":
        assert cache.write(KEY, TUNING) is None


def test_a_folder_or_a_link_in_its_place(cache: ChoiceCache, caplog: pytest.LogCaptureFixture) -> None:
    path = cache.path_of(KEY)
    path.mkdir(parents=True)
    assert cache.read(KEY, CANDIDATES) is None
    path.rmdir()
    path.symlink_to(path)
    assert cache.read(KEY, CANDIDATES) is None
    assert caplog.text.count("cannot be read and is repeated") == 2


def test_a_folder_that_cannot_be_made(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    cache = ChoiceCache(tmp_path / "file" / "tune")
    assert cache.read(KEY, CANDIDATES) is None
    with cache.locked():
        assert cache.write(KEY, TUNING) is None
    assert len(caplog.messages) == 1
    assert "the measurement cannot be saved and is repeated at each start" in caplog.text


def test_the_oldest_are_deleted(cache: ChoiceCache) -> None:
    for i in range(70):
        path = cache.write({"bundle": i}, TUNING)
        assert path is not None
        os.utime(path, (i, i))
    assert len(list(cache.folder.glob("*.json"))) == 64
    assert cache.read({"bundle": 69}, CANDIDATES) is not None

"""Choices that were measured, kept by content in the cache folder.

A file holds figures, not code. Yet it decides what computes, so it is read only where nobody but this user and root
can write, and what it names must be one of the candidates of the moment.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fer_edge._utils.checks import is_number, is_text
from fer_edge._utils.files import cache_folder, file_lock, write_json
from fer_edge._utils.ownership import PRIVATE_FILE, make_private_folder, require_private
from fer_edge.errors import EngineError
from fer_edge.runtime.choice import Candidate, Choice
from fer_edge.runtime.timing import Timing

_LOG = logging.getLogger(__name__)
_SCHEMA = 1
_LIMIT_BYTES = 256 << 10
_MAX_TIMINGS = 256
_MAX_FILES = 64
_LONGEST = 2000
_MAX_CALLS = 10**6
_MAX_MS = 1e9
_LOCK = ".lock"
#: Where nothing can be written.
_NOWHERE = Path(os.devnull) / "tune"
_STATES = ("measured", "dropped", "left out")


@dataclass(frozen=True)
class Tuning:
    """A measurement and the choice that it led to.

    Attributes
    ----------
    choice : Choice
        What runs.
    timings : tuple of Timing
        Of all candidates, the plain choice first.
    date : str
        When it was measured, as ISO 8601 in UTC.
    path : Path or None
        The file that keeps it; ``None`` where it could not be kept.
    measured_now : bool
        Whether it was measured by this call.
    """

    choice: Choice
    timings: tuple[Timing, ...]
    date: str
    path: Path | None = None
    measured_now: bool = False


class ChoiceCache:
    """A folder of measurements that processes share.

    Parameters
    ----------
    folder : Path, optional
        ``tune`` in the cache folder unless given.
    wait_limit_s : float
        How long to wait for another process that measures.
    """

    def __init__(self, folder: Path | None = None, wait_limit_s: float = 120.0) -> None:
        # Without links: whoever can change one must not lead from a folder that was checked to another.
        self.folder = Path(os.path.realpath(_own_folder() if folder is None else folder))
        self._wait_limit_s = wait_limit_s

    def path_of(self, key: Mapping[str, Any]) -> Path:
        """Return the file of a key."""
        text = json.dumps(key, sort_keys=True, default=str)
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()}.json"

    def read(
        self, key: Mapping[str, Any], candidates: Collection[Candidate], level: int = logging.WARNING
    ) -> Tuning | None:
        """Return what is kept for ``key``; ``None``, and a message of ``level``, where it cannot be used."""
        path = self.path_of(key)
        try:
            if not os.path.lexists(path):
                return None
            require_private(path)
            if not path.is_file():  # opening a pipe would wait for ever
                raise OSError(f"{path} is no file")
            with path.open("rb") as file:
                content = file.read(_LIMIT_BYTES + 1)
            if len(content) > _LIMIT_BYTES:
                raise ValueError(f"it is larger than {_LIMIT_BYTES} bytes")
            return _parse(json.loads(content), path, candidates)
        except (OSError, EngineError) as error:
            _LOG.log(level, "the measurement in %s cannot be read and is made again: %s", path, error)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            _LOG.log(level, "the measurement in %s is damaged and is made again: %s", path, str(error)[:200])
        return None

    def write(self, key: Mapping[str, Any], tuning: Tuning) -> Path | None:
        """Keep a measurement and return its file; ``None``, and a warning, where that is impossible."""
        path = self.path_of(key)
        try:
            make_private_folder(self.folder)
            require_private(self.folder)
            value = {
                "schema": _SCHEMA,
                "key": json.loads(json.dumps(key, default=str)),
                "date": tuning.date,
                "choice": tuning.choice.to_dict(),
                "timings": [timing.to_dict() for timing in tuning.timings],
            }
            write_json(path, value, PRIVATE_FILE)
            self._evict()
        except (OSError, EngineError) as error:
            _LOG.warning("the measurement cannot be kept and is made at each start: %s", error)
            return None
        return path

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Measure while no other process of this user does, as far as the folder can be written.

        Whoever has waited for too long measures all the same.
        """
        lock = file_lock(self.folder / _LOCK)
        with contextlib.suppress(
            OSError
        ):  # too late, or a folder without locks: writing the measurement tells of it
            make_private_folder(self.folder)
            lock.acquire(self._wait_limit_s)
        try:
            yield
        finally:
            lock.release()

    def _evict(self) -> None:
        """Delete the oldest measurements beyond a number: versions and bundles change."""
        files = []
        for path in self.folder.glob("*.json"):
            with contextlib.suppress(OSError):
                files.append((path.stat().st_mtime, path))
        for _, path in sorted(files, reverse=True)[_MAX_FILES:]:
            path.unlink(missing_ok=True)


def _own_folder() -> Path:
    try:
        return cache_folder() / "tune"
    except RuntimeError:  # this user has no home, as in some containers
        return _NOWHERE


def _parse(value: Any, path: Path, candidates: Collection[Candidate]) -> Tuning:
    """Return what a file holds; :class:`ValueError` and its like name the fault."""
    if not isinstance(value, dict) or value.get("schema") != _SCHEMA:
        raise ValueError(f"it has another schema than {_SCHEMA}")
    choice = Choice(**value["choice"])
    numbers = (choice.max_batch, *(() if choice.threads is None else (choice.threads,)))
    if not all(type(n) is int for n in numbers):  # 64.0 and True equal numbers that are right
        raise ValueError("threads and max_batch must be whole numbers")
    if choice.candidate not in candidates or choice.by != "measured":
        raise ValueError("it names a choice that is none here")
    if not is_text(choice.because, _LONGEST) or not is_text(value["date"], _LONGEST):
        raise ValueError("because and date must be text")
    if not all(map(_is_time, (choice.face_ms, choice.plain_face_ms))):
        raise ValueError("times must be milliseconds or null")
    if not isinstance(value["timings"], list) or len(value["timings"]) > _MAX_TIMINGS:
        raise ValueError(f"timings must be a list of at most {_MAX_TIMINGS}")
    timings = tuple(map(_parse_timing, value["timings"]))
    if {timing.candidate for timing in timings} != set(candidates):
        raise ValueError("its candidates are others than those here")
    return Tuning(choice, timings, value["date"], path)


def _parse_timing(value: Mapping[str, Any]) -> Timing:
    fields = {name: item for name, item in value.items() if name != "face_ms"}
    timing = Timing(**{**fields, "candidate": Candidate(**value["candidate"])})
    if timing.state not in _STATES or not isinstance(timing.reason, str) or len(timing.reason) > _LONGEST:
        raise ValueError("a timing has an unknown state")
    if not all(map(_is_time, (timing.one_face_ms, timing.four_faces_ms))):
        raise ValueError("times must be milliseconds or null")
    if type(timing.n) is not int or not 0 <= timing.n <= _MAX_CALLS:
        raise ValueError("n must be a number of calls")
    return timing


def _is_time(value: Any) -> bool:
    return value is None or (is_number(value) and math.isfinite(value) and 0 <= value <= _MAX_MS)

"""Content-addressed cache of measured choices.

A file holds measurements, not code. Yet it determines the backend, so it is read only if nobody but this user and root
can write it, and its choice must be one of the current candidates.
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
#: A path that cannot be written.
_NOWHERE = Path(os.devnull) / "tune"
_STATES = ("measured", "dropped", "left out")


@dataclass(frozen=True)
class Tuning:
    """A measurement and the resulting choice.

    Attributes
    ----------
    choice : Choice
        Resulting choice.
    timings : tuple of Timing
        Timings of all candidates, the plain choice first.
    date : str
        Time of the measurement, as ISO 8601 in UTC.
    path : Path or None
        Cache file; ``None`` if it could not be written, or the measurement was disturbed.
    measured_now : bool
        Whether it was measured by this call.
    disturbed_by : str
        Cause that disturbed the measurement, which is not kept then; empty if there is none.
    """

    choice: Choice
    timings: tuple[Timing, ...]
    date: str
    path: Path | None = None
    measured_now: bool = False
    disturbed_by: str = ""


class ChoiceCache:
    """A folder of measurements, shared by processes.

    Parameters
    ----------
    folder : Path, optional
        Default: ``tune`` in the cache folder.
    wait_limit_s : float
        Time limit to wait for another process that measures.
    """

    def __init__(self, folder: Path | None = None, wait_limit_s: float = 120.0) -> None:
        # Resolved, so that a changed link cannot redirect from a checked folder to another.
        self.folder = Path(os.path.realpath(_own_folder() if folder is None else folder))
        self._wait_limit_s = wait_limit_s

    def path_of(self, key: Mapping[str, Any]) -> Path:
        """Return the file of a key."""
        text = json.dumps(key, sort_keys=True, default=str)
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()}.json"

    def read(
        self, key: Mapping[str, Any], candidates: Collection[Candidate], level: int = logging.WARNING
    ) -> Tuning | None:
        """Return the measurement of ``key``; ``None``, with a log message of ``level``, if it cannot be used."""
        path = self.path_of(key)
        try:
            if not os.path.lexists(path):
                return None
            require_private(path)
            if not path.is_file():  # opening a pipe would block
                raise OSError("expected a regular file")
            with path.open("rb") as file:
                content = file.read(_LIMIT_BYTES + 1)
            if len(content) > _LIMIT_BYTES:
                raise ValueError(f"expected at most {_LIMIT_BYTES} bytes")
            return _parse(json.loads(content), path, candidates)
        except (OSError, EngineError) as error:
            _LOG.log(level, "the measurement in %s cannot be read and is repeated: %s", path, error)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            _LOG.log(level, "the measurement in %s is damaged and is repeated: %s", path, str(error)[:200])
        return None

    def write(self, key: Mapping[str, Any], tuning: Tuning) -> Path | None:
        """Write a measurement and return its file; ``None``, with a warning, if that fails."""
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
            _LOG.warning("the measurement cannot be saved and is repeated at each start: %s", error)
            return None
        return path

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of measurements, if the folder is writable.

        After the time limit the measurement proceeds without the lock.
        """
        lock = file_lock(self.folder / _LOCK)
        # OSError: time limit, or a folder without locks, which writing the measurement reports.
        with contextlib.suppress(OSError):
            make_private_folder(self.folder)
            lock.acquire(self._wait_limit_s)
        try:
            yield
        finally:
            lock.release()

    def _evict(self) -> None:
        """Delete the oldest measurements above a maximum number, because versions and bundles change."""
        files = []
        for path in self.folder.glob("*.json"):
            with contextlib.suppress(OSError):
                files.append((path.stat().st_mtime, path))
        for _, path in sorted(files, reverse=True)[_MAX_FILES:]:
            path.unlink(missing_ok=True)


def _own_folder() -> Path:
    try:
        return cache_folder() / "tune"
    except RuntimeError:  # the user has no home folder, as in some containers
        return _NOWHERE


def _parse(value: Any, path: Path, candidates: Collection[Candidate]) -> Tuning:
    """Return the content of a file; raise :class:`ValueError` or a similar error for an invalid one."""
    if not isinstance(value, dict) or value.get("schema") != _SCHEMA:
        raise ValueError(f"expected schema {_SCHEMA}")
    choice = Choice(**value["choice"])
    numbers = (choice.max_batch, *(() if choice.threads is None else (choice.threads,)))
    if not all(type(n) is int for n in numbers):  # 64.0 and True compare equal to valid integers
        raise ValueError("threads and max_batch must be whole numbers")
    if choice.candidate not in candidates or choice.by != "measured":
        raise ValueError("its choice is not a candidate here")
    if not is_text(choice.because, _LONGEST) or not is_text(value["date"], _LONGEST):
        raise ValueError("because and date must be text")
    if not all(map(_is_time, (choice.face_ms, choice.plain_face_ms))):
        raise ValueError("times must be milliseconds or null")
    if not isinstance(value["timings"], list) or len(value["timings"]) > _MAX_TIMINGS:
        raise ValueError(f"timings must be a list of at most {_MAX_TIMINGS}")
    timings = tuple(map(_parse_timing, value["timings"]))
    if {timing.candidate for timing in timings} != set(candidates):
        raise ValueError("its candidates differ from those here")
    return Tuning(choice, timings, value["date"], path)


def _parse_timing(value: Mapping[str, Any]) -> Timing:
    fields = {name: item for name, item in value.items() if name != "face_ms"}
    timing = Timing(**{**fields, "candidate": Candidate(**value["candidate"])})
    if timing.state not in _STATES or not isinstance(timing.reason, str) or len(timing.reason) > _LONGEST:
        raise ValueError("a timing has an unknown state")
    if not all(map(_is_time, (timing.one_face_ms, timing.four_faces_ms, timing.spread))):
        raise ValueError("times must be milliseconds or null")
    if type(timing.n) is not int or not 0 <= timing.n <= _MAX_CALLS:
        raise ValueError("n must be a number of calls")
    return timing


def _is_time(value: Any) -> bool:
    return value is None or (is_number(value) and math.isfinite(value) and 0 <= value <= _MAX_MS)

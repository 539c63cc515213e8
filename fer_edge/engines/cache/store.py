"""Content-addressed engine cache. An engine is loaded only if its header matches the key and its size and SHA-256.

The header is written after the engine and checked before the engine is deserialised. A sha256 shows integrity, not
authenticity: any user who can write to the folder can place an engine and a header there, and an engine is code. So
engines are loaded only from a folder that nobody but this user and root can change.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from fer_edge._utils.files import cache_folder, file_lock, whole_file
from fer_edge._utils.ownership import PRIVATE_FILE, make_private_folder, require_private
from fer_edge.engines.cache.header import (
    EngineHeader,
    find_damage,
    read_header,
    write_header,
)
from fer_edge.engines.cache.key import EngineKey, count_differences, describe_difference
from fer_edge.errors import EngineError

_ENTRY_NAME = re.compile(r"\.?([0-9a-f]{64})\..+")
_GRACE_S = 600.0  # callers open the returned path within this time
_MAX_HEADERS = 256

#: Called with (reason of the wait, seconds waited, limit in seconds).
OnWait = Callable[[str, int, int], None]


@dataclass(frozen=True)
class CachedEngine:
    """A complete engine.

    Attributes
    ----------
    path : Path
        The file. It may be evicted ten minutes after its last use, so open it soon.
    sha256 : str
        Hash of the file when it was checked; the reader compares it again.
    built : bool
        Whether it was built by this call.
    rebuilt_because : str or None
        Reason why an existing engine could not be used.
    """

    path: Path
    sha256: str
    built: bool = False
    rebuilt_because: str | None = None


class EngineCache:
    """A folder of engines that processes share.

    Parameters
    ----------
    folder : Path, optional
        Folder for new engines; default ``engines`` in the cache folder.
    also : sequence of Path
        Read-only folders, such as ``engines`` of a bundle; searched first.
    accepts : callable
        Called with the path and sha256 of an engine in those folders; returns whether it may be used.
    size_limit_bytes : int
        Least recently used engines are deleted above this size.
    wait_limit_s : float
        Time limit to wait for another process that builds the same engine.
    """

    def __init__(
        self,
        folder: Path | None = None,
        also: Sequence[Path] = (),
        accepts: Callable[[Path, str], bool] = lambda engine, sha256: True,
        size_limit_bytes: int = 4 << 30,
        wait_limit_s: float = 3600.0,
    ) -> None:
        # Resolved, so that a changed link cannot redirect from a checked folder to another.
        self.folder = Path(os.path.realpath(cache_folder() / "engines" if folder is None else folder))
        self._places, self._accepts = (*also, self.folder), accepts
        self._size_limit_bytes = size_limit_bytes
        self._wait_limit_s = wait_limit_s

    def find(self, key: EngineKey) -> CachedEngine | None:
        """Return the engine of ``key``, ``None`` if there is no complete one.

        Raises
        ------
        EngineError
            If another user could have written it.
        """
        return self._look(key)[0]

    def get_or_build(
        self,
        key: EngineKey,
        build: Callable[[Path], None],
        on_wait: OnWait = lambda what, waited_s, limit_s: None,
    ) -> CachedEngine:
        """Return the engine of ``key``; build it if there is no complete one.

        Of several concurrent processes, one builds and the others wait. If it dies, the next one builds.

        Parameters
        ----------
        key : EngineKey
            Key of the engine.
        build : callable
            Called with the path of the file to write.
        on_wait : callable
            Called while another process builds.

        Raises
        ------
        EngineError
            If the folder cannot be written, other users can write to it, the wait exceeds its limit, or ``build``
            wrote nothing. Errors of ``build`` are passed on, an :class:`OSError` as :class:`EngineError`, and leave
            no files behind.
        """
        found, _ = self._look(key)
        if found is not None:
            return found
        digest = key.digest()
        try:
            make_private_folder(self.folder)
            require_private(self.folder)
            with self._locked(digest, on_wait):
                found, damage = self._look(key)  # another process may have built it meanwhile
                if found is not None:
                    return found
                reason = damage or self._explain(key)
                path, header = self._build(key, build)
                with suppress(OSError):  # of other entries, which may belong to another user
                    self._evict(keep=digest)
        except OSError as error:
            raise EngineError(
                f"engines cannot be written to {self.folder} ({error.strerror or error}). "
                "Fix: set FER_EDGE_CACHE to a writable folder with free space"
            ) from error
        return CachedEngine(path, header.sha256, built=True, rebuilt_because=reason)

    def _look(self, key: EngineKey) -> tuple[CachedEngine | None, str | None]:
        """Return the engine if it is complete, else the reason why the existing one cannot be used."""
        digest = key.digest()
        damage = None
        for place in self._places:
            engine, header_path = place / f"{digest}.engine", place / f"{digest}.json"
            if not (os.path.lexists(engine) or os.path.lexists(header_path)):
                continue
            if place == self.folder:
                require_private(header_path)
                require_private(engine)
            with suppress(OSError):  # a read-only folder keeps no time of use
                os.utime(header_path, follow_symlinks=False)
            header = read_header(header_path)
            if header is None:
                damage = "the engine has no valid header, because its build was interrupted or the file was changed"
            elif header.key.digest() != digest:
                damage = (
                    f"the engine has the file name of another one: {describe_difference(header.key, key)}"
                )
            else:
                damage = find_damage(header, engine)
                if damage is None and (place == self.folder or self._accepts(engine, header.sha256)):
                    return CachedEngine(engine, header.sha256), None
        return None, damage

    def _explain(self, key: EngineKey) -> str | None:
        """Return the differences to the nearest engine of the same model, ``None`` if there is none."""
        paths = (path for place in self._places for path in place.glob("*.json"))
        headers = filter(None, map(read_header, islice(paths, _MAX_HEADERS)))
        keys = [header.key for header in headers if header.key.onnx_sha256 == key.onnx_sha256]
        nearest = min(keys, key=lambda other: count_differences(other, key), default=None)
        return None if nearest is None else describe_difference(nearest, key)

    def _build(self, key: EngineKey, build: Callable[[Path], None]) -> tuple[Path, EngineHeader]:
        digest = key.digest()
        engine, header_path = self.folder / f"{digest}.engine", self.folder / f"{digest}.json"
        # The lock is held, so no live process writes these. The header is deleted first, because it validates the engine.
        for path in (header_path, engine, *self.folder.glob(f".{digest}.*.part.*")):
            _delete(path)
        with whole_file(engine, PRIVATE_FILE) as part:
            build(part)
            if not part.is_file() or not part.stat().st_size:
                raise EngineError(
                    f"the builder returned without writing an engine to {part}. Fix: report this with the output of fer-edge doctor"
                )
            with part.open("rb") as file:
                os.fsync(file.fileno())  # otherwise a power failure may keep the header and lose the engine
        return engine, write_header(header_path, key, engine, PRIVATE_FILE)

    @contextmanager
    def _locked(self, digest: str, on_wait: OnWait) -> Iterator[None]:
        """Hold the lock of one engine, which the kernel releases if the process dies."""
        path, started_s = self._lock_path(digest), time.monotonic()

        def wait() -> bool:
            waited_s = int(time.monotonic() - started_s)
            on_wait(f"{_holder(path)} is building this engine", waited_s, int(self._wait_limit_s))
            return False

        lock = file_lock(path)
        try:
            lock.acquire(self._wait_limit_s, cancel_check=wait)
        except TimeoutError:
            raise EngineError(
                f"{_holder(path)} has been building this engine for more than {self._wait_limit_s:g} s. "
                "Fix: wait for that process, or end it"
            ) from None
        try:
            path.write_text(str(os.getpid()))
            yield
        finally:
            lock.release()

    def _evict(self, keep: str) -> None:
        """Delete leftovers, then the least recently used engines, down to the size limit."""
        entries = _entries(self.folder)
        total = sum(entry.size for entry in entries.values())
        for digest, entry in sorted(entries.items(), key=lambda item: (item[1].whole, item[1].used_s)):
            if entry.whole and total <= self._size_limit_bytes:
                return
            if digest != keep and self._delete_unused(digest):
                total -= entry.size

    def _delete_unused(self, digest: str) -> bool:
        """Delete one entry, unless it is being built or was used recently."""
        with suppress(TimeoutError), file_lock(self._lock_path(digest)).acquire(0):
            entry = _entries(self.folder)[digest]
            if time.time() - entry.used_s < _GRACE_S:
                return False
            for path in sorted(
                entry.files, key=lambda path: path.suffix == ".lock"
            ):  # the lock is deleted last
                _delete(path)
            return True
        return False

    def _lock_path(self, digest: str) -> Path:
        return self.folder / f".{digest}.lock"


def _holder(lock: Path) -> str:
    """Return a description of the process that holds a lock."""
    pid = b""
    with suppress(OSError), lock.open("rb") as file:
        pid = file.read(16)
    return f"process {int(pid)}" if pid.isdigit() else "another process"


@dataclass(frozen=True)
class _Entry:
    """All files of one digest."""

    files: tuple[Path, ...]
    size: int
    used_s: float  # 0 if there is only a lock
    whole: bool


def _entries(folder: Path) -> dict[str, _Entry]:
    """Return the files of the cache in ``folder``; others are ignored."""
    found: dict[str, list[Path]] = {}
    for path in folder.iterdir():
        if name := _ENTRY_NAME.fullmatch(path.name):
            found.setdefault(name[1], []).append(path)
    return {digest: _make_entry(digest, files) for digest, files in found.items()}


def _make_entry(digest: str, files: Sequence[Path]) -> _Entry:
    size, used_s, names = 0, 0.0, set()
    for path in files:
        with suppress(FileNotFoundError):  # another process deletes or renames
            state = path.lstat()
            size += state.st_size
            if path.suffix != ".lock":
                used_s = max(used_s, state.st_mtime)
            names.add(path.name)
    return _Entry(tuple(files), size, used_s, names >= {f"{digest}.engine", f"{digest}.json"})


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

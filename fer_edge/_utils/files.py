"""Files: hashes, locks and atomic writes."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fer_edge.errors import FerEdgeError

if TYPE_CHECKING:
    from filelock import FileLock


def opencv_path(path: str | Path) -> Any:
    """Return a path as bytes for OpenCV, whose video readers crash on text that is not valid UTF-8."""
    return os.fsencode(path)


@contextmanager
def text_path(path: Path, mode: str = "rb") -> Iterator[str]:
    """Yield a UTF-8 name of a file, for libraries that accept no other: its own, else that of an open descriptor."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with path.open(mode) as file:
            yield f"/proc/self/fd/{file.fileno()}"
    else:
        yield str(path)


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file as 64 hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def combined_sha256(digests: Mapping[str, str]) -> str:
    """Return the only digest, or the sha256 of the lines ``digest  name``, sorted by name."""
    if len(digests) == 1:
        return next(iter(digests.values()))
    lines = "".join(f"{digests[name]}  {name}\n" for name in sorted(digests))
    return hashlib.sha256(lines.encode()).hexdigest()


@contextmanager
def whole_file(path: Path, mode: int | None = None) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it on success, delete it on failure.

    The suffix is kept, since writers such as ``cv2.VideoWriter`` choose the format by it. ``mode`` is the mode of the
    file; by default the umask of the process applies.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.part{path.suffix}")
    try:
        yield part
        if mode is not None:
            part.chmod(mode)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield an empty ``PATH.….part`` folder; swap it into place on success, delete it on failure.

    The last of several writers wins; the folder at ``path`` is always complete.
    """
    path = path.resolve()  # a link is followed, not replaced
    path.parent.mkdir(parents=True, exist_ok=True)
    stem = f"{path.name}.{secrets.token_hex(4)}"
    part, old = path.with_name(f"{stem}.part"), path.with_name(f"{stem}.old")
    part.mkdir()
    try:
        yield part
        _swap(part, path, old)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _swap(part: Path, path: Path, old: Path) -> None:
    """Rename ``part`` to ``path``, replacing any folder there, even with concurrent writers."""
    try:
        while True:
            try:
                part.rename(path)
                return
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            shutil.rmtree(old, ignore_errors=True)
            with contextlib.suppress(FileNotFoundError):  # another writer moved it first
                path.rename(old)
    except BaseException:
        if old.exists() and not path.exists():
            old.rename(path)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def write_json(path: Path, value: Any, mode: int | None = None) -> None:
    """Write ``value`` as indented JSON, atomically. NaN is refused."""
    with whole_file(path, mode) as part:
        part.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def file_lock(path: Path, poll_s: float = 0.05) -> FileLock:
    """Return an exclusive lock between processes of this machine, released when its process ends for any reason.

    A link is not followed. Its ``acquire`` raises :class:`TimeoutError` if another process holds it for too long, and
    :class:`OSError` on a file system without locks: the soft locks of ``filelock`` would outlive a process.
    """
    from filelock import FileLock  # imported in 30 ms, and most processes lock nothing

    return FileLock(path, mode=0o600, poll_interval=poll_s, fallback_to_soft=False)


def cache_folder() -> Path:
    """Return ``$FER_EDGE_CACHE``, or ``fer-edge`` in the user's cache folder.

    A user without a home, as in containers that run with an arbitrary user id, gets a folder in the temporary folder.

    Raises
    ------
    FerEdgeError
        If that folder belongs to another user, or is writable by others.
    """
    if override := os.environ.get("FER_EDGE_CACHE"):
        return Path(override)
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    with contextlib.suppress(RuntimeError):  # no HOME, and no entry in the user database
        base = base.expanduser()
    if not base.is_absolute():
        return _temporary_cache()
    return base / "fer-edge"


def _temporary_cache() -> Path:
    folder = Path(tempfile.gettempdir()) / f"fer-edge-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise FerEdgeError(
            f"{folder} must be a folder that only you can write, and there is no home folder. "
            "Fix: set FER_EDGE_CACHE to a folder for the cache"
        )
    return folder

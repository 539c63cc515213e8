"""Locks of files: they end with the process that holds them, whatever ends that."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path


def open_lock(path: Path) -> int:
    """Return a handle of a lock file, made where it is missing; a link is not followed."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def try_lock(handle: int) -> bool:
    """Return whether the lock is held now."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_current(handle: int, path: Path) -> bool:
    """Whether ``handle`` is the file that has the name now; a lock may be deleted while others wait for it."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(handle), path.lstat())
    return False

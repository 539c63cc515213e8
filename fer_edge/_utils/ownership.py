"""Who can change a file: what runs as code must be its user's alone, or root's.

A sha256 beside a file shows integrity and not authenticity: whoever can write the file can write the hash as well.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from pathlib import Path

from fer_edge.errors import EngineError

_ROOT = 0
_PRIVATE_FOLDER = 0o700
#: Mode of files that are code: engines and what vouches for them.
PRIVATE_FILE = 0o600


def require_private(path: Path, instead: str = "set FER_EDGE_CACHE to a folder of your own") -> None:
    """Refuse a file or folder that another user could change or replace.

    It must belong to this user or root and not be writable by others, a group included unless it is the owner's own
    (Debian gives each user one). The same goes for the folders above it; one with the sticky bit, such as ``/tmp``, may
    be writable by all, since its entries can be replaced by their owners only. Links are followed: what counts is the
    target. A path that does not exist yet is checked as far as it exists.

    Parameters
    ----------
    path : Path
        Of a file or folder.
    instead : str
        Another way out, for the error.

    Raises
    ------
    EngineError
        That names the path, its owner and mode, and the command that mends it.
    OSError
        If it cannot be looked at.
    """
    target = Path(os.path.realpath(path))
    for part in (target, *target.parents):
        try:
            state = part.lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        if stat.S_ISLNK(state.st_mode):  # it leads nowhere: nothing can be loaded
            continue
        if reason := _find_exposure(state, above=part != target):
            raise EngineError(f"{_describe(part, state)} {reason}: {_advise(part, state)}, or {instead}")


def make_private_folder(path: Path) -> None:
    """Make a folder and those above it, as far as they are missing, for this user alone.

    Raises
    ------
    OSError
        If it cannot be made.
    """
    for part in reversed((path, *path.parents)):
        if not part.is_dir():
            part.mkdir(mode=_PRIVATE_FOLDER, exist_ok=True)


def _find_exposure(state: os.stat_result, above: bool) -> str | None:
    """Return who else can change an entry, ``None`` where nobody can."""
    trusted = {os.geteuid(), _ROOT}
    if above:
        trusted.add(_overflow_user())
    if state.st_uid not in trusted:
        return f"belongs to another user than {_user(os.geteuid())}"
    if above and state.st_mode & stat.S_ISVTX:
        return None
    if state.st_mode & stat.S_IWOTH:
        return "can be written by every user"
    if state.st_mode & stat.S_IWGRP and not _is_own_group(state.st_gid, state.st_uid):
        return f"can be written by the group {_group(state.st_gid)}"
    return None


def _is_own_group(gid: int, uid: int) -> bool:
    """Whether a group has the user ``uid`` as its only member."""
    try:
        owner, group = pwd.getpwuid(uid), grp.getgrgid(gid)
    except KeyError:
        return False
    others = (user for user in pwd.getpwall() if user.pw_uid != uid)
    return (
        owner.pw_gid == gid
        and set(group.gr_mem) <= {owner.pw_name}
        and all(user.pw_gid != gid for user in others)
    )


def _overflow_user() -> int:
    """Return the user that Linux shows for those outside of a container, such as its host's root."""
    try:
        return int(Path("/proc/sys/kernel/overflowuid").read_text())
    except (OSError, ValueError):
        return _ROOT


def _describe(path: Path, state: os.stat_result) -> str:
    return f"{path} (owner {_user(state.st_uid)}, mode {stat.S_IMODE(state.st_mode):04o})"


def _advise(path: Path, state: os.stat_result) -> str:
    mend = "chmod go-w" if state.st_uid in (os.geteuid(), _ROOT) else f"chown {_user(os.geteuid())}"
    return f"what is loaded from there is code; run {mend} '{path}'"


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)

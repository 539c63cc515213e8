"""File ownership checks: files that run as code must be writable only by their user or root.

A sha256 beside a file shows integrity, not authenticity: anyone who can write the file can write the hash as well.
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
#: Mode of files that are code: engines and their headers.
PRIVATE_FILE = 0o600


def require_private(path: Path, instead: str = "set FER_EDGE_CACHE to a folder of your own") -> None:
    """Refuse a file or folder that another user could change or replace.

    It must belong to this user or root and not be writable by others, a group included unless it is the owner's own
    (Debian gives each user one). The same goes for the folders above it; one with the sticky bit, such as ``/tmp``, may
    be writable by all, since its entries can be replaced by their owners only. Links are followed: the target is
    checked. A path that does not exist yet is checked as far as it exists.

    Parameters
    ----------
    path : Path
        File or folder.
    instead : str
        Alternative remedy, for the error.

    Raises
    ------
    EngineError
        If another user could; the message names the path, its owner and mode, and the command that corrects it.
    OSError
        If its state cannot be read.
    """
    target = Path(os.path.realpath(path))
    for part in (target, *target.parents):
        try:
            state = part.lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        if stat.S_ISLNK(state.st_mode):  # a broken link: nothing can be loaded
            continue
        if reason := _find_exposure(state, above=part != target):
            raise EngineError(
                f"{_describe(part, state)} {reason}, but files loaded from there run as code. "
                f"Fix: {_advise(part, state)}, or {instead}"
            )


def make_private_folder(path: Path) -> None:
    """Create a folder and its missing parents, accessible only to this user.

    Raises
    ------
    OSError
        If it cannot be created.
    """
    for part in reversed((path, *path.parents)):
        if not part.is_dir():
            part.mkdir(mode=_PRIVATE_FOLDER, exist_ok=True)


def _find_exposure(state: os.stat_result, above: bool) -> str | None:
    """Return the reason why others can change an entry, ``None`` if they cannot."""
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
    """Return ``True`` if a group has the user ``uid`` as its only member."""
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
    """Return the user id that Linux shows for users outside the container, such as root of the host."""
    try:
        return int(Path("/proc/sys/kernel/overflowuid").read_text())
    except (OSError, ValueError):
        return _ROOT


def _describe(path: Path, state: os.stat_result) -> str:
    return f"{path} (owner {_user(state.st_uid)}, mode {stat.S_IMODE(state.st_mode):04o})"


def _advise(path: Path, state: os.stat_result) -> str:
    mend = "chmod go-w" if state.st_uid in (os.geteuid(), _ROOT) else f"chown {_user(os.geteuid())}"
    return f"run {mend} '{path}'"


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

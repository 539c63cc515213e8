"""Listings of data folders in natural order, without system files, and descriptions of them for messages."""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fer_edge.errors import DataError, without_fix

#: System files beside the user's files; names that begin with a dot are ignored too.
NO_DATA = frozenset(
    {"__macosx", "@eadir", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "lost+found"}
)
_DIGITS = re.compile("([0-9]+)")
_NAMED = 5
_MAX_FOLDERS = 2_000
_NAME_CHARS = 60
_SUFFIX_CHARS = 12
#: Number of suffixes that are counted separately.
_SUFFIXES = 20


@dataclass(frozen=True)
class Listing:
    """Entries of a folder, in natural order; ``others`` are neither files nor folders, or broken links."""

    folders: tuple[Path, ...]
    files: tuple[Path, ...]
    others: tuple[Path, ...]


def is_data(name: str) -> bool:
    """Return ``False`` for hidden names and system files."""
    return not name.startswith(".") and name.casefold() not in NO_DATA


def unreadable(path: Path, error: Exception) -> DataError:
    """Return the error for a file that cannot be read."""
    reason = getattr(error, "strerror", None) or error
    return DataError(f"cannot read {path}: {reason}. Fix: check the path and its permissions")


def require_file(path: Path) -> None:
    """Require a regular file: opening a pipe would block.

    Raises
    ------
    DataError
        If there is no such file, or it is not a regular file.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    if not stat.S_ISREG(mode):
        raise DataError(f"cannot read {path}: it is not a file. Fix: give a file")


def natural_key(path: Path) -> tuple[object, ...]:
    """Return a key for natural order: 1, 2, 10, 11."""
    parts: list[object] = []
    for i, part in enumerate(_DIGITS.split(path.name)):
        # A number is compared by its length and digits, since it may have more digits than ``int`` accepts.
        number = part.lstrip("0")
        parts.append((len(number), number) if i % 2 else part.casefold())
    return (tuple(parts), path.name)


def scan_folder(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Yield the entries of ``folder`` without system files, unordered, which is fast for many files.

    Raises
    ------
    DataError
        If the folder cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            yield from (entry for entry in entries if is_data(entry.name))
    except OSError as error:
        raise DataError(
            f"cannot read the folder {folder}: {error.strerror or error}. Fix: check the path and its permissions"
        ) from error


def list_folder(folder: Path) -> Listing:
    """Return the entries of ``folder``.

    Raises
    ------
    DataError
        If the folder cannot be read.
    """
    kinds: dict[str, list[Path]] = {"folder": [], "file": [], "other": []}
    for entry in scan_folder(folder):
        kinds[kind_of(entry)].append(folder / entry.name)
    return Listing(*(tuple(sorted(paths, key=natural_key)) for paths in kinds.values()))


def list_folders(folder: Path) -> tuple[Path, ...]:
    """Return the folders directly in ``folder``, in natural order."""
    found = (folder / entry.name for entry in scan_folder(folder) if kind_of(entry) == "folder")
    return tuple(sorted(found, key=natural_key))


def list_files(folder: Path, suffixes: tuple[str, ...]) -> tuple[Path, ...]:
    """Return the files directly in ``folder`` whose names end with one of ``suffixes`` (lower case), in natural order."""
    named = (e for e in scan_folder(folder) if e.name.casefold().endswith(suffixes))
    return tuple(sorted((folder / e.name for e in named if kind_of(e) == "file"), key=natural_key))


def walk(folder: Path, depth: int) -> Iterator[tuple[Path, os.DirEntry[str]]]:
    """Yield the files in ``folder`` and below it to ``depth`` folders, each folder once even where links form a loop.

    Raises
    ------
    DataError
        If there are more than 2,000 folders, or one cannot be read.
    """
    pending, seen = [(folder, depth)], set[tuple[int, int]]()
    while pending:
        here, left = pending.pop()
        try:
            status = here.stat()
        except OSError:  # it was removed meanwhile
            continue
        place = (status.st_dev, status.st_ino)
        if place in seen:
            continue
        seen.add(place)
        if len(seen) > _MAX_FOLDERS:
            raise DataError(
                f"{folder} holds more than {_MAX_FOLDERS:,} folders. Fix: name the one that holds the pictures"
            )
        for entry in scan_folder(here):
            kind = kind_of(entry)
            if kind == "file":
                yield here, entry
            elif kind == "folder" and left > 1:
                pending.append((here / entry.name, left - 1))


def suffix_of(path: Path) -> str:
    """Return the suffix of a file for a message, ``no suffix`` if it has none."""
    return shown(path.suffix.lower()[:_SUFFIX_CHARS]) or "no suffix"


def count_suffixes(paths: Iterable[Path]) -> Counter[str]:
    """Return the number of files by suffix; beyond 20 suffixes the rarest are counted as ``others``."""
    counts = Counter(suffix_of(path) for path in paths)
    kept = Counter(dict(counts.most_common(_SUFFIXES)))
    if rest := counts.total() - kept.total():
        kept["others"] = rest
    return kept


def shown(name: str) -> str:
    """Return a name for a message: one line, printable, truncated."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name[:_NAME_CHARS])
    return text + "…" if len(name) > _NAME_CHARS else text


def describe(path: Path) -> str:
    """Return a description of the files at ``path``: folders, suffixes with counts, and the first names."""
    if not path.is_dir():
        return f"a file {shown(path.name)}" if path.is_file() else "neither a file nor a folder"
    try:
        listing = list_folder(path)
    except DataError as error:
        return without_fix(error)
    parts = []
    if listing.folders:
        parts.append(f"{_counted(len(listing.folders), 'folder')} ({_names(listing.folders)})")
    if listing.files:
        suffixes = ", ".join(f"{n} × {s}" for s, n in count_suffixes(listing.files).most_common(_NAMED))
        parts.append(
            f"{_counted(len(listing.files), 'file')} ({suffixes}; first {_names(listing.files[:_NAMED])})"
        )
    if listing.others:
        parts.append(f"{len(listing.others)} that are neither ({_names(listing.others)})")
    return " and ".join(parts) or "an empty folder"


def kind_of(entry: os.DirEntry[str]) -> str:
    """Return ``file``, ``folder``, or ``other`` for pipes, devices, broken links, and links to a folder above."""
    try:
        if entry.is_dir():
            return "other" if entry.is_symlink() and _leads_up(Path(entry.path)) else "folder"
        return "file" if entry.is_file() else "other"
    except OSError:  # a link to itself
        return "other"


def _leads_up(link: Path) -> bool:
    """Return ``True`` if a link leads to a folder that contains it, so that following it would not end."""
    return link.parent.resolve().is_relative_to(link.resolve())


def _names(paths: tuple[Path, ...]) -> str:
    more = ", …" if len(paths) > _NAMED else ""
    return ", ".join(shown(path.name) for path in paths[:_NAMED]) + more


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"

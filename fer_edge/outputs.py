"""Outputs are judged before any work: whether they can be written, and whether they are inputs."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fer_edge.errors import UsageError

FILE, STREAM, FOLDER, BUNDLE = "file", "stream", "folder", "bundle"


@dataclass(frozen=True)
class Output:
    """What will be written.

    Attributes
    ----------
    argument : str
        Which argument names it, for messages.
    path : Path
        Where.
    kind : {"file", "stream", "folder", "bundle"}
        A ``file`` appears once it is whole; a ``stream`` is written as it comes, also into a pipe or device. A
        ``folder`` may hold other files, which are kept; a ``bundle`` is a folder that is replaced as a whole.
    suffixes : tuple of str
        Those that choose a format; empty: any.
    """

    argument: str
    path: Path
    kind: str = FILE
    suffixes: tuple[str, ...] = ()


def check_outputs(outputs: Iterable[Output], inputs: Iterable[str | Path | None] = ()) -> None:
    """Refuse outputs that cannot be written, that are given twice, or that would overwrite an input.

    Parameters
    ----------
    outputs : iterable of Output
        Everything that the work will write.
    inputs : iterable of str, Path or None
        Everything that it will read; what does not exist (addresses, names of bundles) is left to its reader.

    Raises
    ------
    UsageError
        For the first that is wrong; nothing is created.
    """
    read = [Path(os.path.realpath(path)) for path in inputs if path is not None and _exists(path)]
    seen: dict[Path, str] = {}
    for output in outputs:
        if "\0" in str(output.path) or not str(output.path):
            raise UsageError(f"{output.argument} is no path ({str(output.path)!r:.60}): give one")
        place = Path(os.path.realpath(output.path))
        if place in seen:
            raise UsageError(f"{seen[place]} and {output.argument} are both {output.path}: give two paths")
        seen[place] = output.argument
        _check_form(output, place)
        _check_parent(output, place)
        for source in read:
            if _destroys(output, place, source):
                raise UsageError(
                    f"{output.argument} {output.path} would overwrite the input {source}: give another path"
                )


def _exists(path: str | Path) -> bool:
    try:
        return Path(path).exists()
    except ValueError:  # a NUL
        return False


def _check_form(output: Output, place: Path) -> None:
    shown = f"{output.argument} {output.path}"
    if output.suffixes and output.path.suffix.lower() not in output.suffixes:
        raise UsageError(f"{shown}: the suffix chooses the format, expected {', '.join(output.suffixes)}")
    if not place.exists():
        return
    if output.kind in (FILE, STREAM):
        if place.is_dir():
            raise UsageError(f"{shown} is a folder: give the name of a file in it")
        if output.kind == FILE and not place.is_file():
            raise UsageError(f"{shown} is a device, pipe or socket: give the name of a file")
        return
    if not place.is_dir():
        raise UsageError(f"{shown} is a file: give a folder, or the name of one that does not exist yet")
    if output.kind == BUNDLE:
        from fer_edge.manifest import MANIFEST  # it loads NumPy

        if place.is_mount() or place == Path.cwd():
            why = "a mount point" if place.is_mount() else "the working directory"
            raise UsageError(f"{shown} is {why}, which cannot be replaced: give a folder inside it")
        if not (place / MANIFEST).is_file() and any(place.iterdir()):
            raise UsageError(
                f"{shown} exists and is not a bundle: give a folder that is empty or does not exist"
            )


def _check_parent(output: Output, place: Path) -> None:
    """The nearest folder that exists must take new files; a folder that is written into must do so itself."""
    if output.kind == STREAM and place.exists():
        folder, needed = place, os.W_OK
    else:
        folder, needed = place if output.kind == FOLDER else place.parent, os.W_OK | os.X_OK
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if folder != place and not folder.is_dir():
        raise UsageError(
            f"{output.argument} {output.path}: {folder} is a file, expected a folder: give another path"
        )
    if not os.access(folder, needed):
        raise UsageError(
            f"{output.argument} {output.path}: nothing can be written in {folder}: give another path, or allow it"
        )


def _destroys(output: Output, place: Path, source: Path) -> bool:
    if place == source or (place.exists() and place.samefile(source)):
        return True
    if output.kind == BUNDLE:
        # By identity, since a bind mount has another name.
        return place.exists() and any(folder.samefile(place) for folder in source.parents)
    # A file that exists within a folder that is read is one of its files.
    return (
        output.kind in (FILE, STREAM) and source.is_dir() and place.is_file() and place.is_relative_to(source)
    )

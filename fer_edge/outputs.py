"""Checks of output paths before any work: they must be writable, and must not overwrite inputs."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fer_edge.errors import UsageError

FILE, STREAM, FOLDER, BUNDLE = "file", "stream", "folder", "bundle"


@dataclass(frozen=True)
class Output:
    """One output of a command.

    Attributes
    ----------
    argument : str
        Argument that names it, for messages.
    path : Path
        Target.
    kind : {"file", "stream", "folder", "bundle"}
        A ``file`` appears once it is complete; a ``stream`` is written incrementally, also to a pipe or device. A
        ``folder`` may hold other files, which are kept; a ``bundle`` is a folder that is replaced as a whole.
    suffixes : tuple of str
        Accepted suffixes, which choose the format; empty: any.
    overwrite : bool
        Accept an existing bundle, which is then replaced.
    """

    argument: str
    path: Path
    kind: str = FILE
    suffixes: tuple[str, ...] = ()
    overwrite: bool = True


def check_outputs(outputs: Iterable[Output], inputs: Iterable[str | Path | None] = ()) -> None:
    """Refuse outputs that cannot be written, that are given twice, or that would overwrite an input.

    Parameters
    ----------
    outputs : iterable of Output
        All paths that will be written.
    inputs : iterable of str, Path or None
        All paths that will be read; those that do not exist (URLs, names of bundles) are not checked here.

    Raises
    ------
    UsageError
        For the first invalid output; nothing is created.
    """
    read = [Path(os.path.realpath(path)) for path in inputs if path is not None and _exists(path)]
    seen: dict[Path, str] = {}
    for output in outputs:
        if "\0" in str(output.path) or not str(output.path):
            raise UsageError(
                f"{output.argument} must be a path, found {str(output.path)!r:.60}. Fix: give a path"
            )
        place = Path(os.path.realpath(output.path))
        if place in seen:
            raise UsageError(
                f"{seen[place]} and {output.argument} are both {output.path}. Fix: give two paths"
            )
        seen[place] = output.argument
        _check_form(output, place)
        _check_parent(output, place)
        for source in read:
            if _destroys(output, place, source):
                raise UsageError(
                    f"{output.argument} {output.path} would overwrite the input {source}. Fix: give another path"
                )


def _exists(path: str | Path) -> bool:
    try:
        return Path(path).exists()
    except ValueError:  # a NUL
        return False


def _check_form(output: Output, place: Path) -> None:
    shown = f"{output.argument} {output.path}"
    if output.suffixes and output.path.suffix.lower() not in output.suffixes:
        raise UsageError(
            f"expected {', '.join(output.suffixes)} as the suffix of {output.argument}, which chooses the format, "
            f"found {output.path}. Fix: change the suffix"
        )
    if not place.exists():
        return
    if output.kind in (FILE, STREAM):
        if place.is_dir():
            raise UsageError(f"{shown} is a folder. Fix: give the name of a file in it")
        if output.kind == FILE and not place.is_file():
            raise UsageError(f"{shown} is a device, pipe or socket. Fix: give the name of a file")
        return
    if not place.is_dir():
        raise UsageError(f"{shown} is a file. Fix: give a folder, or the name of one that does not exist yet")
    if output.kind == BUNDLE:
        from fer_edge.manifest import MANIFEST  # it loads NumPy

        if place.is_mount() or place == Path.cwd():
            why = "a mount point" if place.is_mount() else "the working directory"
            raise UsageError(f"{shown} is {why}, which cannot be replaced. Fix: give a folder inside it")
        if not (place / MANIFEST).is_file() and any(place.iterdir()):
            raise UsageError(
                f"{shown} exists and is not a bundle. Fix: give a folder that is empty or does not exist"
            )
        if not output.overwrite and (place / MANIFEST).is_file():
            raise UsageError(
                f"{shown} is a bundle already. Fix: give another folder, or --overwrite (overwrite=True in Python) to "
                "replace it"
            )


def _check_parent(output: Output, place: Path) -> None:
    """Refuse an output whose nearest existing folder is not writable; an existing output folder must be writable itself."""
    if output.kind == STREAM and place.exists():
        folder, needed = place, os.W_OK
    else:
        folder, needed = place if output.kind == FOLDER else place.parent, os.W_OK | os.X_OK
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if folder != place and not folder.is_dir():
        raise UsageError(
            f"expected a folder above {output.argument} {output.path}, but {folder} is a file. Fix: give another path"
        )
    if not os.access(folder, needed):
        raise UsageError(
            f"{output.argument} {output.path} cannot be written, since {folder} is not writable. "
            "Fix: give another path, or change its permissions"
        )


def _destroys(output: Output, place: Path, source: Path) -> bool:
    if place == source or (place.exists() and place.samefile(source)):
        return True
    if output.kind == BUNDLE:
        # By device and inode, since a bind mount has another name.
        return place.exists() and any(folder.samefile(place) for folder in source.parents)
    # An existing file below an input folder is an input.
    return (
        output.kind in (FILE, STREAM) and source.is_dir() and place.is_file() and place.is_relative_to(source)
    )

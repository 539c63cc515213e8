"""Image folders: a subfolder per class, also below ``train``, ``test`` and ``val``, or images without classes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fer_edge._utils.images import IMAGE_SUFFIXES, list_images
from fer_edge._utils.listing import (
    count_suffixes,
    describe,
    kind_of,
    list_folder,
    list_folders,
    scan_folder,
    walk,
)
from fer_edge.datasets.dataset import FaceDataset
from fer_edge.datasets.loading import Request, checked, one_hot, unknown_split
from fer_edge.datasets.numbered import is_number, names_of_numbers
from fer_edge.datasets.tables import describe_tables
from fer_edge.errors import DataError, without_fix
from fer_edge.labels import FERPLUS, RAFDB, canonical

#: Folder name → split.
SPLITS: Mapping[str, str] = {
    "train": "train", "training": "train",
    "test": "test", "testing": "test",
    "val": "val", "valid": "val", "validation": "val",
}  # fmt: skip
ACCEPTED = "a subfolder of pictures per class, also below train, test and val, or pictures without subfolders"
_SUFFIXES = tuple(IMAGE_SUFFIXES)
#: Search depth for pictures, to report a layout that is not supported.
_DEPTH = 5
#: Nested folders above the splits, as in "archive/fer2013/train/angry".
_MAX_WRAPPERS = 3
_RAFDB_NAME = re.compile(r"(train|test)_[0-9]+_aligned\.[a-z]+", re.IGNORECASE)
_RAFDB_NUMBERS = {str(i + 1): canonical(name) for i, name in enumerate(RAFDB)}


@dataclass(frozen=True)
class Layout:
    """Folders of the pictures; ``splits`` is empty if there are none."""

    root: Path
    splits: Mapping[str, Path]


@dataclass
class _Found:
    """Pictures by class folder; the name is empty for pictures without a class."""

    groups: list[tuple[Path, str, tuple[Path, ...]]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def find(path: Path) -> Path | None:
    """Return ``path`` if it is a folder."""
    return path if path.is_dir() else None


def training_split(folder: Path) -> str | None:
    """Return ``train`` if there is such a folder."""
    return "train" if "train" in find_layout(folder).splits else None


def holds_folders_of_pictures(path: Path) -> bool:
    """Return ``True`` if pictures lie in subfolders that are splits or classes."""
    layout = find_layout(path)
    return bool(layout.splits) or any(
        _is_class(d.name) and _holds_pictures(d, _DEPTH) for d in list_folders(layout.root)
    )


def find_layout(folder: Path) -> Layout:
    """Return the folder that holds splits or classes, which may lie below ``folder``.

    Raises
    ------
    DataError
        If two folders could be the same split, or two folders hold splits.
    """
    here = folder
    for _ in range(_MAX_WRAPPERS):
        splits = _splits(here)
        if splits:
            return Layout(here, splits)
        subfolders = [d for d in list_folders(here) if _holds_pictures(d, _DEPTH)]
        inner = [d for d in subfolders if _splits(d)]
        if len(inner) > 1:
            raise DataError(
                f"{here} holds several folders with splits. Fix: name one of {', '.join(str(d) for d in inner[:5])}"
            )
        direct = [d for d in subfolders if _holds_pictures(d, 1)]
        if not inner and not direct and not _holds_pictures(here, 1) and len(subfolders) == 1:
            inner = subfolders
        if not inner or direct:
            break
        others = [d.name for d in subfolders if d not in inner]
        if others or _holds_pictures(here, 1):
            raise DataError(
                f"{here} holds {inner[0].name} with its splits, and pictures elsewhere"
                f"{' (' + ', '.join(others[:5]) + ')' if others else ''}. Fix: name one of these folders, such as {inner[0]}"
            )
        here = inner[0]
    return Layout(here, {})


def load(folder: Path, request: Request) -> FaceDataset:
    """Load photographs or face crops, with the class of their subfolder or without labels."""
    layout = find_layout(folder)
    chosen = _chosen(layout, folder, request.split)
    found = _Found()
    for part in chosen:
        _collect(part, found)
    if layout.splits:
        _count_beside(layout, found)
    numbers = _numbered_names(found, request, folder)
    paths: list[Path] = []
    names: list[str] = []
    subjects: list[str] = []
    classes: list[tuple[str, tuple[Path, ...]]] = []
    for group, label, images in found.groups:
        with request.bad_rows.row(str(group)):
            classes.append((_class_name(label, numbers, len(images)), images))
    for named, images in classes:
        for path in images:
            with request.bad_rows.row(str(path)):
                subject = _subject(path) if request.subjects_from_names else ""
                paths.append(path)
                names.append(named)
                subjects.append(subject)
    if not paths and not request.bad_rows.skipped.count:
        raise DataError(
            f"{folder} holds no pictures ({', '.join(sorted(IMAGE_SUFFIXES))}), found {describe_tables(folder)}. Fix: give {ACCEPTED}"
        )
    labelled = any(names)
    labels, class_names = _labels(names) if labelled else (None, ())
    faces = FaceDataset(
        folder.name + (f" {SPLITS[request.split.casefold()]}" if request.split else ""),
        tuple(paths),
        labels,
        class_names,
        are_crops=True,
        subjects=np.array(subjects) if request.subjects_from_names else None,
        left_out=dict(found.left_out),
    )
    return checked(faces, request.bad_rows, folder)


def _chosen(layout: Layout, folder: Path, split: str | None) -> list[Path]:
    if split is None:
        return list(layout.splits.values()) or [layout.root]
    if not layout.splits:
        raise DataError(f"{folder} has no splits (folders train, test or val). Fix: leave --split out")
    name = SPLITS.get(split.casefold(), "")
    if name not in layout.splits:
        raise unknown_split(folder, split, list(layout.splits))
    return [layout.splits[name]]


def _collect(part: Path, found: _Found) -> None:
    """Add the class folders of a folder, or its own pictures if it has none."""
    listing = list_folder(part)
    own = [p for p in listing.files if _is_picture(p.name)]
    classes = {d: list_images(d) for d in listing.folders}
    for d, pictures in classes.items():
        if not pictures and _holds_pictures(d, _DEPTH):
            raise DataError(
                f"{part} is not understood, pictures lie deeper than in one subfolder per class, below {d.name}; found "
                f"{describe(part)}. Fix: give {ACCEPTED}"
            )
    labelled = {d: pictures for d, pictures in classes.items() if pictures}
    count = sum(map(len, labelled.values()))
    if labelled and len(own) > count:
        raise DataError(
            f"{part} is not understood, {len(own)} pictures lie beside subfolders with {count}; found {describe(part)}. "
            f"Fix: give {ACCEPTED}"
        )
    if labelled:
        found.left_out.update({"pictures beside the class folders": len(own)} if own else {})
    elif own:
        found.groups.append((part, "", tuple(own)))
        _count_others(part, found)
    for d, pictures in classes.items():
        if pictures:
            found.groups.append((d, d.name, pictures))
            deeper = sum(_count_pictures(inner, _DEPTH) for inner in list_folders(d))
            found.left_out.update({"pictures in folders below a class folder": deeper} if deeper else {})
        _count_others(d, found)


def _count_others(folder: Path, found: _Found) -> None:
    """Count the files of a folder that are not pictures."""
    entries = [
        folder / e.name for e in scan_folder(folder) if not _is_picture(e.name) or kind_of(e) != "file"
    ]
    counts = count_suffixes(p for p in entries if p.is_file())
    found.left_out.update({f"files that are no pictures ({suffix})": n for suffix, n in counts.items()})
    if others := sum(not (p.is_file() or p.is_dir()) for p in entries):
        found.left_out["neither files nor folders"] += others


def _count_beside(layout: Layout, found: _Found) -> None:
    """Count pictures that lie beside the folders of the splits."""
    listing = list_folder(layout.root)
    places = set(layout.splits.values())
    count = sum(_is_picture(p.name) for p in listing.files)
    count += sum(_count_pictures(d, _DEPTH) for d in listing.folders if d not in places)
    found.left_out.update({"pictures beside the folders of the splits": count} if count else {})


def _numbered_names(found: _Found, request: Request, folder: Path) -> dict[str, str]:
    """Return the class names of numbered folders: from ``class_order``, or those of RAF-DB if the files are named so."""
    numbers = {label for _, label, _ in found.groups if is_number(label)}
    request.require_numbers(bool(numbers), folder)
    if not numbers:
        return {}
    images = (p for _, label, paths in found.groups if label in numbers for p in paths)
    told = bool(request.class_order) or not numbers <= set(_RAFDB_NUMBERS)
    if not told and all(_RAFDB_NAME.fullmatch(p.name) for p in images):
        return {number: _RAFDB_NUMBERS[number] for number in numbers}
    return names_of_numbers(numbers, request.class_order, str(folder))


def _class_name(label: str, numbers: Mapping[str, str], images: int) -> str:
    if not label:
        return ""
    try:
        return numbers.get(label) or canonical(label)
    except DataError as error:
        raise DataError(f"{without_fix(error)}, in a folder with {images} pictures") from None


def _labels(names: list[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return one-hot labels, with a row of zeros for a picture without a class."""
    order = tuple(name for name in FERPLUS if name in names)
    rows = np.flatnonzero([bool(name) for name in names])
    labels = np.zeros((len(names), len(order)), np.float32)
    labels[rows] = one_hot([name for name in names if name], order)[0]
    return labels, order


def _splits(folder: Path) -> dict[str, Path]:
    """Return the split folders that hold pictures, in the order train, test, val."""
    splits: dict[str, Path] = {}
    for d in list_folders(folder):
        name = SPLITS.get(d.name.casefold())
        if name is not None and _holds_pictures(d, _DEPTH):
            if name in splits:
                raise DataError(
                    f"{folder} holds {splits[name].name} and {d.name}, which could both be the split {name}. Fix: name one of them"
                )
            splits[name] = d
    return {name: splits[name] for name in ("train", "test", "val") if name in splits}


def _is_class(name: str) -> bool:
    try:
        canonical(name)
    except DataError:
        return is_number(name)
    return True


def _is_picture(name: str) -> bool:
    return name.casefold().endswith(_SUFFIXES)


def _holds_pictures(folder: Path, depth: int) -> bool:
    return any(_is_picture(entry.name) for _, entry in walk(folder, depth))


def _count_pictures(folder: Path, depth: int) -> int:
    return sum(_is_picture(entry.name) for _, entry in walk(folder, depth))


def _subject(path: Path) -> str:
    subject, separator, rest = path.stem.partition("_")
    if not (subject and separator and rest):
        raise DataError(f"expected SUBJECT_anything{path.suffix}, found {path.name}")
    return subject

"""Two forms for one's own images: a subfolder per class, and a folder with ``legend.csv``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fer_edge.datasets.dataset import FaceDataset
from fer_edge.datasets.images import IMAGE_SUFFIXES, file_inside, list_images
from fer_edge.datasets.request import Request, checked, no_split, one_hot
from fer_edge.datasets.rows import csv_rows
from fer_edge.errors import DataError
from fer_edge.labels import canonical

LEGEND = "legend.csv"


def find_legend(path: Path) -> Path | None:
    """Return ``legend.csv`` of a folder."""
    return legend if (legend := path / LEGEND).is_file() else None


def load_legend(legend: Path, request: Request) -> FaceDataset:
    """Read photographs whose ``image,emotion`` rows lie in ``legend.csv``."""
    folder = legend.parent
    no_split(folder, request.split)
    root = folder / "images" if (folder / "images").is_dir() else folder
    paths: list[Path] = []
    names: list[str] = []
    origins: list[str] = []
    for row in csv_rows(legend, ("image", "emotion")):
        with request.bad_rows.row(row.where):
            image, emotion = row.columns(2)
            path, name = file_inside(root, image), canonical(emotion)
            paths.append(path)
            names.append(name)
            origins.append(row.where)
    if not paths and not request.bad_rows.skipped.count:
        raise DataError(f"{legend} has no rows: add image,emotion lines")
    labels, class_names = one_hot(names)
    faces = FaceDataset(
        folder.name, tuple(paths), labels, class_names, are_crops=False, origins=tuple(origins)
    )
    return checked(faces, request.bad_rows, legend)


def load_folder(folder: Path, request: Request) -> FaceDataset:
    """Read face crops in a subfolder per class, or without labels directly in ``folder``."""
    no_split(folder, request.split)
    groups = {p: list_images(p) for p in sorted(folder.iterdir()) if p.is_dir()}
    groups = {p: images for p, images in groups.items() if images}
    labelled = bool(groups)
    groups = groups or {folder: list_images(folder)}
    paths: list[Path] = []
    names: list[str] = []
    subjects: list[str] = []
    for group, images in groups.items():
        with request.bad_rows.row(str(group)):
            name = canonical(group.name) if labelled else ""
            for path in images:
                with request.bad_rows.row(str(path)):
                    subject = _subject(path) if request.subjects_from_names else ""
                    paths.append(path)
                    names.append(name)
                    subjects.append(subject)
    if not paths and not request.bad_rows.skipped.count:
        raise DataError(
            f"{folder} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}): give another folder"
        )
    labels, class_names = one_hot(names) if labelled else (None, ())
    faces = FaceDataset(
        folder.name,
        tuple(paths),
        labels,
        class_names,
        are_crops=True,
        subjects=np.array(subjects) if request.subjects_from_names else None,
    )
    return checked(faces, request.bad_rows, folder)


def _subject(path: Path) -> str:
    subject, separator, rest = path.stem.partition("_")
    if not (subject and separator and rest):
        raise DataError(f"expected SUBJECT_anything{path.suffix}, found {path.name}")
    return subject

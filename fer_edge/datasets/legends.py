"""Photographs with a CSV file that gives the expression of each."""

from __future__ import annotations

from pathlib import Path

from fer_edge._utils.images import file_inside
from fer_edge._utils.listing import list_files
from fer_edge.datasets import folders
from fer_edge.datasets.dataset import FaceDataset
from fer_edge.datasets.loading import Request, checked, no_split, one_hot
from fer_edge.datasets.numbered import is_number, names_of_numbers
from fer_edge.datasets.tables import (
    Header,
    Table,
    accepted_tables,
    find_tables,
    only_one,
    read_header,
    table_rows,
)
from fer_edge.errors import DataError
from fer_edge.labels import canonical

LEGEND = "legend.csv"
IMAGE_COLUMNS = ("image", "file", "filename", "path", "image name", "image_name", "file_name", "filepath")
LABEL_COLUMNS = ("emotion", "label", "class", "expression")


def find(path: Path) -> Path | None:
    """Return the legend at ``path``: the file itself, ``legend.csv`` in the folder or its ``data``, or its only legend CSV.

    Raises
    ------
    DataError
        If several match.
    """
    if path.is_file():
        table = only_one(accepted_tables(path, _is_legend), path)
        return None if table is None else path
    if not path.is_dir():
        return None
    for folder in (path, path / "data"):
        named = (
            [f for f in list_files(folder, (LEGEND,)) if f.name.casefold() == LEGEND]
            if folder.is_dir()
            else []
        )
        if named:
            only_one([Table(file) for file in named], folder)
            return named[0]
    if folders.holds_folders_of_pictures(path):
        return None
    table = only_one(find_tables(path, _is_legend), path)
    return None if table is None else table.path


def load(legend: Path, request: Request) -> FaceDataset:
    """Load the photographs listed in a CSV file; paths are relative to ``images`` or to the file's own folder."""
    folder = legend.parent
    no_split(folder, request.split)
    table, columns = _table(legend)
    roots = _image_folders(folder)
    paths: list[Path] = []
    labels: list[str] = []
    origins: list[str] = []
    for row in table_rows(table, columns):
        with request.bad_rows.row(row.where):
            image, label = (field.strip() for field in row.columns(2))
            path, label = _picture(roots, image), label if is_number(label) else canonical(label)
            paths.append(path)
            labels.append(label)
            origins.append(row.where)
    if not paths and not request.bad_rows.skipped.count:
        raise DataError(f"{legend} has no rows. Fix: add {','.join(columns)} lines")
    numbers = {label for label in labels if is_number(label)}
    request.require_numbers(bool(numbers), legend)
    if numbers:
        named = names_of_numbers(numbers, request.class_order, str(legend))
        labels = [named.get(label, label) for label in labels]
    targets, class_names = one_hot(labels)
    faces = FaceDataset(
        folder.name, tuple(paths), targets, class_names, are_crops=False, origins=tuple(origins)
    )
    return checked(faces, request.bad_rows, legend)


def _is_legend(header: Header) -> bool:
    names = set(header.names)
    return bool(names.intersection(IMAGE_COLUMNS) and names.intersection(LABEL_COLUMNS))


def _table(legend: Path) -> tuple[Table, tuple[str, str]]:
    """Return the table of a legend, and its columns for the image and the expression."""
    table = only_one(accepted_tables(legend, _is_legend), legend) or Table(legend)
    header = read_header(table)
    image, label = header.find(*IMAGE_COLUMNS), header.find(*LABEL_COLUMNS)
    if image is None or label is None:
        raise DataError(
            f"{table}, line 1: expected the columns image,emotion (or {', '.join(IMAGE_COLUMNS[1:4])}; "
            f"{', '.join(LABEL_COLUMNS[1:])}), found {header.text()!r}. Fix: rename the columns"
        )
    return table, (image, label)


def _image_folders(folder: Path) -> list[Path]:
    places = [folder / "images", folder]
    if folder.name == "data":  # as in the repository muxspace/facial_expressions
        places.append(folder.parent / "images")
    return [place for place in places if place.is_dir()]


def _picture(roots: list[Path], name: str) -> Path:
    problem: DataError | None = None
    for root in roots:
        # Legends written on Windows separate folders by backslashes.
        for spelling in dict.fromkeys((name, name.replace("\\", "/"))):
            try:
                return file_inside(root, spelling)
            except DataError as error:
                problem = problem or error
    assert problem is not None
    raise problem

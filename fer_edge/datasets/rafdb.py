"""RAF-DB, basic expressions (Li, Deng and Du, 2017), in its authors' layout."""

from __future__ import annotations

import re
from pathlib import Path

from fer_edge._utils.images import file_inside
from fer_edge._utils.listing import describe, list_files
from fer_edge.datasets.dataset import FaceDataset
from fer_edge.datasets.loading import Request, checked, one_hot, unknown_split
from fer_edge.datasets.rows import text_rows
from fer_edge.errors import DataError
from fer_edge.labels import RAFDB

LIST = "list_patition_label.txt"  # the authors' spelling
_LISTS = (LIST, "list_partition_label.txt")
_SPLITS = ("test", "train")
_ALIGNED = "_aligned"
#: First line of a label list, which may have another name.
_LINE = re.compile(rb"(\xef\xbb\xbf)?(train|test)_[0-9]{1,6}(_aligned)?\.(jpg|png)[ \t]+[1-7]\s")


def find(path: Path) -> Path | None:
    """Return the label list of ``path``, which may be that file, ``EmoLabel``, or the folder above.

    Raises
    ------
    DataError
        If several lists match.
    """
    if path.is_file():
        return path if path.name.casefold() in _LISTS or _begins_as_list(path) else None
    for folder in (path, path / "EmoLabel", path / "basic" / "EmoLabel"):
        if folder.is_dir():
            texts = list_files(folder, (".txt",))
            lists = [p for p in texts if p.name.casefold() in _LISTS] or list(filter(_begins_as_list, texts))
            if len(lists) > 1:
                raise DataError(
                    f"{folder} holds {len(lists)} label lists. Fix: name one of {', '.join(map(str, lists[:5]))}"
                )
            if lists:
                return lists[0]
    return None


def load(list_path: Path, request: Request) -> FaceDataset:
    """Load the aligned faces if present, else the original photographs."""
    root = list_path.parent.parent if list_path.parent.name == "EmoLabel" else list_path.parent
    if request.split is not None and request.split not in _SPLITS:
        raise unknown_split(list_path, request.split, _SPLITS)
    folder, aligned = _images(root)
    paths: list[Path] = []
    names: list[str] = []
    origins: list[str] = []
    width = 0
    for row in text_rows(list_path):
        with request.bad_rows.row(row.where):
            # Some lists have a third column in every row: a confidence, or the class of another annotator.
            width = width or (3 if len(row.fields) == 3 else 2)
            image, label, *_ = row.columns(width)
            if label not in {str(i + 1) for i in range(len(RAFDB))}:
                raise DataError(f"expected a class from 1 to {len(RAFDB)}, found {label[:20]!r}")
            split = image.partition("_")[0]
            if split not in _SPLITS:
                raise DataError(f"expected train_… or test_…, found {image[:40]!r}")
            if request.split in (None, split):
                paths.append(file_inside(folder, _file_name(image, aligned)))
                names.append(RAFDB[int(label) - 1])
                origins.append(row.where)
    labels, class_names = one_hot(names, RAFDB)
    faces = FaceDataset(
        name="RAF-DB" + (f" {request.split}" if request.split else ""),
        images=tuple(paths),
        labels=labels,
        class_names=class_names,
        are_crops=aligned,
        origins=tuple(origins),
    )
    return checked(faces, request.bad_rows, list_path)


def _file_name(image: str, aligned: bool) -> str:
    """Return the file name of the aligned face or of the photograph, from either name in the list."""
    stem, dot, suffix = image.rpartition(".")
    stem = stem.removesuffix(_ALIGNED)
    return f"{stem}{_ALIGNED if aligned else ''}{dot}{suffix}"


def _begins_as_list(path: Path) -> bool:
    if path.suffix.casefold() != ".txt":
        return False
    try:
        with path.open("rb") as file:
            return _LINE.match(file.read(100) + b"\n") is not None
    except OSError:
        return False


def _images(root: Path) -> tuple[Path, bool]:
    """Return the image folder, and ``True`` if it holds the aligned faces."""
    for kind in ("aligned", "original"):
        # Unpacking each of the authors' archives into a folder of its name nests the folders.
        for folder in (root / "Image" / kind / kind, root / "Image" / kind, root / kind):
            if folder.is_dir():
                return folder, kind == "aligned"
    raise DataError(
        f"{root} has no images, expected Image/aligned or Image/original beside EmoLabel, found {describe(root)}. "
        "Fix: unpack the images there"
    )

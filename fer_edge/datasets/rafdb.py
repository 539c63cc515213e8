"""RAF-DB, basic expressions (Li, Deng and Du, 2017), as its authors hand it out."""

from __future__ import annotations

from pathlib import Path

from fer_edge.datasets.dataset import FaceDataset
from fer_edge.datasets.images import file_inside
from fer_edge.datasets.request import Request, checked, one_hot, unknown_split
from fer_edge.datasets.rows import text_rows
from fer_edge.errors import DataError
from fer_edge.labels import RAFDB

LIST = "list_patition_label.txt"  # the authors' spelling
_SPLITS = ("test", "train")


def find(path: Path) -> Path | None:
    """Return the label list of ``path``, which may be that file, ``EmoLabel``, or the folder above."""
    if path.is_file():
        return path if path.name == LIST else None
    places = (path / LIST, path / "EmoLabel" / LIST, path / "basic" / "EmoLabel" / LIST)
    return next((p for p in places if p.is_file()), None)


def load(list_path: Path, request: Request) -> FaceDataset:
    """Read the aligned faces where they are there, else the original photographs."""
    root = list_path.parent.parent if list_path.parent.name == "EmoLabel" else list_path.parent
    if request.split is not None and request.split not in _SPLITS:
        raise unknown_split(list_path, request.split, _SPLITS)
    folder, aligned = _images(root)
    paths: list[Path] = []
    names: list[str] = []
    origins: list[str] = []
    for row in text_rows(list_path):
        with request.bad_rows.row(row.where):
            image, label = row.columns(2)
            if label not in {str(i + 1) for i in range(len(RAFDB))}:
                raise DataError(f"expected a class from 1 to {len(RAFDB)}, found {label[:20]!r}")
            split = image.partition("_")[0]
            if split not in _SPLITS:
                raise DataError(f"expected train_… or test_…, found {image[:40]!r}")
            if request.split in (None, split):
                stem, dot, suffix = image.rpartition(".")
                path = file_inside(folder, f"{stem}_aligned{dot}{suffix}" if aligned else image)
                paths.append(path)
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


def _images(root: Path) -> tuple[Path, bool]:
    """Return the image folder, and whether it holds the aligned faces."""
    for kind in ("aligned", "original"):
        # Unpacking the authors' archives with their own name gives a second level.
        for folder in (root / "Image" / kind / kind, root / "Image" / kind, root / kind):
            if folder.is_dir():
                return folder, kind == "aligned"
    raise DataError(f"{root} has no images: expected Image/aligned or Image/original beside EmoLabel")

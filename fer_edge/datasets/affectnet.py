"""AffectNet (Mollahosseini et al., 2017): the published CSV lists, and the later format with one array per value."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from pathlib import Path
from tokenize import TokenError

import numpy as np

from fer_edge._utils.images import file_inside, list_images
from fer_edge._utils.listing import list_files, require_file, walk
from fer_edge.datasets.dataset import FaceDataset
from fer_edge.datasets.loading import Request, checked, one_hot, unknown_split
from fer_edge.datasets.tables import Header, accepted_tables, only_one, table_rows, tables_of
from fer_edge.errors import DataError, without_fix
from fer_edge.labels import AFFECTNET8, canonical

HEADER = (
    "subDirectory_filePath", "face_x", "face_y", "face_width", "face_height", "facial_landmarks",
    "expression", "valence", "arousal",
)  # fmt: skip
#: Codes without an expression; their rows are left out and counted.
NO_EXPRESSION = {"8": "no expression of the eight", "9": "uncertain", "10": "no face"}
_CLASSES = tuple(canonical(name) for name in AFFECTNET8)
_CODES = {str(i): name for i, name in enumerate(_CLASSES)}
_SPLITS = {"training": "train_set", "validation": "val_set"}
_PIXEL = re.compile(r"-?[0-9]{1,6}")
_POINTS = 68
_MAX_COORDINATE_PX = 1e6
_MAX_ARRAY_BYTES = 1 << 16  # a landmark array is about 1 kB


def find_csv(path: Path) -> Path | None:
    """Return ``path`` if it is an AffectNet CSV file, or the folder that holds ``training.csv`` or ``validation.csv``."""
    if path.is_file():
        return path if accepted_tables(path, _is_list) else None
    folders = (path, path / "Manually_Annotated_file_lists")
    lists = ((f, f / f"{s}.csv") for f in folders for s in _SPLITS)
    return next((f for f, file in lists if file.is_file() and accepted_tables(file, _is_list)), None)


def load_csv(path: Path, request: Request) -> FaceDataset:
    """Load faces cropped to the box of each row, with the 68 landmarks of the row."""
    files = [path] if path.is_file() else [f for s in _SPLITS if (f := path / f"{s}.csv").is_file()]
    if request.split is not None:
        by_split = {file.name.partition(".")[0]: file for file in files}
        if request.split not in by_split:
            raise unknown_split(path, request.split, sorted(by_split))
        files = [by_split[request.split]]
    paths: list[Path] = []
    names: list[str] = []
    boxes: list[tuple[int, int, int, int]] = []
    points: list[np.ndarray] = []
    origins: list[str] = []
    left_out: Counter[str] = Counter()
    for file in files:
        root = _image_root(file)
        table = only_one(tables_of(file), file)
        if table is None:
            raise DataError(f"{file} holds no CSV file. Fix: download it again")
        for row in table_rows(table, HEADER):
            with request.bad_rows.row(row.where):
                fields = (field.strip() for field in row.columns(len(HEADER)))
                image, x, y, width, height, landmarks, code, _, _ = fields
                if code in NO_EXPRESSION:
                    left_out[NO_EXPRESSION[code]] += 1
                    continue
                name, box = _expression(code), _box(x, y, width, height)
                shape = _landmarks(landmarks) - np.maximum(box[:2], 0).astype(np.float32)
                paths.append(file_inside(root, image))
                names.append(name)
                boxes.append(box)
                points.append(shape)
                origins.append(row.where)
    labels, class_names = one_hot(names, _CLASSES)
    faces = FaceDataset(
        name="AffectNet" + (f" {request.split}" if request.split else ""),
        images=tuple(paths),
        labels=labels,
        class_names=class_names,
        are_crops=True,
        landmarks=np.array(points, np.float32).reshape(-1, _POINTS, 2),
        landmark_source="annotated",
        boxes_xyxy=np.array(boxes, np.int64).reshape(-1, 4),
        origins=tuple(origins),
        left_out=dict(left_out),
    )
    return checked(faces, request.bad_rows, path)


def _is_list(header: Header) -> bool:
    return {name.casefold() for name in HEADER} <= set(header.names)


def training_csv(found: Path) -> str | None:
    """Return the training split of a folder; a single list has no splits."""
    return "training" if found.is_dir() else None


def find_arrays(path: Path) -> Path | None:
    """Return ``path`` if it holds ``annotations`` beside ``images``, directly or for each split."""
    places = (path, *(path / folder for folder in _SPLITS.values()))
    return path if path.is_dir() and any(_has_arrays(p) for p in places) else None


def load_arrays(path: Path, request: Request) -> FaceDataset:
    """Load face crops with ``ID_exp.npy`` and, optionally, ``ID_lnd.npy``."""
    folders = {name: path / part for name, part in _SPLITS.items() if _has_arrays(path / part)}
    if request.split is not None and request.split not in folders:
        raise unknown_split(path, request.split, sorted(folders))
    chosen = [folders[request.split]] if request.split else list(folders.values()) or [path]
    paths: list[Path] = []
    names: list[str] = []
    points: list[np.ndarray] = []
    origins: list[str] = []
    left_out: Counter[str] = Counter()
    for folder in chosen:
        images = {p.stem: p for p in list_images(folder / "images")}
        for file in _expressions(folder):
            with request.bad_rows.row(str(file)):
                identity = file.name.removesuffix("_exp.npy")
                code = str(_array(file, 1).reshape(-1)[0]).removesuffix(".0")
                if code in NO_EXPRESSION:
                    left_out[NO_EXPRESSION[code]] += 1
                    continue
                name = _expression(code)
                if identity not in images:
                    raise DataError(f"{folder / 'images'} has no image {identity[:40]!r}")
                landmarks = file.with_name(f"{identity}_lnd.npy")
                found = _shape(_array(landmarks, 2 * _POINTS)) if landmarks.exists() else _absent()
                paths.append(images[identity])
                names.append(name)
                points.append(found)
                origins.append(str(file))
    labels, class_names = one_hot(names, _CLASSES)
    shapes = np.array(points, np.float32).reshape(-1, _POINTS, 2)
    annotated = bool(np.isfinite(shapes).any())
    faces = FaceDataset(
        name="AffectNet" + (f" {request.split}" if request.split else ""),
        images=tuple(paths),
        labels=labels,
        class_names=class_names,
        are_crops=True,
        landmarks=shapes if annotated else None,
        landmark_source="annotated" if annotated else "",
        origins=tuple(origins),
        left_out=dict(left_out),
    )
    return checked(faces, request.bad_rows, path)


def training_arrays(found: Path) -> str | None:
    """Return the training split if the arrays lie in one folder per split."""
    return None if _has_arrays(found) else "training"


def _has_arrays(folder: Path) -> bool:
    annotations = folder / "annotations"
    if not ((folder / "images").is_dir() and annotations.is_dir()):
        return False
    return any(entry.name.endswith("_exp.npy") for _, entry in walk(annotations, 1))


def _expressions(folder: Path) -> list[Path]:
    """Return the arrays of expressions, in natural order."""
    annotations = folder / "annotations"
    return list(list_files(annotations, ("_exp.npy",))) if annotations.is_dir() else []


def _image_root(csv_path: Path) -> Path:
    """Return the folder that file names are relative to: a published image folder near the list, else that of the list."""
    kinds = ("Manually_Annotated", "Automatically_Annotated")
    if csv_path.name.startswith("automatically"):
        kinds = kinds[::-1]
    for base in (csv_path.parent, csv_path.parent.parent):
        for kind in kinds:
            for folder in (base / kind / f"{kind}_Images", base / f"{kind}_Images"):
                if folder.is_dir():
                    return folder
    images = csv_path.parent / "images"
    return images if images.is_dir() else csv_path.parent


def _expression(code: str) -> str:
    if code not in _CODES:
        raise DataError(f"expected an expression from 0 to 10, found {code[:20]!r}")
    return _CODES[code]


def _box(*values: str) -> tuple[int, int, int, int]:
    if not all(map(_PIXEL.fullmatch, values)):
        raise DataError(f"expected a face box in whole pixels, found {','.join(values)[:60]!r}")
    x, y, width, height = map(int, values)
    if width < 1 or height < 1 or x + width < 1 or y + height < 1:
        raise DataError(f"the face box x {x}, y {y}, {width}×{height} contains no pixel")
    return x, y, x + width, y + height


def _landmarks(text: str) -> np.ndarray:
    """Return ``[68, 2]`` of ``x;y;x;y;…``; NaN where the row has none."""
    if text in ("", "NULL"):
        return _absent()
    values = text.split(";")
    if len(values) != 2 * _POINTS:
        raise DataError(f"expected {_POINTS} landmarks x;y;…, found {len(values)} values")
    try:
        return _shape(np.array(values, np.float64))
    except ValueError:
        raise DataError("the landmarks are not numbers") from None


def _shape(values: np.ndarray) -> np.ndarray:
    if not (np.abs(values) < _MAX_COORDINATE_PX).all():
        raise DataError("the landmarks are not pixel positions")
    return values.astype(np.float32).reshape(_POINTS, 2)


def _absent() -> np.ndarray:
    return np.full((_POINTS, 2), np.nan, np.float32)


def _array(path: Path, size: int) -> np.ndarray:
    """Read a small array of numbers, or of numbers as text, without unpickling."""
    try:
        require_file(path)
        if path.stat().st_size > _MAX_ARRAY_BYTES:
            raise DataError(f"{path.name} is too large for {size} values")
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about arrays written by Python 2
            values = np.lib.format.read_array(file, allow_pickle=False)
        if values.size != size or values.dtype.kind not in "iufU":
            raise DataError(f"{path.name}: expected {size} numbers")
        values.tolist()  # raises for text with invalid code points
        return values if size == 1 else values.astype(np.float64).reshape(-1)
    # NumPy parses headers as Python literals; the errors that it raises for damaged ones are not documented.
    except (OSError, ValueError, EOFError, MemoryError, RecursionError, SyntaxError, TypeError, LookupError,
            OverflowError, AttributeError, SystemError, TokenError) as error:  # fmt: skip
        raise DataError(f"{path.name} is not a readable array ({without_fix(error)})") from error

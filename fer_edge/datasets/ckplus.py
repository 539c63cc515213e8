"""CK+ (Lucey et al., 2010): sequences from a neutral face to the peak of an expression."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from fer_edge._utils.listing import list_files, list_folders
from fer_edge.datasets.dataset import FaceDataset
from fer_edge.datasets.loading import Request, checked, no_split, one_hot
from fer_edge.datasets.rows import text_rows
from fer_edge.errors import DataError
from fer_edge.labels import CKPLUS

IMAGES = "cohn-kanade-images"
_POINTS = 68
_MAX_COORDINATE_PX = 1e6
_NUMBER = re.compile(r"[+-]?[0-9]{1,9}(\.[0-9]{1,12})?([eE][+-]?[0-9]{1,3})?")


def find(path: Path) -> Path | None:
    """Return the folder that holds ``cohn-kanade-images``; ``path`` is either of the two."""
    if path.name == IMAGES and path.is_dir():
        return path.parent
    return path if (path / IMAGES).is_dir() else None


def load(root: Path, request: Request) -> FaceDataset:
    """Load the first frame of each labelled sequence as neutral, and the last frames with its expression."""
    no_split(root, request.split)
    emotions = _part(root, "Emotion", "Emotion_labels")
    landmarks = _part(root, "Landmarks", "Landmarks")
    if emotions is None:
        raise DataError(f"{root} has no folder Emotion beside {IMAGES}. Fix: unpack the emotion labels there")
    paths: list[Path] = []
    names: list[str] = []
    subjects: list[str] = []
    points: list[np.ndarray] = []
    origins: list[str] = []
    unlabelled = 0
    sequences = [d for subject in list_folders(root / IMAGES) for d in list_folders(subject)]
    for sequence in sequences:
        place = sequence.relative_to(root / IMAGES)
        folder = emotions / place
        label_files = list(list_files(folder, ("_emotion.txt",))) if folder.is_dir() else []
        if not label_files:
            unlabelled += 1
            continue
        where = f"{label_files[0]}, line 1"
        with request.bad_rows.row(where):
            name = _label(label_files)
            frames = _frames(sequence, label_files[0], request.peak_frames)
            labelled = [(frames[0], CKPLUS[0]), *((f, name) for f in frames[-request.peak_frames :])]
            for frame, expression in labelled:
                # A bad landmark file excludes its frame, not the sequence.
                with request.bad_rows.row(str(frame)):
                    shape = _landmarks(landmarks, place, frame)
                    paths.append(frame)
                    names.append(expression)
                    subjects.append(place.parts[0])
                    points.append(shape)
                    origins.append(where)
    labels, class_names = one_hot(names, CKPLUS)
    shapes = np.array(points, np.float32).reshape(-1, _POINTS, 2)
    annotated = bool(np.isfinite(shapes).any())
    faces = FaceDataset(
        name="CK+",
        images=tuple(paths),
        labels=labels,
        class_names=class_names,
        are_crops=False,
        subjects=np.array(subjects, np.str_),
        landmarks=shapes if annotated else None,
        landmark_source="annotated" if annotated else "",
        origins=tuple(origins),
        left_out={"sequences without a label": unlabelled} if unlabelled else {},
    )
    return checked(faces, request.bad_rows, root)


def _part(root: Path, name: str, archive: str) -> Path | None:
    """Return the folder of a part of the data, which its archive may have put into another folder."""
    places = (root / archive / name, root / name)
    return next((p for p in places if p.is_dir()), None)


def _label(files: list[Path]) -> str:
    if len(files) > 1:
        raise DataError(f"expected one label file, found {len(files)}")
    rows = list(text_rows(files[0]))
    (text,) = rows[0].columns(1)
    value = float(text) if _NUMBER.fullmatch(text) else -1.0
    if len(rows) != 1 or value not in range(len(CKPLUS)):
        raise DataError(f"expected one number from 0 to {len(CKPLUS) - 1}, found {text[:20]!r}")
    return CKPLUS[int(value)]


def _frames(sequence: Path, label: Path, peak_frames: int) -> list[Path]:
    frames = list(list_files(sequence, (".png",)))
    if len(frames) < peak_frames + 1:
        raise DataError(f"{sequence} has {len(frames)} frames, expected at least {peak_frames + 1}")
    peak = label.name.removesuffix("_emotion.txt")
    if frames[-1].stem != peak:
        raise DataError(f"the label belongs to {peak}.png, but {sequence} ends with {frames[-1].name}")
    return frames


def _landmarks(folder: Path | None, place: Path, frame: Path) -> np.ndarray:
    """Return ``[68, 2]``; NaN if the data has no landmarks for this frame."""
    path = None if folder is None else folder / place / f"{frame.stem}_landmarks.txt"
    if path is None or not path.is_file():
        return np.full((_POINTS, 2), np.nan, np.float32)
    points = []
    for row in text_rows(path):
        try:
            pair = row.columns(2)
        except DataError as error:
            raise DataError(f"{row.where}: {error}") from error
        if not all(map(_NUMBER.fullmatch, pair)):
            raise DataError(f"{row.where}: expected x and y, found {' '.join(pair)[:60]!r}")
        points.append([float(v) for v in pair])
    if len(points) != _POINTS or not (np.abs(points) < _MAX_COORDINATE_PX).all():
        raise DataError(f"{path}: expected {_POINTS} pixel positions, found {len(points)} lines")
    return np.array(points, np.float32)

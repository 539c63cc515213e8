"""The common type of all data sets: images, label distributions and annotations of each face."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fer_edge._utils.images import read_image
from fer_edge.datasets.rows import BadRowError, Skipped
from fer_edge.errors import DataError, without_fix
from fer_edge.preprocess import cut_rectangle

_PER_IMAGE = ("labels", "subjects", "landmarks", "boxes_xyxy")


@dataclass(frozen=True)
class FaceDataset:
    """Face images with a label distribution each.

    Attributes
    ----------
    name : str
        Name for reports.
    images : np.ndarray or tuple of Path or np.ndarray
        ``[N, H, W]`` uint8 gray, ``[N, H, W, 3]`` BGR, or a tuple of such images and of paths that are decoded on
        access.
    labels : np.ndarray or None
        ``[N, K]`` float32, rows sum to 1, or to 0 for a face without a label; ``None`` for data without labels.
    class_names : tuple of str
        Order of the K columns.
    are_crops : bool
        ``True`` if each image is a face crop, so that no detector is needed.
    subjects : np.ndarray or None
        ``[N]`` str, identifiers of the persons shown, for folds that share no subject.
    landmarks : np.ndarray or None
        ``[N, 68, 2]`` float32 (x, y) pixels of the image that ``dataset[i]`` returns; NaN where absent.
    landmark_source : str
        ``annotated``, or ``pseudo: NAME`` for predicted landmarks; empty without landmarks.
    boxes_xyxy : np.ndarray or None
        ``[N, 4]`` int64 pixels of the image file: ``dataset[i]`` is that part of it.
    box_edge : {"clip", "replicate"}
        Beyond the image file, as in :class:`fer_edge.spec.CropRule`: clip the box, or repeat the border pixels.
    origins : tuple of str or None
        Label file and line of each image, for messages.
    skipped : Skipped
        Bad rows that were left out at the user's request.
    left_out : Mapping
        Number of valid rows that the data set's own rules leave out, by reason.
    """

    name: str
    images: np.ndarray | tuple[Path | np.ndarray, ...]
    labels: np.ndarray | None
    class_names: tuple[str, ...]
    are_crops: bool
    subjects: np.ndarray | None = None
    landmarks: np.ndarray | None = None
    landmark_source: str = ""
    boxes_xyxy: np.ndarray | None = None
    box_edge: str = "clip"
    origins: tuple[str, ...] | None = None
    skipped: Skipped = field(default_factory=Skipped)
    left_out: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> np.ndarray:
        """Return image ``index``: ``[H, W]`` gray or ``[H, W, 3]`` BGR, uint8."""
        try:
            return self.decode(index)
        except DataError as error:
            raise BadRowError(without_fix(error)) from error

    def decode(self, index: int) -> np.ndarray:
        """Return image ``index``; an error names the image and its line in the label file."""
        item = self.images[index]
        if isinstance(item, np.ndarray):
            return item
        try:
            image = read_image(item)
            if self.boxes_xyxy is None:
                return image
            return _cut(image, self.boxes_xyxy[index], self.box_edge, item)
        except DataError as error:
            if self.origins is None:
                raise
            raise DataError(f"{self.origins[index]}: {without_fix(error)}") from error

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))

    @property
    def targets(self) -> np.ndarray:
        """``[N]`` int64, the class with most votes (the first if several are equal)."""
        if self.labels is None:
            raise DataError(f"{self.name} has no labels. Fix: give labelled data")
        return np.asarray(self.labels.argmax(axis=1), np.int64)

    def subset(self, indices: Sequence[int] | np.ndarray) -> FaceDataset:
        """Return the data set restricted to ``indices``."""
        chosen = np.asarray(indices, np.int64)
        values: dict[str, Any] = {name: getattr(self, name) for name in _PER_IMAGE}
        parts: dict[str, Any] = {n: None if v is None else v[chosen] for n, v in values.items()}
        return replace(
            self,
            images=(
                self.images[chosen]
                if isinstance(self.images, np.ndarray)
                else tuple(self.images[i] for i in chosen)
            ),
            origins=None if self.origins is None else tuple(self.origins[i] for i in chosen),
            **parts,
        )

    def first(self, count: int) -> FaceDataset:
        """Return the first ``count`` images, or all if there are fewer."""
        return self.subset(range(min(count, len(self))))

    def sample(self, count: int, seed: int = 0) -> FaceDataset:
        """Return at most ``count`` images, drawn without replacement, in an order fixed by ``seed``."""
        order = np.random.default_rng(seed).permutation(len(self))
        return self.subset(order[:count])

    def where(self, index: int) -> str:
        """Return the label file and line, or the file, of image ``index``, for messages."""
        if self.origins is not None:
            return self.origins[index]
        item = self.images[index]
        return f"image {index} of {self.name}" if isinstance(item, np.ndarray) else str(item)

    def followed_by(self, others: FaceDataset, name: str) -> FaceDataset:
        """Return these images followed by ``others``, the latter without labels and annotations."""
        total = len(self) + len(others)

        def padded(values: np.ndarray | None) -> np.ndarray | None:
            if values is None:
                return None
            rows = np.zeros((total, *values.shape[1:]), values.dtype)
            rows[: len(self)] = values
            return rows

        landmarks = padded(self.landmarks)
        if landmarks is not None:
            landmarks[len(self) :] = np.nan
        return replace(
            self,
            name=name,
            images=(*self.images, *others),
            labels=padded(self.labels),
            subjects=padded(self.subjects),
            landmarks=landmarks,
            boxes_xyxy=padded(self.boxes_xyxy),
            origins=None
            if self.origins is None
            else (*self.origins, *(others.where(i) for i in range(len(others)))),
        )

    def fingerprint(self) -> str:
        """Return a SHA-256 of the image bytes, which identifies the data of a result."""
        digest = hashlib.sha256()
        if isinstance(self.images, np.ndarray):
            digest.update(np.ascontiguousarray(self.images).tobytes())
        else:
            for item in self.images:
                digest.update(item.tobytes() if isinstance(item, np.ndarray) else item.read_bytes())
        if self.boxes_xyxy is not None:
            digest.update(np.ascontiguousarray(self.boxes_xyxy).tobytes())
        return digest.hexdigest()


def _cut(image: np.ndarray, box_xyxy: np.ndarray, edge: str, path: Path) -> np.ndarray:
    left, top, right, bottom = (int(v) for v in box_xyxy)
    part = image[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    if part.size and edge == "replicate":
        return cut_rectangle(image, (left, top, right, bottom))
    if not part.size:
        raise DataError(
            f"the face box {box_xyxy.tolist()} lies outside {path}, which is {image.shape[1]}×{image.shape[0]}"
        )
    return part

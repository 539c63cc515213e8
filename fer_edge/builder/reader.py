"""Read faces from the pictures of a data set: crop, hash, and leave out pictures without contrast."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass

import numpy as np

from fer_edge._utils.progress import Progress, face_counter
from fer_edge.datasets import FaceDataset
from fer_edge.datasets.duplicates import FaceHashes, copies_of, hash_faces, repeats
from fer_edge.detection import create_detector
from fer_edge.detection.base import Detector
from fer_edge.errors import DataError
from fer_edge.evaluation.photographs import cut_faces, find_largest, holds_photographs
from fer_edge.spec import CropRule

#: Standard deviation of the 48×48 gray picture, in grey levels of 255. Of 32,140 faces of FER2013 the flattest has
#: 9.1, one in a thousand is below 18.6; cards of one grey with the noise of a camera have 1 to 2.
MIN_CONTRAST = 5.0
#: A data set with a larger share of such pictures is refused.
_MAX_FLAT = 0.01
_NAMED = 5
#: Smallest number of pictures to read at once.
_MIN_READ = 64


@dataclass
class Account:
    """Counts of the pictures of one data set, by outcome.

    Attributes
    ----------
    read : int
        Pictures that were read.
    photographs : bool
        ``True`` if they are photographs, from which the largest face was cropped.
    no_face, flat, repeated, in_comparison : int
        Pictures left out: no face found, hardly any contrast, copies of another face that is read, copies of a face
        in the comparison.
    """

    read: int = 0
    photographs: bool = False
    no_face: int = 0
    flat: int = 0
    repeated: int = 0
    in_comparison: int = 0


@dataclass(frozen=True)
class HashedFaces:
    """Face crops and their hashes, row by row; ``detected`` is true for crops that a detector cut from photographs."""

    faces: FaceDataset
    hashes: FaceHashes
    detected: bool = False

    def __len__(self) -> int:
        return len(self.faces)

    def part(self, start: int, stop: int) -> HashedFaces:
        """Return the faces from ``start`` to before ``stop``."""
        indices = np.arange(start, min(stop, len(self)))
        return HashedFaces(self.faces.subset(indices), self.hashes.subset(indices), self.detected)

    def repeats(self) -> np.ndarray:
        """Return ``[N]`` bool, true for each face that is a copy of an earlier one."""
        return repeats(self.hashes, shifted=self.detected)


class FaceReader:
    """Reads faces for one network; a context manager, since it may hold a detector.

    Parameters
    ----------
    rule : CropRule
        Rule for cropping faces from photographs.
    on_progress : callable
        Called with (stage, done, total).
    """

    def __init__(self, rule: CropRule, on_progress: Progress) -> None:
        self._rule, self._on_progress = rule, on_progress
        self._open = ExitStack()
        self._created: Detector | None = None

    def __enter__(self) -> FaceReader:
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def read_all(self, dataset: FaceDataset) -> tuple[HashedFaces, Account]:
        """Return every face of a data set.

        Raises
        ------
        DataError
            If no face is found, or more than a hundredth of the pictures have hardly any contrast.
        """
        account = Account(photographs=self._photographs(dataset))
        read = self._read(dataset, np.arange(len(dataset)), account, len(dataset))
        _check(dataset, account, read.flat)
        return self._faces(dataset, [read], account), account

    def draw(
        self, dataset: FaceDataset, order: np.ndarray, count: int, excluded: FaceHashes | None
    ) -> tuple[HashedFaces, Account]:
        """Return up to ``count`` faces in ``order``, without copies of each other or of ``excluded`` faces.

        The result is empty if all faces are excluded.

        Raises
        ------
        DataError
            As in :meth:`read_all`.
        """
        account = Account(photographs=self._photographs(dataset))
        kept: list[_Read] = []
        flat: list[str] = []
        seen: FaceHashes | None = None
        found = 0
        while len(order) and found < count:
            chunk, order = np.split(order, [max(count - found, _MIN_READ)])
            read = self._read(dataset, chunk, account, min(count, len(dataset)))
            flat += read.flat
            again = repeats(read.hashes, shifted=account.photographs)
            if seen is not None:
                again |= copies_of(read.hashes, seen, shifted=account.photographs)
            seen = read.hashes if seen is None else seen.followed_by(read.hashes)
            compared = (
                np.zeros(len(again), bool)
                if excluded is None
                else copies_of(read.hashes, excluded, shifted=True)
            )
            account.in_comparison += int(compared.sum())
            account.repeated += int((again & ~compared).sum())
            kept.append(read.subset(np.flatnonzero(~again & ~compared)))
            found += len(kept[-1].indices)
        _check(dataset, account, flat)
        return self._faces(dataset, kept, account).part(0, count), account

    def _read(self, dataset: FaceDataset, indices: np.ndarray, account: Account, total: int) -> _Read:
        """Crop and hash the pictures at ``indices``; leave out those without a face or without contrast."""
        faces, boxes = dataset.subset(indices), None
        already = account.read
        account.read += len(indices)
        if account.photographs:
            count = face_counter(
                lambda stage, done, total: self._on_progress(stage, already + done, total),
                f"finding faces in {dataset.name}",
                total,
            )
            found, boxes = find_largest(faces, self._detector(), self._rule, count)
            account.no_face += len(indices) - len(found)
            indices = indices[found]
            faces = cut_faces(faces.subset(found), boxes, self._rule)
        hashes = hash_faces(faces)
        contrast = hashes.contrast
        flat = np.flatnonzero(contrast < MIN_CONTRAST)
        account.flat += len(flat)
        named = tuple(f"{dataset.where(indices[i])} ({contrast[i]:.1f})" for i in flat[:_NAMED])
        fine = np.flatnonzero(contrast >= MIN_CONTRAST)
        return _Read(indices, boxes, hashes, named).subset(fine)

    def _faces(self, dataset: FaceDataset, parts: list[_Read], account: Account) -> HashedFaces:
        faces = dataset.subset(np.concatenate([part.indices for part in parts]))
        boxes = [part.boxes_xyxy for part in parts if part.boxes_xyxy is not None]
        if boxes:
            faces = cut_faces(faces, np.concatenate(boxes), self._rule)
        hashes = functools.reduce(FaceHashes.followed_by, (part.hashes for part in parts))
        return HashedFaces(faces, hashes, account.photographs)

    def _photographs(self, dataset: FaceDataset) -> bool:
        return holds_photographs(dataset, self._detector, self._rule)

    def _detector(self) -> Detector:
        if self._created is None:
            self._created = self._open.enter_context(closing(create_detector()))
        return self._created


@dataclass(frozen=True)
class _Read:
    """Indices of pictures, face boxes in photographs, hashes, and names of pictures without contrast."""

    indices: np.ndarray
    boxes_xyxy: np.ndarray | None
    hashes: FaceHashes
    flat: tuple[str, ...]

    def subset(self, rows: np.ndarray) -> _Read:
        boxes = None if self.boxes_xyxy is None else self.boxes_xyxy[rows]
        return _Read(self.indices[rows], boxes, self.hashes.subset(rows), self.flat)


def _check(dataset: FaceDataset, account: Account, flat: Sequence[str]) -> None:
    if account.flat > _MAX_FLAT * account.read:
        raise DataError(
            f"{account.flat} of {account.read} pictures of {dataset.name} have hardly any contrast: expected a standard "
            f"deviation of at least {MIN_CONTRAST:g} of 255 grey levels, found {', '.join(sorted(flat)[:_NAMED])}"
            f"{', …' if account.flat > _NAMED else ''}. Fix: remove these pictures, or give pictures of faces"
        )
    if account.photographs and account.no_face == account.read:
        raise DataError(
            f"no face is found in the {account.read} photographs of {dataset.name}. Fix: give photographs in which a "
            "face is at least 40 pixels high, or a folder of face crops"
        )

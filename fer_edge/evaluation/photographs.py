"""Photographs: recognised as such, and cut to the largest face of each; ``build``, ``eval`` and ``train`` share this rule."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from contextlib import ExitStack, closing

import numpy as np

from fer_edge.datasets import FaceDataset
from fer_edge.detection.base import Detector
from fer_edge.preprocess import crop_rectangle
from fer_edge.spec import CropRule

#: So many pictures of a folder are looked at. The crop of a detected face covers 90 % of a face crop at the median
#: (FER2013, enlarged to 96 pixels: 94 %, 51 % at the 5 % quantile).
_PROBED = 12
_MIN_SIDE_PX = 96
_CROP_SHARE = 0.4


def holds_photographs(faces: FaceDataset, detector: Callable[[], Detector], rule: CropRule) -> bool:
    """Return whether the pictures are photographs in which a face is only a part.

    A data set that says so is believed. Pictures of a folder are looked at: they are photographs if a face is found
    in at least a quarter of them, and its crop covers less than 40 % of the picture at the median.

    Parameters
    ----------
    faces : FaceDataset
        The pictures.
    detector : callable
        Gives the detector; called only where there is something to detect.
    rule : CropRule
        How the network's crops are cut.
    """
    if not faces.are_crops:
        return True
    if isinstance(faces.images, np.ndarray) or faces.boxes_xyxy is not None:
        return False
    probed = faces.subset(np.unique(np.linspace(0, len(faces) - 1, min(_PROBED, len(faces))).astype(int)))
    large = [image for image in probed if min(image.shape[:2]) >= _MIN_SIDE_PX]
    shares = []
    for image in large:
        found = face_rectangle(image, detector(), rule)
        if found is not None:
            left, top, right, bottom = found
            shares.append((right - left) * (bottom - top) / (image.shape[0] * image.shape[1]))
    return len(shares) >= max(1, len(large) / 4) and float(np.median(shares)) < _CROP_SHARE


def recognised(faces: FaceDataset, create: Callable[[], Detector], rule: CropRule) -> FaceDataset:
    """Return the data set with ``are_crops`` as :func:`holds_photographs` finds it.

    ``create`` makes a detector; it is called at most once, where there is something to detect, and the detector is closed.
    """
    with ExitStack() as stack:
        detector = functools.cache(lambda: stack.enter_context(closing(create())))
        return dataclasses.replace(faces, are_crops=not holds_photographs(faces, detector, rule))


def face_rectangle(image: np.ndarray, detector: Detector, rule: CropRule) -> tuple[int, int, int, int] | None:
    """Return the crop of the largest face (left, top, right, bottom), ``None`` where no face is found."""
    found = detector.detect(image)
    return crop_rectangle(found[0].box_xyxy, rule, *image.shape[:2]) if found else None


def find_largest(
    photographs: FaceDataset, detector: Detector, rule: CropRule, on_picture: Callable[[int], None]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the crop of the largest face of each photograph.

    Parameters
    ----------
    photographs : FaceDataset
        N pictures.
    detector : Detector
        Finds faces.
    rule : CropRule
        How the network's crops are cut.
    on_picture : callable
        Called with 1 after each photograph.

    Returns
    -------
    indices : np.ndarray
        ``[M]`` int64, the photographs in which a face is found.
    boxes_xyxy : np.ndarray
        ``[M, 4]`` int64 pixels of the photograph; beyond it where the rule repeats border pixels.
    """
    boxes, kept = [], []
    for index, image in enumerate(photographs):
        rectangle = face_rectangle(image, detector, rule)
        if rectangle is not None:
            boxes.append(rectangle)
            kept.append(index)
        on_picture(1)
    return np.array(kept, np.int64), np.array(boxes, np.int64).reshape(-1, 4)


def cut_faces(photographs: FaceDataset, boxes_xyxy: np.ndarray, rule: CropRule) -> FaceDataset:
    """Return one face of each photograph, ``boxes_xyxy`` as :func:`find_largest` gives them; files are cut on access."""
    return dataclasses.replace(
        photographs, boxes_xyxy=boxes_xyxy, box_edge=rule.edge, landmarks=None, are_crops=True
    )

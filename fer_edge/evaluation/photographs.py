"""Detection of photographs, and crops of their largest face, shared by ``build``, ``eval`` and ``train``."""

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

#: Number of tested images. In a face crop, the crop of the detected face covers 90 % of the image at the median
#: (FER2013, enlarged to 96 pixels: 94 %, 51 % at the 5 % quantile).
_PROBED = 12
_MIN_SIDE_PX = 96
_CROP_SHARE = 0.4


def holds_photographs(faces: FaceDataset, detector: Callable[[], Detector], rule: CropRule) -> bool:
    """Return ``True`` if the images are photographs, in which a face is only a part.

    A data set that declares photographs is not tested. Images of a folder are photographs if a face is found in at
    least a quarter of them, and its crop covers less than 40 % of the image at the median.

    Parameters
    ----------
    faces : FaceDataset
        Images.
    detector : callable
        Returns the detector; called only if detection is needed.
    rule : CropRule
        Crop rule of the network.
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
    """Return the data set with ``are_crops`` set by :func:`holds_photographs`.

    ``create`` returns a detector; it is called at most once, if detection is needed, and the detector is closed.
    """
    with ExitStack() as stack:
        detector = functools.cache(lambda: stack.enter_context(closing(create())))
        return dataclasses.replace(faces, are_crops=not holds_photographs(faces, detector, rule))


def face_rectangle(image: np.ndarray, detector: Detector, rule: CropRule) -> tuple[int, int, int, int] | None:
    """Return the crop of the largest face (left, top, right, bottom), ``None`` if no face is found."""
    found = detector.detect(image)
    return crop_rectangle(found[0].box_xyxy, rule, *image.shape[:2]) if found else None


def find_largest(
    photographs: FaceDataset, detector: Detector, rule: CropRule, on_picture: Callable[[int], None]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the crop of the largest face of each photograph.

    Parameters
    ----------
    photographs : FaceDataset
        N images.
    detector : Detector
        Face detector.
    rule : CropRule
        Crop rule of the network.
    on_picture : callable
        Called with 1 after each photograph.

    Returns
    -------
    indices : np.ndarray
        ``[M]`` int64, indices of the photographs with a face.
    boxes_xyxy : np.ndarray
        ``[M, 4]`` int64 pixels of the photograph; may extend beyond it if the rule repeats border pixels.
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
    """Return one face crop per photograph from the boxes of :func:`find_largest`; files are cropped on access."""
    return dataclasses.replace(
        photographs, boxes_xyxy=boxes_xyxy, box_edge=rule.edge, landmarks=None, are_crops=True
    )

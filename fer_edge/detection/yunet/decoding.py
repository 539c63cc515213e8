"""Decoding of YuNet's maps to boxes, scores and landmarks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fer_edge.detection.yunet.graph import MAPS

#: Intersection over union of two faces.
MAX_OVERLAP = 0.3

_MAX_LOG_SIDE = 12.0  # of a box, in strides; exp() of more is beyond any frame


@dataclass(frozen=True)
class Found:
    """Faces in pixels of an image: ``[N, 4]`` boxes, ``[N]`` scores, ``[N, 5, 2]`` landmarks, ``[N]`` clockwise turns."""

    boxes_xyxy: np.ndarray
    scores: np.ndarray
    landmarks: np.ndarray
    roll_deg: np.ndarray

    def __getitem__(self, chosen: Any) -> Found:
        """Return some of them, in the order of ``chosen``."""
        return Found(
            self.boxes_xyxy[chosen], self.scores[chosen], self.landmarks[chosen], self.roll_deg[chosen]
        )

    @classmethod
    def joined(cls, parts: Sequence[Found]) -> Found:
        """Return the faces of all parts."""
        return cls(
            np.concatenate([part.boxes_xyxy for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.landmarks for part in parts]),
            np.concatenate([part.roll_deg for part in parts]),
        )


NOTHING = Found(np.zeros((0, 4)), np.zeros(0), np.zeros((0, 5, 2)), np.zeros(0))


def decode(outputs: Mapping[str, np.ndarray], min_score: float) -> Found:
    """Decode the outputs for one image to its pixels; errors and scores as :func:`decode_batch`."""
    return decode_batch(outputs, min_score)[0]


def decode_batch(outputs: Mapping[str, np.ndarray], min_score: float) -> tuple[Found, np.ndarray]:
    """Decode the outputs for a batch to pixels of its images, as OpenCV's ``FaceDetectorYN`` does.

    The score of an anchor is √(p · q), with the probability p of the class and q of the objectness.

    Parameters
    ----------
    outputs : Mapping of str to np.ndarray
        ``[B, 16, h, w]`` of each stride, see :data:`fer_edge.detection.yunet.graph.MAPS`.
    min_score : float
        Smallest score of an anchor, in [0, 1].

    Returns
    -------
    found, images : Found, np.ndarray
        Faces of all images, and the index of the image of each, ``[N]``.
    """
    least = _logit(min_score**2)  # p and q are at most 1, so each is at least the square of the score
    parts = []
    for name, stride in MAPS.items():
        count, channels, _, width = outputs[name].shape
        values = outputs[name].reshape(count, channels, -1)
        images, near = np.nonzero((values[:, 0] >= least) & (values[:, 1] >= least))
        if not len(near):
            continue
        numbers = values[images, :, near].astype(np.float64)
        scores = np.exp(-(np.logaddexp(0, -numbers[:, 0]) + np.logaddexp(0, -numbers[:, 1])) / 2)
        kept = scores >= min_score
        anchors, numbers = near[kept], numbers[kept]
        corner_xy = np.stack([anchors % width, anchors // width], axis=1)
        centre = (corner_xy + numbers[:, 2:4]) * stride
        half = np.exp(numbers[:, 4:6].clip(max=_MAX_LOG_SIDE)) * (stride / 2)
        boxes = np.concatenate([centre - half, centre + half], axis=1)
        landmarks = (numbers[:, 6:].reshape(-1, 5, 2) + corner_xy[:, None]) * stride
        parts.append((Found(boxes, scores[kept], landmarks, np.zeros(len(boxes))), images[kept]))
    if not parts:
        return NOTHING, np.zeros(0, np.intp)
    return Found.joined([part for part, _ in parts]), np.concatenate([images for _, images in parts])


def _logit(probability: float) -> float:
    if probability <= 0:
        return -math.inf
    return math.inf if probability >= 1 else math.log(probability / (1 - probability))

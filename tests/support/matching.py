"""Comparison of the faces that two detectors found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from fer_edge.results import Box, Detection

MIN_FACE_PX = 28  # the smallest photographs are 32 pixels wide


class Difference(NamedTuple):
    """The worst of all pairs, and the share of them that overlap by 0.98 at least."""

    iou: float
    share: float
    landmarks_px: float
    score: float
    pairs: int


def iou(a: Box, b: Box) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (area - width * height)


def compare(pictures: Iterable[tuple[Sequence[Detection], Sequence[Detection]]]) -> Difference:
    """Pair the faces of each picture one to one; each must have its partner."""
    pairs = []
    for number, (ours, theirs) in enumerate(pictures):
        assert len(ours) == len(theirs), f"picture {number}: {ours} and {theirs}"
        rest = list(theirs)
        for face in ours:
            partner = max(rest, key=lambda other: iou(face.box_xyxy, other.box_xyxy))
            rest.remove(partner)
            pairs.append((face, partner))
    overlaps = [iou(a.box_xyxy, b.box_xyxy) for a, b in pairs]
    return Difference(
        min(overlaps),
        float(np.mean(np.array(overlaps) >= 0.98)),
        max(float(np.abs(a.landmarks - b.landmarks).max()) for a, b in pairs),
        max(abs(a.score - b.score) for a, b in pairs),
        len(pairs),
    )

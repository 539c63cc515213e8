"""Sizes of boxes found in the surroundings of a face, as a search of the whole frame gives them.

YuNet draws larger boxes around faces that fill more of its input. Without a correction, boxes and crops of a track would
change by some percent whenever the whole frame is searched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from fer_edge.results import Detection

_MAX_RATIO = 1.25


class SizeRatios:
    """Width and height of a face in the whole frame over those in its surroundings, by track."""

    def __init__(self) -> None:
        self._ratios: dict[int, np.ndarray] = {}

    def learn(self, whole: Mapping[int, Detection], again: Mapping[int, Detection | None]) -> None:
        """Compare the boxes that both searches found in one frame; other tracks are forgotten."""
        ratios = {}
        for track_id, face in whole.items():
            found = again.get(track_id)
            if found is not None:
                ratio = _sides(face) / _sides(found)
                ratios[track_id] = np.clip(ratio, 1 / _MAX_RATIO, _MAX_RATIO)
        self._ratios = ratios

    def corrected(
        self, again: Mapping[int, Detection | None], frame_size: tuple[int, int]
    ) -> Mapping[int, Detection | None]:
        """Return faces found in their surroundings with the sizes that the whole frame gives, inside the frame."""
        return {
            track_id: face
            if face is None or (ratio := self._ratios.get(track_id)) is None
            else _scaled(face, ratio, frame_size)
            for track_id, face in again.items()
        }


def _sides(face: Detection) -> np.ndarray:
    left, top, right, bottom = face.box_xyxy
    return np.maximum((right - left, bottom - top), 1.0)


def _scaled(face: Detection, ratio: np.ndarray, frame_size: tuple[int, int]) -> Detection:
    low, high = np.reshape(face.box_xyxy, (2, 2))
    # An edge at the border of the frame is cut off, and stays there.
    at_border = (low <= 0.5) | (high >= np.subtract(frame_size, 0.5))
    grown = np.where(at_border, 0.0, (high - low) * (ratio - 1) / 2)
    (left, top), (right, bottom) = (low - grown).clip(0), np.minimum(high + grown, frame_size)
    return replace(face, box_xyxy=(float(left), float(top), float(right), float(bottom)))

"""Second looks for faces that are turned in the image plane, at an image that is turned back.

YuNet was trained on upright faces. It finds most faces up to 30°, fewer at 45°, and places their landmarks as if they
were upright: they do not tell the angle. Turned by 40° to either side, such a face is upright again.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from fer_edge.detection.nms import suppress
from fer_edge.detection.yunet.decoding import MAX_OVERLAP, NOTHING, Found

ANGLES_DEG = (-40, 40)
#: Surer candidates are not looked at again.
SURE_SCORE = 0.88
#: Weaker candidates are not looked at.
WEAK_SCORE = 0.3

#: Of the best candidates; a look takes 8 % of the time of the upright one.
_MAX_CANDIDATES = 4
# Of the score of a turned look over the upright one: among faces of FER2013 at 45° on backgrounds, 93 % are then turned to
# the right side, and 3 % of the upright ones are turned.
_MARGIN = 0.01
# Around a candidate: the side of the look in sides of its box, and in pixels. One size, since a backend with fixed sizes
# compiles each.
_CONTEXT, _LOOK_PX = 1.8, 64
# A turned image is twice as large; at this scale a look takes as long as the upright one.
_WHOLE_SCALE = 0.7
#: Larger images are shrunk for it: in 4K a frame without a face took three times as long as one with a face.
_MAX_WHOLE_PX = 400_000


@dataclass(frozen=True)
class _Look:
    """A turned part of an image.

    Attributes
    ----------
    angle_deg : int
        Clockwise turn of the faces that are upright in it.
    affine : np.ndarray
        ``[2, 3]`` float64, image → look, in pixels counted from pixel edges.
    size : tuple of int
        Width and height.
    """

    angle_deg: int
    affine: np.ndarray
    size: tuple[int, int]

    @classmethod
    def at(cls, centre_xy: np.ndarray, size: tuple[int, int], scale: float, angle_deg: int) -> _Look:
        x, y = float(centre_xy[0]), float(centre_xy[1])
        affine = cv2.getRotationMatrix2D((x, y), angle_deg, scale)
        affine[:, 2] += np.array(size) / 2 - (x, y)
        return cls(angle_deg, affine, size)

    def of(self, image_bgr: np.ndarray) -> np.ndarray:
        """Return its pixels; black beyond the image."""
        centres = self.affine.copy()  # OpenCV counts from pixel centres
        centres[:, 2] += centres[:, :2].sum(axis=1) / 2 - 0.5
        return cv2.warpAffine(image_bgr, centres, self.size, flags=cv2.INTER_LINEAR)

    def to_image(self, found: Found) -> Found:
        """Return faces of the look in pixels of the image; boxes keep their sides, and have the same centres."""
        back = cv2.invertAffineTransform(self.affine)
        scale = float(np.sqrt(np.linalg.det(back[:, :2])))
        low, high = found.boxes_xyxy[:, :2], found.boxes_xyxy[:, 2:]
        centres, halves = _apply(back, (low + high) / 2), (high - low) / 2 * scale
        return Found(
            np.concatenate([centres - halves, centres + halves], axis=1),
            found.scores,
            _apply(back, found.landmarks),
            np.full(len(found.scores), float(self.angle_deg)),
        )


class TurnedSearch:
    """Finds turned faces by second looks.

    The best candidates of the upright look are looked at again, in a small part of the image; without any face, the
    whole image is.

    Parameters
    ----------
    find : callable
        Takes an image and the smallest score, returns the faces, best first.
    min_score : float
        Smallest score of a face.
    looks_per_frame : float
        Looks at the whole of an image without a face: 2 are both angles; fewer are spread over the images.
    """

    def __init__(
        self, find: Callable[[np.ndarray, float], Found], min_score: float, looks_per_frame: float
    ) -> None:
        self._find, self._min_score = find, min_score
        self._schedule = _Schedule(looks_per_frame)

    def __call__(self, image_bgr: np.ndarray, max_looks: float = len(ANGLES_DEG)) -> Found:
        """Return the upright and the turned faces, best first; ``max_looks`` limits the looks at the whole image."""
        candidates = self._find(image_bgr, min(WEAK_SCORE, self._min_score))
        unsure = np.flatnonzero(candidates.scores < SURE_SCORE)[:_MAX_CANDIDATES]
        again = [self._again(image_bgr, candidates[[index]]) for index in unsure]
        found = Found.joined([*again, candidates[np.setdiff1d(np.arange(len(candidates.scores)), unsure)]])
        found = found[found.scores >= self._min_score]
        found = found[suppress(found.boxes_xyxy, found.scores, MAX_OVERLAP)]  # two looks may find one face
        return found if len(found.scores) else self._whole(image_bgr, max_looks)

    def _again(self, image_bgr: np.ndarray, candidate: Found) -> Found:
        """Return the best of a candidate and the faces that turned looks find in its place."""
        (box,), best = candidate.boxes_xyxy, candidate
        centre, side = (box[:2] + box[2:]) / 2, float((box[2:] - box[:2]).max())
        for angle in ANGLES_DEG:
            look = _Look.at(centre, (_LOOK_PX, _LOOK_PX), _LOOK_PX / (_CONTEXT * side), angle)
            least = max(self._min_score, float(best.scores[0]) + (_MARGIN if best is candidate else 0))
            found = look.to_image(self._find(look.of(image_bgr), least))
            distances = np.abs((found.boxes_xyxy[:, :2] + found.boxes_xyxy[:, 2:]) / 2 - centre).max(axis=1)
            near = np.flatnonzero(distances < side / 2)
            if len(near):
                best = found[near[:1]]
        return best

    def _whole(self, image_bgr: np.ndarray, max_looks: float) -> Found:
        """Return the faces of the angle with the best one."""
        height, width = image_bgr.shape[:2]
        scale = min(_WHOLE_SCALE, math.sqrt(_MAX_WHOLE_PX / (2 * height * width)))
        best = NOTHING
        for angle in self._schedule.angles(max_looks):
            cosine, sine = scale * np.abs((np.cos(np.radians(angle)), np.sin(np.radians(angle))))
            size = (round(width * cosine + height * sine), round(width * sine + height * cosine))
            look = _Look.at(np.array([width, height]) / 2, size, scale, angle)
            found = look.to_image(self._find(look.of(image_bgr), self._min_score))
            if len(found.scores) and (not len(best.scores) or found.scores[0] > best.scores[0]):
                best = found
        self._schedule.tell(best)
        return best


class _Schedule:
    """Angles of the looks at whole images. An angle that found a face is taken for the next image without an upright one."""

    def __init__(self, looks_per_frame: float) -> None:
        self._looks_per_frame = looks_per_frame
        self._lock = threading.Lock()  # of the fields below
        self._due, self._next, self._fruitful = 0.0, 0, False

    def angles(self, max_looks: float) -> tuple[int, ...]:
        looks = min(self._looks_per_frame, max_looks)
        if looks <= 0:
            return ()
        with self._lock:
            if looks >= len(ANGLES_DEG):
                return ANGLES_DEG
            self._due = min(self._due + looks, len(ANGLES_DEG))
            count = max(int(self._due), int(self._fruitful))
            self._due = max(self._due - count, 0.0)
            first = self._next
            self._next = (first + count) % len(ANGLES_DEG)
            return tuple(ANGLES_DEG[(first + i) % len(ANGLES_DEG)] for i in range(count))

    def tell(self, found: Found) -> None:
        with self._lock:
            self._fruitful = len(found.scores) > 0
            if self._fruitful:
                self._next = ANGLES_DEG.index(int(found.roll_deg[0]))


def _apply(affine: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ affine[:, :2].T + affine[:, 2]

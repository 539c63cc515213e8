"""Cameras that are mounted on their side or upside down: a frame is turned upright once, and its result is turned back."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from fer_edge.cuda.arrays import is_device_array
from fer_edge.errors import UsageError
from fer_edge.frames import Frame, check_frame
from fer_edge.results import Box, Detection, Face, FrameResult

AUTO = "auto"
#: Clockwise turns that make the frames of a camera upright.
ROTATIONS_DEG = (0, 90, 180, 270)

_CODES = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}
#: ``auto`` is decided when one rotation was the best for this many more frames than any other.
_MARGIN_FRAMES = 3


@dataclass(frozen=True)
class UprightFrame:
    """A frame, turned clockwise by ``rotation_deg``."""

    frame: Frame
    rotation_deg: int

    def turn(self, detection: Detection) -> Detection:
        """Return a detection in the frame as it was given as one of the turned frame."""
        if not self.rotation_deg:
            return detection
        height, width = self.frame.image.shape[:2]
        size = (width, height) if self.rotation_deg == 180 else (height, width)
        back = 360 - self.rotation_deg
        landmarks = detection.landmarks
        return replace(
            detection,
            box_xyxy=_box_back(detection.box_xyxy, back, size),
            landmarks=None if landmarks is None else _points_back(landmarks, back, size),
        )

    def turn_back(self, result: FrameResult) -> FrameResult:
        """Return a result of the turned frame with boxes, landmarks and attention of the frame as it was given.

        Landmarks keep their order, which is that of the upright face.
        """
        if not self.rotation_deg:
            return result
        size = self.frame.image.shape[1], self.frame.image.shape[0]
        return replace(result, faces=tuple(self._face(face, size) for face in result.faces))

    def _face(self, face: Face, size: tuple[int, int]) -> Face:
        turned = replace(face, box_xyxy=_box_back(face.box_xyxy, self.rotation_deg, size))
        if face.crop_xyxy is not None:
            turned = replace(turned, crop_xyxy=_box_back(face.crop_xyxy, self.rotation_deg, size))
        if face.landmarks is not None:
            turned = replace(turned, landmarks=_points_back(face.landmarks, self.rotation_deg, size))
        if face.attention is not None:
            turned = replace(turned, attention=np.rot90(face.attention, self.rotation_deg // 90))
        return turned


class Mounting:
    """The rotation of a camera, given or found from the faces.

    Parameters
    ----------
    rotation : int or str
        One of :data:`ROTATIONS_DEG`, or ``auto``: the rotation with the surest face, frame by frame, until one has led
        in three frames more than any other; from then on it stays. Until a face is seen, each frame is searched in one
        rotation more than usual.
    detect : callable
        Returns the faces of an upright frame.
    """

    def __init__(self, rotation: int | str, detect: Callable[[np.ndarray], Sequence[Detection]]) -> None:
        self._detect = detect
        self._lock = threading.Lock()  # of the fields below
        self._decided = None if rotation == AUTO else int(rotation)
        self._votes: Counter[int] = Counter()
        self._frames = 0

    @property
    def rotation_deg(self) -> int | None:
        """Clockwise turn that makes frames upright; ``None`` while it is not known."""
        with self._lock:
            return self._decided

    def turn(self, frame: Frame) -> UprightFrame:
        """Return a frame upright.

        Raises
        ------
        DataError
            If the frame has another shape or dtype.
        UsageError
            If it is in device memory and must be turned.
        """
        decided = self.rotation_deg
        if decided == 0:
            return UprightFrame(frame, 0)
        if is_device_array(frame.image):
            raise UsageError(
                "expected a frame in host memory where frames are rotated, found one in device memory. "
                "Fix: copy it to the host, or give upright frames and rotate=0 (--rotate 0)"
            )
        image = check_frame(frame.image)
        rotation = self._find(image) if decided is None else decided
        return UprightFrame(replace(frame, image=_rotated(image, rotation)), rotation)

    def _find(self, image: np.ndarray) -> int:
        with self._lock:
            leader = max(ROTATIONS_DEG, key=lambda rotation: self._votes[rotation])
            others = [rotation for rotation in ROTATIONS_DEG if rotation != leader]
            first = (leader, others.pop(self._frames % len(others)))
            self._frames += 1
        scores = {rotation: self._score(image, rotation) for rotation in first}
        if not any(scores.values()):
            return leader
        scores |= {rotation: self._score(image, rotation) for rotation in others}
        best = max(ROTATIONS_DEG, key=lambda rotation: scores[rotation])
        with self._lock:
            self._votes[best] += 1
            (winner, most), *rest = self._votes.most_common(2)
            if self._decided is None and most - (rest[0][1] if rest else 0) >= _MARGIN_FRAMES:
                self._decided = winner
        return best

    def _score(self, image: np.ndarray, rotation: int) -> float:
        return max((found.score for found in self._detect(_rotated(image, rotation))), default=0.0)


def require_rotation(value: object) -> None:
    """Require one of :data:`ROTATIONS_DEG` or ``auto``.

    Raises
    ------
    UsageError
        If it is neither.
    """
    if value != AUTO and not (type(value) is int and value in ROTATIONS_DEG):
        choices = ", ".join(map(str, ROTATIONS_DEG))
        raise UsageError(
            f"rotate must be one of {choices} or {AUTO}, found {value!r:.60}. Fix: give one of these"
        )


def _rotated(image: np.ndarray, rotation_deg: int) -> np.ndarray:
    return cv2.rotate(image, _CODES[rotation_deg]) if rotation_deg else image


def _points_back(points: np.ndarray, rotation_deg: int, size: tuple[int, int]) -> np.ndarray:
    """Return points ``[N, 2]`` of a turned image of (width, height) in the image before."""
    width, height = size
    x, y = points[:, 0], points[:, 1]
    if rotation_deg == 90:
        x, y = y, width - x
    elif rotation_deg == 180:
        x, y = width - x, height - y
    elif rotation_deg == 270:
        x, y = height - y, x
    return np.stack([x, y], axis=1)


def _box_back(box_xyxy: Box, rotation_deg: int, size: tuple[int, int]) -> Box:
    corners = _points_back(np.array(box_xyxy, np.float64).reshape(2, 2), rotation_deg, size)
    (left, top), (right, bottom) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
    return left, top, right, bottom

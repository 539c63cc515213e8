"""Haar cascade of OpenCV: no weights to download, frontal faces only, no landmarks.

P. Viola, M. Jones: "Rapid Object Detection using a Boosted Cascade of Simple Features", CVPR 2001.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from fer_edge._utils.files import opencv_path
from fer_edge._utils.guard import Guard
from fer_edge.detection.base import MIN_FACE_PX, DetectorOptions, Effort
from fer_edge.detection.postprocess import to_detections
from fer_edge.errors import DetectorError
from fer_edge.frames import check_frame
from fer_edge.results import Detection

DEFAULT_MIN_SCORE = 0.5

_CASCADE = "haarcascade_frontalface_default.xml"
_SCALE_STEP = 1.1
# The frame is downscaled until the smallest face to detect has this side; the cascade's window has 24 pixels.
_MIN_FACE_PX = 28
_MIN_NEIGHBOURS = 3
# Votes at which the score is 1 - 1/e; faces in photographs have 2 to 12 votes, with a median of 6.
_VOTES_SCALE = 3.0


class HaarDetector:
    """Finds upright frontal faces.

    The score is ``1 - exp(-votes / 3)``, where ``votes`` is the weighted vote of the cascade's last stage
    for the best of the merged windows, and 0 for negative votes. It ranks detections; it is not a
    probability. ``options.backend`` and ``options.threads`` have no effect.

    Raises
    ------
    DetectorError
        If the installed OpenCV has no cascades.
    """

    name = "haar"
    max_faces: int | None = None

    def __init__(self, options: DetectorOptions) -> None:
        self._min_face_px = options.min_face_px or MIN_FACE_PX
        self._min_score = DEFAULT_MIN_SCORE if options.min_score is None else options.min_score
        self._cascade = Guard(_load(), "detector", DetectorError)  # OpenCV's object is not thread-safe

    def detect(self, frame_bgr: np.ndarray, effort: Effort = Effort.USUAL) -> list[Detection]:
        frame = check_frame(frame_bgr)
        scale = min(_MIN_FACE_PX / self._min_face_px, 1.0)
        height, width = (max(round(side * scale), 1) for side in frame.shape[:2])
        small = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
        smallest_px = min(self._min_face_px, _MIN_FACE_PX)
        gray = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY)
        with self._cascade as cascade:
            corners_and_sizes, _, votes = cascade.detectMultiScale3(
                gray,
                scaleFactor=_SCALE_STEP,
                minNeighbors=_MIN_NEIGHBOURS,
                minSize=(smallest_px, smallest_px),
                outputRejectLevels=True,
            )
        boxes = np.asarray(corners_and_sizes, np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        boxes *= np.tile([frame.shape[1] / width, frame.shape[0] / height], 2)
        scores = 1 - np.exp(-np.asarray(votes, np.float64).reshape(-1).clip(0) / _VOTES_SCALE)
        keep = scores >= self._min_score
        return to_detections(frame, boxes[keep], scores[keep], None, self._min_face_px)

    def close(self) -> None:
        self._cascade.close()


def _load() -> cv2.CascadeClassifier:
    data = getattr(cv2, "data", None)
    if data is None or not hasattr(cv2, "CascadeClassifier"):
        raise DetectorError(
            f"OpenCV {cv2.__version__} has no Haar cascades in its main package. "
            "Fix: run pip install 'opencv-python-headless<5', or choose another detector"
        )
    path = Path(data.haarcascades) / _CASCADE
    cascade = cv2.CascadeClassifier(opencv_path(path))
    if cascade.empty():
        raise DetectorError(
            f"OpenCV cannot read its cascade {path}. "
            "Fix: run pip install --force-reinstall 'opencv-python-headless<5'"
        )
    return cascade

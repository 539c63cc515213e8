"""YuNet: one small network that finds faces and five landmarks, run by OpenCV.

W. Wu, H. Peng, S. Yu: "YuNet: A Tiny Millisecond-level Face Detector", Machine Intelligence Research 20, 2023.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from fer_edge.detection import check_frame, to_detections
from fer_edge.detection.base import DetectorOptions
from fer_edge.errors import DetectorError
from fer_edge.results import Detection

DEFAULT_MIN_SCORE = 0.7

_MAX_OVERLAP = 0.3
_MAX_CANDIDATES = 5000
# The frame is shrunk until the smallest face looked for has this side, which YuNet still finds.
_SMALLEST_FACE_PX = 20
# OpenCV returns boxes that are not numbers where the network's last map is a single row or column.
_MIN_SIDE_PX = 64
_FIX = "give a YuNet file with fixed input size, such as face_detection_yunet_2023mar.onnx of OpenCV Zoo"


class YuNetDetector:
    """Finds faces and five landmarks with the YuNet file ``options.model``.

    OpenCV chooses how the network runs: ``options.backend`` and ``options.threads`` have no effect.

    Raises
    ------
    DetectorError
        If no file is named, or OpenCV cannot read it or run it as YuNet.
    """

    name = "yunet"

    def __init__(self, options: DetectorOptions) -> None:
        if options.model is None:
            raise DetectorError(
                f"detector yunet needs a model file: name one with --detector-model FILE ({_FIX})"
            )
        self._min_face_px = options.min_face_px
        min_score = DEFAULT_MIN_SCORE if options.min_score is None else options.min_score
        self._detector: cv2.FaceDetectorYN | None = _load(Path(options.model), min_score)

    def detect(self, frame_bgr: np.ndarray) -> list[Detection]:
        """See :class:`fer_edge.detection.base.Detector`."""
        if self._detector is None:
            raise DetectorError("this detector is closed: create another")
        frame = check_frame(frame_bgr)
        scale = min(_SMALLEST_FACE_PX / self._min_face_px, 1.0)
        height, width = (max(round(side * scale), 1) for side in frame.shape[:2])
        small = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
        bottom, right = max(_MIN_SIDE_PX - height, 0), max(_MIN_SIDE_PX - width, 0)
        small = cv2.copyMakeBorder(small, 0, bottom, 0, right, cv2.BORDER_CONSTANT)
        self._detector.setInputSize((width + right, height + bottom))
        found = self._detector.detect(small)[1]
        if found is None:
            return []
        points = found[:, :14].reshape(-1, 7, 2) * [frame.shape[1] / width, frame.shape[0] / height]
        boxes = np.concatenate([points[:, 0], points[:, 0] + points[:, 1]], axis=1)
        return to_detections(frame, boxes, found[:, 14], points[:, 2:], self._min_face_px)

    def close(self) -> None:
        """See :class:`fer_edge.detection.base.Detector`."""
        self._detector = None


def _load(model: Path, min_score: float) -> cv2.FaceDetectorYN:
    if not model.is_file():
        raise DetectorError(f"{model} is not a file: {_FIX}")
    size = _MIN_SIDE_PX, _MIN_SIDE_PX
    try:
        detector = cv2.FaceDetectorYN.create(str(model), "", size, min_score, _MAX_OVERLAP, _MAX_CANDIDATES)
        # Another network loads too, and fails only when it runs.
        detector.detect(np.zeros((*size, 3), np.uint8))
    except cv2.error as error:
        reason = " ".join(str(error.err or error).split())[-200:]
        raise DetectorError(
            f"OpenCV {cv2.__version__} cannot run {model} as YuNet ({reason}): {_FIX}"
        ) from error
    return detector

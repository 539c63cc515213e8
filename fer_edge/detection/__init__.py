"""Face detectors by name, and what all of them share: the form of the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from fer_edge.detection.base import Detector, DetectorOptions
from fer_edge.errors import lookup
from fer_edge.frames import check_frame
from fer_edge.results import Detection

__all__ = [
    "DETECTORS",
    "Detector",
    "DetectorOptions",
    "check_frame",
    "create_detector",
    "to_detections",
]


def _mtcnn(options: DetectorOptions) -> Detector:
    from fer_edge.detection.mtcnn.detector import MtcnnDetector

    return MtcnnDetector(options)


def _yunet(options: DetectorOptions) -> Detector:
    from fer_edge.detection.yunet.detector import YuNetDetector

    return YuNetDetector(options)


def _haar(options: DetectorOptions) -> Detector:
    from fer_edge.detection.haar import HaarDetector

    return HaarDetector(options)


#: Each is imported when it is first created, so that a detector costs nothing where it is not used.
DETECTORS: Mapping[str, Callable[[DetectorOptions], Detector]] = {
    "mtcnn": _mtcnn,
    "yunet": _yunet,
    "haar": _haar,
}


def create_detector(name: str = "mtcnn", options: DetectorOptions | None = None) -> Detector:
    """Return detector ``name``, ready to use.

    Raises
    ------
    UsageError
        If there is no such detector.
    DetectorError
        If its weights are missing, altered, or not what it reads.
    BackendError
        If the backend that runs its networks is not available.
    """
    options = options or DetectorOptions()
    create = lookup(DETECTORS, name, "detector")
    return create(options)


def to_detections(
    frame_bgr: np.ndarray,
    boxes_xyxy: np.ndarray,
    scores: np.ndarray,
    landmarks: np.ndarray | None,
    min_face_px: int,
) -> list[Detection]:
    """Return detections, largest first, with boxes cut to the frame.

    Parameters
    ----------
    frame_bgr : np.ndarray
        ``[H, W, 3]``.
    boxes_xyxy : np.ndarray
        ``[N, 4]`` pixels of the frame, which may reach beyond it.
    scores : np.ndarray
        ``[N]`` in [0, 1].
    landmarks : np.ndarray or None
        ``[N, 5, 2]`` pixels of the frame.
    min_face_px : int
        Faces whose longer side is shorter are left out. The side is measured before the cut, so that a
        large face which is leaving the frame stays.
    """
    height, width = frame_bgr.shape[:2]
    side_px = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).max(axis=1, initial=0)
    inside = np.clip(boxes_xyxy, 0, [width, height, width, height])
    sizes = inside[:, 2:] - inside[:, :2]
    usable = np.isfinite(boxes_xyxy).all(axis=1) & (side_px >= min_face_px) & (sizes >= 1).all(axis=1)
    order = np.argsort(-sizes.prod(axis=1), kind="stable")
    return [
        Detection(
            box_xyxy=(float(inside[i, 0]), float(inside[i, 1]), float(inside[i, 2]), float(inside[i, 3])),
            score=float(np.clip(scores[i], 0, 1)),
            landmarks=None if landmarks is None else landmarks[i].astype(np.float32),
        )
        for i in order
        if usable[i]
    ]

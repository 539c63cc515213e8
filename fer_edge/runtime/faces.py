"""Faces of a frame from detections and answers of the network, and detections from boxes of the caller."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fer_edge._utils.checks import is_number
from fer_edge.errors import DataError
from fer_edge.quality import QualityThresholds
from fer_edge.quality import reason as quality_reason
from fer_edge.results import Detection, Face
from fer_edge.runtime.classifier import Answer

#: Boxes of one call; more are a mistake.
MAX_BOXES = 4096
_MAX_PX = 1 << 20  # of a coordinate, far outside any frame


@dataclass(frozen=True)
class Limits:
    """Limits beyond which a face has no label: of the probability, and of the quality of its crop."""

    min_probability: float
    quality: QualityThresholds


def make_face(
    detection: Detection,
    answer: Answer,
    class_names: Sequence[str],
    limits: Limits,
    classified_at_s: float,
) -> Face:
    """Return the face of one frame, without regard to earlier frames."""
    probabilities = answer.probabilities
    label, reason, probability = None, None, 0.0
    named: dict[str, float] = {}
    if probabilities is None:
        reason = "too_small"
    elif math.isnan(probabilities[0]):
        reason = "not_finite"
    else:
        best = int(probabilities.argmax())
        probability = float(probabilities[best])
        named = {name: float(p) for name, p in zip(class_names, probabilities, strict=True)}
        reason = quality_reason(answer.quality, probabilities, limits.quality) if answer.quality else None
        if reason is None and probability < limits.min_probability:
            reason = "uncertain"
        label = class_names[best] if reason is None else None
    return Face(
        box_xyxy=detection.box_xyxy,
        detection_score=detection.score,
        label=label,
        probability=probability,
        probabilities=named,
        landmarks=detection.landmarks,
        reason=reason,
        attention=answer.attention,
        crop_xyxy=None if answer.attention is None else answer.rectangle,
        classified_at_s=None if probabilities is None else classified_at_s,
    )


def as_detections(boxes_xyxy: Any) -> list[Detection]:
    """Return boxes of the caller as detections with score 1; detections are returned as they are.

    Parameters
    ----------
    boxes_xyxy : array-like or sequence of Detection
        ``[N, 4]`` numbers, left, top, right, bottom in pixels of the frame.

    Raises
    ------
    DataError
        If they are not finite numbers with left < right and top < bottom, or more than :data:`MAX_BOXES`.
    """
    try:
        given = boxes_xyxy if isinstance(boxes_xyxy, np.ndarray) and boxes_xyxy.ndim else list(boxes_xyxy)
    except TypeError as error:
        raise DataError(
            f"expected boxes [N, 4], found {boxes_xyxy!r:.60}. Fix: give left, top, right, bottom of each face in pixels"
        ) from error
    if len(given) > MAX_BOXES:
        raise DataError(f"expected at most {MAX_BOXES} boxes, found {len(given)}. Fix: pass fewer per call")
    if any(isinstance(box, Detection) for box in given):
        if not all(isinstance(box, Detection) for box in given):
            raise DataError(
                "expected either boxes or detections, found both. Fix: pass the boxes of the detections"
            )
        _require_boxes([detection.box_xyxy for detection in given])
        for detection in given:
            _require_detection(detection)
        return list(given)
    boxes = _require_boxes(given)
    return [Detection((float(x0), float(y0), float(x1), float(y1)), 1.0) for x0, y0, x1, y1 in boxes]


def _require_boxes(given: Any) -> np.ndarray:
    try:
        boxes = np.asarray(given, np.float64) if len(given) else np.zeros((0, 4))
    except (TypeError, ValueError):
        boxes = np.zeros((0, 0))
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not np.isfinite(boxes).all():
        raise DataError(
            f"expected boxes [N, 4] of finite numbers, found {given!r:.80}. "
            "Fix: give left, top, right, bottom of each face in pixels"
        )
    wrong = (boxes[:, :2] >= boxes[:, 2:]).any(axis=1) | (np.abs(boxes) > _MAX_PX).any(axis=1)
    if wrong.any():
        raise DataError(
            f"expected left < right and top < bottom in every box, found {boxes[wrong.argmax()].tolist()}. "
            "Fix: give corners (left, top, right, bottom), not corner and size"
        )
    return boxes


def _require_detection(detection: Detection) -> None:
    points = detection.landmarks
    usable = points is None or (
        isinstance(points, np.ndarray)
        and points.ndim == 2
        and points.shape[1] == 2
        and np.isfinite(points).all()
    )
    if (
        not usable
        or not is_number(detection.score)
        or not is_number(detection.roll_deg)
        or abs(detection.roll_deg) > 360
    ):
        raise DataError(
            f"expected detections with finite score, roll_deg and landmarks [N, 2], found {detection!r:.120}. "
            "Fix: give landmarks as an array or None"
        )


def as_crops(crops_bgr: Any) -> list[Any]:
    """Return the crops of a sequence of pictures.

    Raises
    ------
    DataError
        If one picture is given instead.
    """
    single = isinstance(crops_bgr, str | bytes) or (isinstance(crops_bgr, np.ndarray) and crops_bgr.ndim < 4)
    if single or not isinstance(crops_bgr, Iterable):
        raise DataError(
            f"expected a sequence of pictures, found {type(crops_bgr).__name__}. Fix: give a list, also of one crop"
        )
    return list(crops_bgr)

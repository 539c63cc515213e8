"""Draw results on a frame."""

from __future__ import annotations

import cv2
import numpy as np

from fer_edge.heatmaps import blend_at
from fer_edge.results import Face, FrameResult

_FONT = cv2.FONT_HERSHEY_DUPLEX
_DARK = (40, 32, 26)
_WHITE = (255, 255, 255)
_GREY = (150, 150, 150)
_BAR_BACK = (90, 78, 70)
#: Canonical or FER2013 class name → BGR.
_COLORS = {
    "neutral": (190, 180, 160),
    "happiness": (60, 200, 250), "happy": (60, 200, 250),
    "surprise": (220, 140, 230),
    "sadness": (230, 150, 60), "sad": (230, 150, 60),
    "anger": (70, 70, 235), "angry": (70, 70, 235),
    "disgust": (90, 180, 80),
    "fear": (200, 90, 150),
    "contempt": (130, 160, 40),
}  # fmt: skip
_BARS = 3
_FAR = 16000  # OpenCV draws with 16-bit fixed-point coordinates, which are clipped to this


def annotate(frame_bgr: np.ndarray, result: FrameResult) -> np.ndarray:
    """Return a copy of the frame with boxes, labels and the three largest probabilities of each face.

    The attention of a face, if it has any, is blended over its crop.
    """
    canvas = frame_bgr.copy()
    for face in result.faces:
        if face.attention is not None and face.crop_xyxy is not None:
            blend_at(canvas, face.attention, face.crop_xyxy)
    for face in sorted(result.faces, key=lambda f: f.box_xyxy[3]):
        _draw_face(canvas, face)
    return canvas


def _draw_face(canvas: np.ndarray, face: Face) -> None:
    left, top, right, bottom = (_pixel(v) for v in face.box_xyxy)
    unit = float(np.clip((right - left) / 130, 0.65, 2.0))
    color = _COLORS.get(face.label or "", _GREY)
    cv2.rectangle(canvas, (left, top), (right, bottom), color, max(1, round(2.5 * unit)), cv2.LINE_AA)
    if face.landmarks is not None:
        for x, y in face.landmarks:
            cv2.circle(canvas, (_pixel(x), _pixel(y)), max(1, round(1.5 * unit)), color, -1, cv2.LINE_AA)
    title = face.label if face.label else f"? {(face.reason or '').replace('_', ' ')}"
    ranked = sorted(face.probabilities.items(), key=lambda item: -item[1])[:_BARS]
    _draw_panel(canvas, (left, bottom), unit, title, ranked, color)


def _pixel(value: float) -> int:
    return round(min(max(float(value), -_FAR), _FAR))


def _draw_panel(
    canvas: np.ndarray,
    corner: tuple[int, int],
    unit: float,
    title: str,
    ranked: list[tuple[str, float]],
    color: tuple[int, int, int],
) -> None:
    """Draw a panel below the face, or as close as the frame allows."""
    line, pad = round(20 * unit), round(6 * unit)
    width, height = round(170 * unit), pad * 2 + line * (1 + len(ranked))
    left = int(np.clip(corner[0], 0, max(canvas.shape[1] - width, 0)))
    top = int(np.clip(corner[1] + pad, 0, max(canvas.shape[0] - height, 0)))
    area = canvas[top : top + height, left : left + width]
    area[:] = (area * 0.25 + np.array(_DARK) * 0.75).astype(np.uint8)
    scale = 0.5 * unit
    cv2.putText(
        canvas, title, (left + pad, top + pad + round(line * 0.75)), _FONT, scale * 1.1, color, 1, cv2.LINE_AA
    )
    for i, (name, probability) in enumerate(ranked, start=1):
        base = top + pad + line * i
        bar = (left + pad + round(84 * unit), base + round(line * 0.35))
        length = width - pad * 2 - round(84 * unit)
        thickness = round(line * 0.4)
        cv2.rectangle(canvas, bar, (bar[0] + length, bar[1] + thickness), _BAR_BACK, -1)
        filled = (bar[0] + max(1, round(length * probability)), bar[1] + thickness)
        cv2.rectangle(canvas, bar, filled, _COLORS.get(name, _GREY), -1)
        cv2.putText(
            canvas, name, (left + pad, base + round(line * 0.75)), _FONT, scale * 0.8, _WHITE, 1, cv2.LINE_AA
        )

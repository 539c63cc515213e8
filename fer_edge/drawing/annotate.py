"""Draw results on a frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from fer_edge.drawing.colors import text_color
from fer_edge.drawing.labels import FaceLabel, LabelStyle, draw_label, face_label, label_size
from fer_edge.drawing.layout import Attempt, Line, Rectangle, Size, arrange
from fer_edge.drawing.text import Color
from fer_edge.errors import DataError
from fer_edge.frames import check_frame
from fer_edge.heatmaps import blend_at
from fer_edge.results import Face, FrameResult

#: Size of the smallest text: a share of the shorter side of the frame, so that it is legible at any resolution.
MIN_TEXT_SHARE = 1 / 40
MIN_TEXT_PX = 11
#: Text grows with its face up to this many times the smallest.
_MAX_TEXT = 2.0
_TEXT_PER_FACE = 0.085
#: Bars are drawn for this many faces at most, and for faces that are at least so many lines of the smallest text high.
MAX_FACES_WITH_BARS = 6
_MIN_FACE_EM = 5.0
#: Largest distance of a label with bars from its face, as a share of the shorter side of the frame.
_REACH_SHARE = 1 / 5
_FAR = 16000  # OpenCV draws with 16-bit fixed-point coordinates, which are clipped to this


@dataclass(frozen=True)
class _Drawn:
    """A face, its part inside the frame, and its label."""

    face: Face
    rectangle: Rectangle
    label: FaceLabel


@dataclass(frozen=True)
class _Choice:
    """Style and size of text of each label, and its largest distance from its face."""

    styles: Sequence[LabelStyle]
    ems_px: Sequence[int]
    reach_px: float

    def sizes(self, drawn: Sequence[_Drawn]) -> list[Size]:
        return [
            label_size(item.label, style, em_px)
            for item, style, em_px in zip(drawn, self.styles, self.ems_px, strict=True)
        ]


def annotate(frame_bgr: np.ndarray, result: FrameResult, *, landmarks: bool = False) -> np.ndarray:
    """Return a copy of the frame with boxes and labels.

    A label names the apparent expression and, with tracking, the track (``#7``) and how long the label has held. Bars show
    the three likeliest classes. ``?`` and a reason stand in place of an expression that is not certain.

    Labels cover no face and no other label. With many faces, or small ones, a label is one line; where there is no place
    for it, it is the expression or the track alone, and at last the smallest faces have a box without a label. Attention,
    if the result has it, is the only thing that is blended over faces.

    Parameters
    ----------
    frame_bgr : np.ndarray
        ``[H, W, 3]`` BGR, or ``[H, W]`` or ``[H, W, 1]`` gray, uint8: the frame that ``result`` belongs to. It is not
        changed.
    result : FrameResult
        Faces outside the frame are left out.
    landmarks : bool
        Draw the landmarks of each face as dots.

    Returns
    -------
    np.ndarray
        ``[H, W, 3]`` uint8 BGR.

    Raises
    ------
    DataError
        If the frame has another format, or a box is not a number.
    """
    canvas = check_frame(frame_bgr).copy()
    height, width = canvas.shape[:2]
    smallest = smallest_text_px(height, width)
    for face in result.faces:
        if face.attention is not None and face.crop_xyxy is not None:
            blend_at(canvas, face.attention, face.crop_xyxy)
    drawn = [
        _Drawn(face, rectangle, face_label(face))
        for face in result.faces
        if (rectangle := _inside(face, height, width)) is not None
    ]
    if not drawn:
        return canvas
    line_px = max(1, round(smallest / 7))
    plans = _plans(drawn, smallest, min(height, width))
    index, placements = arrange(
        [item.rectangle for item in drawn],
        [[Attempt(choice.sizes(drawn), choice.reach_px) for choice in plan] for plan in plans],
        (width, height),
        line_px + 2,
    )
    for item, placement in zip(drawn, placements, strict=True):
        if placement is not None and placement.leader is not None:
            _draw_leader(
                canvas, placement.leader, item.label.color_bgr, line_px, [other.rectangle for other in drawn]
            )
    for item in drawn:
        _draw_box(canvas, item, line_px, landmarks)
    for i, placement in enumerate(placements):
        if placement is not None:
            choice = plans[index][placement.attempt]
            draw_label(canvas, drawn[i].label, choice.styles[i], placement.rectangle, choice.ems_px[i])
    return canvas


def smallest_text_px(height: int, width: int) -> int:
    """Return the size of the smallest text on a frame, in pixels per em."""
    return max(MIN_TEXT_PX, round(MIN_TEXT_SHARE * min(height, width)))


def _inside(face: Face, height: int, width: int) -> Rectangle | None:
    """Return the part of the face's box inside the frame, ``None`` if there is none."""
    if any(math.isnan(value) for value in face.box_xyxy):
        raise DataError(
            f"expected a box of four numbers, found {tuple(map(float, face.box_xyxy))}. "
            "Fix: give a result of Runtime, or leave the face out"
        )
    left, top, right, bottom = (
        round(min(max(float(value), 0), limit))
        for value, limit in zip(face.box_xyxy, (width, height, width, height), strict=True)
    )
    return (left, top, right, bottom) if left < right and top < bottom else None


def _plans(drawn: Sequence[_Drawn], smallest: int, side_px: int) -> list[list[_Choice]]:
    """Return the plans for labels, the fullest first."""
    growing = [_text_px(item.rectangle, smallest) for item in drawn]
    constant = [smallest] * len(drawn)
    small = [item.rectangle[3] - item.rectangle[1] < _MIN_FACE_EM * smallest for item in drawn]
    bars = [LabelStyle.LINE if is_small else LabelStyle.FULL for is_small in small]
    line, name, tag = ([style] * len(drawn) for style in (LabelStyle.LINE, LabelStyle.NAME, LabelStyle.TAG))
    reach_px = _REACH_SHARE * side_px
    plans = [
        [
            _Choice(line, growing, 0),
            _Choice(line, constant, 0),
            _Choice(name, constant, 0),
            _Choice(tag, constant, 0),
            _Choice(name, constant, reach_px),
            _Choice(tag, constant, math.inf),
        ],
        [_Choice(tag, constant, math.inf)],
    ]
    if len(drawn) <= MAX_FACES_WITH_BARS:
        plans.insert(0, [_Choice(bars, growing, 0), _Choice(bars, growing, reach_px)])
    return plans


def _text_px(rectangle: Rectangle, smallest: int) -> int:
    """Return the size of the text of a face; it grows in steps, so that it seldom changes."""
    step = max(1, smallest // 4)
    grown = min(_TEXT_PER_FACE * (rectangle[3] - rectangle[1]), _MAX_TEXT * smallest)
    return smallest + max(0, int(grown - smallest) // step * step)


def _draw_box(canvas: np.ndarray, item: _Drawn, line_px: int, landmarks: bool) -> None:
    left, top, right, bottom = item.rectangle
    corners = (left, top), (right - 1, bottom - 1)
    cv2.rectangle(canvas, *corners, text_color(item.label.color_bgr), line_px + 2)
    cv2.rectangle(canvas, *corners, item.label.color_bgr, line_px)
    if landmarks and item.face.landmarks is not None:
        points = item.face.landmarks
        for x, y in points[np.isfinite(points).all(axis=1)]:
            cv2.circle(canvas, (_pixel(x), _pixel(y)), line_px, item.label.color_bgr, -1, cv2.LINE_AA)


def _pixel(value: float) -> int:
    return round(min(max(float(value), -_FAR), _FAR))


def _draw_leader(
    canvas: np.ndarray, line: Line, color: Color, line_px: int, faces: Sequence[Rectangle]
) -> None:
    """Draw a line that passes behind faces."""
    x0, y0, x1, y1 = line
    margin = line_px + 2
    left, right = min(x0, x1) - margin, max(x0, x1) + margin
    top, bottom = min(y0, y1) - margin, max(y0, y1) + margin
    behind = []
    for face in faces:
        area = canvas[max(top, face[1]) : min(bottom, face[3]), max(left, face[0]) : min(right, face[2])]
        if area.size:
            behind.append((area, area.copy()))
    cv2.line(canvas, (x0, y0), (x1, y1), text_color(color), line_px + 2, cv2.LINE_AA)
    cv2.line(canvas, (x0, y0), (x1, y1), color, line_px, cv2.LINE_AA)
    for area, before in behind:
        area[:] = before

"""Draw results on a frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from fer_edge.drawing.colors import PANEL
from fer_edge.drawing.labels import FaceLabel, LabelStyle, draw_label, face_label, label_size
from fer_edge.drawing.layout import Line, Rectangle, Style, arrange
from fer_edge.drawing.text import Color
from fer_edge.errors import DataError
from fer_edge.frames import check_frame
from fer_edge.heatmaps import blend_at
from fer_edge.results import Face, FrameResult

#: Size of the smallest text: a share of the shorter side of the frame, so that it is legible at any resolution.
MIN_TEXT_SHARE = 1 / 45
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
    style: LabelStyle
    em_px: int


def annotate(frame_bgr: np.ndarray, result: FrameResult, *, landmarks: bool = False) -> np.ndarray:
    """Return a copy of the frame with boxes and labels.

    A label names the apparent expression and, with tracking, the track (``#7``) and how long the label has held. Bars show
    the three likeliest classes. ``?`` and a reason stand in place of an expression that is not certain.

    Labels cover no face and no other label. With many faces, or small ones, a label is one line; where even those find no
    place it is a tag, and at last the smallest faces have a box alone. Attention, if the result has it, is the only
    thing that is blended over faces.

    Parameters
    ----------
    frame_bgr : np.ndarray
        ``[H, W, 3]`` uint8 BGR: the frame that ``result`` belongs to. It is not changed.
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
    frame = check_frame(frame_bgr)
    canvas = frame.copy()
    height, width = canvas.shape[:2]
    smallest = smallest_text_px(height, width)
    for face in result.faces:
        if face.attention is not None and face.crop_xyxy is not None:
            blend_at(canvas, face.attention, face.crop_xyxy)
    drawn = [
        _drawn(face, rectangle, smallest)
        for face in result.faces
        if (rectangle := _inside(face, height, width)) is not None
    ]
    if not drawn:
        return canvas
    line_px = max(1, round(smallest / 7))
    styles = _styles(drawn, smallest, _REACH_SHARE * min(height, width))
    rectangles = [item.rectangle for item in drawn]
    index, placements = arrange(rectangles, [style for _, style in styles], (width, height), line_px + 2)
    chosen = styles[index][0]
    for item, placement in zip(drawn, placements, strict=True):
        if placement is not None and placement.leader is not None:
            _draw_leader(canvas, placement.leader, item.label.color_bgr, line_px, rectangles)
    for item in drawn:
        _draw_box(canvas, item, line_px, landmarks)
    for item, placement, (style, em_px) in zip(drawn, placements, chosen, strict=True):
        if placement is not None:
            draw_label(canvas, item.label, style, placement.rectangle, em_px)
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


def _drawn(face: Face, rectangle: Rectangle, smallest: int) -> _Drawn:
    """Choose the fullest style of a face and its size of text, which grows in steps so that it seldom changes."""
    side = rectangle[3] - rectangle[1]
    step = max(1, smallest // 4)
    em_px = round(min(max(_TEXT_PER_FACE * side, smallest), _MAX_TEXT * smallest) / step) * step
    small = side < _MIN_FACE_EM * smallest
    style = LabelStyle.LINE if small else LabelStyle.FULL
    return _Drawn(face, rectangle, face_label(face), style, smallest if small else max(em_px, smallest))


def _styles(
    drawn: Sequence[_Drawn], smallest: int, reach_px: float
) -> list[tuple[list[tuple[LabelStyle, int]], Style]]:
    """Return the styles that suit the faces, the fullest first: style and size of text of each face, and its sizes."""
    choices = [
        ([(LabelStyle.LINE, smallest)] * len(drawn), math.inf),
        ([(LabelStyle.TAG, smallest)] * len(drawn), math.inf),
    ]
    if len(drawn) <= MAX_FACES_WITH_BARS:
        choices.insert(0, ([(item.style, item.em_px) for item in drawn], reach_px))
    return [
        (
            of_faces,
            Style(
                [label_size(item.label, *choice) for item, choice in zip(drawn, of_faces, strict=True)], reach
            ),
        )
        for of_faces, reach in choices
    ]


def _draw_box(canvas: np.ndarray, item: _Drawn, line_px: int, landmarks: bool) -> None:
    left, top, right, bottom = (_pixel(value) for value in item.face.box_xyxy)
    corners = (left, top), (max(right - 1, left), max(bottom - 1, top))
    cv2.rectangle(canvas, *corners, PANEL, line_px + 2)
    cv2.rectangle(canvas, *corners, item.label.color_bgr, line_px)
    if landmarks and item.face.landmarks is not None:
        for x, y in item.face.landmarks:
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
    cv2.line(canvas, (x0, y0), (x1, y1), PANEL, line_px + 2, cv2.LINE_AA)
    cv2.line(canvas, (x0, y0), (x1, y1), color, line_px, cv2.LINE_AA)
    for area, before in behind:
        area[:] = before

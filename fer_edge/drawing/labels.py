"""The label of one face: its words, its size in each style, and its picture."""

from __future__ import annotations

import enum
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fer_edge.drawing.colors import BAR_BACK, PANEL, TEXT, UNCERTAIN, expression_color, text_color
from fer_edge.drawing.layout import Rectangle, Size
from fer_edge.drawing.text import Color, draw_text, line_height, shorten, text_width
from fer_edge.results import Face

#: Classes with a bar, the likeliest first.
BARS = 3
#: Widest name, in em; a longer one is cut off.
_NAME_EM = 9.0
_PAD_EM, _BAR_EM, _BAR_HEIGHT_EM = 0.5, 4.5, 0.5
_TAG_CHARACTERS = 3


class LabelStyle(enum.Enum):
    """Amount of text on a label, from most to least.

    ``FULL`` is a title with bars of the likeliest classes, ``LINE`` the label, its probability and how long it has held,
    ``NAME`` the label, and ``TAG`` the number of the track, or the first letters of the label. All but the last have the
    number of the track too.
    """

    FULL = "full"
    LINE = "line"
    NAME = "name"
    TAG = "tag"


@dataclass(frozen=True)
class FaceLabel:
    """Words and colours of a label.

    Attributes
    ----------
    title : str
        Track and label, or a question mark and the reason why there is no label.
    held : str
        How long the label has held; empty without tracking.
    figure : str
        Probability of the label; empty without a label.
    tag : str
        The shortest form.
    bars : sequence of (str, float)
        The likeliest classes and their probabilities.
    names : tuple of str
        All classes, whose widest name sets the width: so it does not change from frame to frame.
    color_bgr : tuple of int
        Colour of the box and of the title's background.
    """

    title: str
    held: str
    figure: str
    tag: str
    bars: Sequence[tuple[str, float]]
    names: tuple[str, ...]
    color_bgr: Color


def face_label(face: Face) -> FaceLabel:
    """Return the words of a face's label."""
    track = "" if face.track_id is None else f"#{face.track_id}"
    name = f"? {(face.reason or '').replace('_', ' ')}" if face.label is None else face.label
    short = "?" if face.label is None else face.label[:_TAG_CHARACTERS]
    held = "" if face.label is None or face.stable_for_ms is None else _duration(face.stable_for_ms)
    return FaceLabel(
        title=f"{track} {name}".strip(),
        held=held,
        figure="" if face.label is None else _percent(face.probability),
        tag=track or short,
        bars=sorted(face.probabilities.items(), key=lambda item: -item[1])[:BARS],
        names=tuple(face.probabilities),
        color_bgr=UNCERTAIN if face.label is None else expression_color(face.label),
    )


def _percent(probability: float) -> str:
    if not math.isfinite(probability):
        return "–"
    if 0 < probability <= 0.005:  # not impossible
        return "<1 %"
    if 0.995 <= probability < 1:  # not certain
        return ">99 %"
    return f"{100 * probability:.0f} %"


def _duration(milliseconds: float) -> str:
    seconds = milliseconds / 1000
    if seconds < 10:
        return f"{seconds:.1f} s"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def label_size(label: FaceLabel, style: LabelStyle, em_px: int) -> Size:
    """Return width and height of the label in pixels."""
    pad, title_height = _px(_PAD_EM, em_px), _title_height(em_px)
    if style is not LabelStyle.FULL:
        return text_width(_line(label, style, em_px), em_px) + 2 * pad, title_height
    title = text_width(_title(label, em_px), em_px)
    if label.held:
        title += _px(1.2, em_px) + text_width(label.held, em_px)
    bars = _names_width(label.names, em_px) + _px(_BAR_EM, em_px) + _figure_width(em_px) + 2 * pad
    height = title_height + (len(label.bars) * line_height(em_px) + pad if label.bars else 0)
    return max(title, bars if label.bars else 0) + 2 * pad, height


def draw_label(
    canvas_bgr: np.ndarray, label: FaceLabel, style: LabelStyle, rectangle: Rectangle, em_px: int
) -> None:
    """Draw a label in place; ``rectangle`` has the size that :func:`label_size` returns, and lies on the canvas."""
    left, top, right, bottom = rectangle
    pad, title_height = _px(_PAD_EM, em_px), _title_height(em_px)
    canvas_bgr[top : top + title_height, left:right] = label.color_bgr
    ink = text_color(label.color_bgr)
    text_top = top + (title_height - line_height(em_px)) // 2
    if style is not LabelStyle.FULL:
        draw_text(canvas_bgr, _line(label, style, em_px), left + pad, text_top, em_px, ink, label.color_bgr)
        return
    draw_text(canvas_bgr, _title(label, em_px), left + pad, text_top, em_px, ink, label.color_bgr)
    if label.held:
        held_left = right - pad - text_width(label.held, em_px)
        draw_text(canvas_bgr, label.held, held_left, text_top, em_px, ink, label.color_bgr)
    canvas_bgr[top + title_height : bottom, left:right] = PANEL
    bar_left = left + 2 * pad + _names_width(label.names, em_px)
    bar_right = right - 2 * pad - _figure_width(em_px)
    row = top + title_height + pad // 2
    for name, probability in label.bars:
        draw_text(canvas_bgr, _name(name, em_px), left + pad, row, em_px, TEXT, PANEL)
        bar_top = row + (line_height(em_px) - _px(_BAR_HEIGHT_EM, em_px)) // 2
        bar = canvas_bgr[bar_top : bar_top + _px(_BAR_HEIGHT_EM, em_px), bar_left:bar_right]
        bar[:] = BAR_BACK
        share = min(max(probability, 0.0), 1.0) if math.isfinite(probability) else 0.0
        bar[:, : round(share * bar.shape[1])] = expression_color(name)
        figure = _percent(probability)
        draw_text(canvas_bgr, figure, right - pad - text_width(figure, em_px), row, em_px, TEXT, PANEL)
        row += line_height(em_px)


def _px(em: float, em_px: int) -> int:
    return max(1, round(em * em_px))


def _title_height(em_px: int) -> int:
    return line_height(em_px) + 2 * _px(0.1, em_px)


def _line(label: FaceLabel, style: LabelStyle, em_px: int) -> str:
    if style is LabelStyle.TAG:
        return label.tag
    name = _title(label, em_px)
    if style is LabelStyle.NAME:
        return name
    return " · ".join(part for part in (f"{name} {label.figure}".strip(), label.held) if part)


def _title(label: FaceLabel, em_px: int) -> str:
    return shorten(label.title, em_px, _px(_NAME_EM + 3, em_px))


def _name(name: str, em_px: int) -> str:
    return shorten(name, em_px, _px(_NAME_EM, em_px))


def _figure_width(em_px: int) -> int:
    return text_width(">99 %", em_px)


@functools.lru_cache(256)
def _names_width(names: tuple[str, ...], em_px: int) -> int:
    return max((text_width(_name(name, em_px), em_px) for name in names), default=0)

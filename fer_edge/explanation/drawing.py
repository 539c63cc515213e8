"""Draw an explanation: photograph, crop, heat map, overlay, probabilities."""

from __future__ import annotations

import cv2
import numpy as np

from fer_edge.drawing.text import Color, draw_text, line_height, shorten, text_width
from fer_edge.explanation.explain import METHODS, Explanation
from fer_edge.heatmaps import blend, colorize, enlarge

#: Sizes of text, in pixels per em.
_TITLE, _TEXT, _NOTE = 28, 17, 15
_TILE, _GAP, _TOP = 300, 24, 84
_CAPTION, _LINE = 34, 30
_BACK, _INK, _GREY = (255, 255, 255), (40, 32, 26), (120, 112, 106)
_BAR, _BAR_TOP, _BAR_BACK = (190, 170, 150), (60, 120, 220), (236, 232, 228)
_BOX = (60, 200, 90)
_WIDTH = 4 * _TILE + 5 * _GAP
_SCALE_WIDTH = 14
_SMALLEST = 0.7  # relative to the usual size of text


def draw_explanation(image_bgr: np.ndarray, explanation: Explanation) -> np.ndarray:
    """Return a picture ``[H, 1320, 3]`` uint8 BGR; H depends on the number of classes."""
    rows = len(explanation.probabilities)
    canvas = np.full((_TOP + _TILE + _CAPTION + _GAP + rows * _LINE + _GAP, _WIDTH, 3), _BACK, np.uint8)
    label = explanation.label
    figure = f"{100 * explanation.probabilities[label]:.0f} %"
    title = "Apparent expression: " + (
        f"{label} ({figure})" if explanation.certain else f"uncertain ({label} {figure})"
    )
    if explanation.random_weights:
        title = "Random weights: nothing was learnt, this picture says nothing"
    shown = METHODS[explanation.method]
    subtitle = f"{explanation.network}: {shown}"
    if explanation.class_name is not None:
        subtitle += f", here '{explanation.class_name}'"
    _text(canvas, title, (_GAP, 14), _TITLE, _INK, _WIDTH - 2 * _GAP)
    _text(canvas, subtitle, (_GAP, 50), _TEXT, _GREY, _WIDTH - 2 * _GAP)

    crop = explanation.crop_bgr
    height, width = _fit(*crop.shape[:2])
    small = cv2.resize(crop, (width, height), interpolation=_interpolation(crop, height))
    heat = enlarge(explanation.heat, height, width)
    tiles = (
        (_photograph(image_bgr, explanation), "photograph"),
        (small, "the face crop"),
        (colorize(heat), "heat map: flat, nothing stands out" if explanation.flat else "heat map"),
        (blend(small, heat), "overlay"),
    )
    for i, (tile, caption) in enumerate(tiles):
        _place(canvas, tile, caption, _GAP + i * (_TILE + _GAP))
    _probabilities(canvas, explanation)
    _color_scale(canvas, _WIDTH - _GAP - _TILE)
    return canvas


def _photograph(image_bgr: np.ndarray, explanation: Explanation) -> np.ndarray:
    height, width = _fit(*image_bgr.shape[:2])
    tile = cv2.resize(image_bgr, (width, height), interpolation=_interpolation(image_bgr, height))
    if explanation.box_xyxy is not None:
        scale = np.array([width / image_bgr.shape[1], height / image_bgr.shape[0]] * 2)
        left, top, right, bottom = (int(v) for v in np.rint(np.array(explanation.box_xyxy) * scale))
        cv2.rectangle(tile, (left, top), (right, bottom), _BOX, 2, cv2.LINE_AA)
    return tile


def _fit(height: int, width: int) -> tuple[int, int]:
    """Return the size at which a picture fills a tile and keeps its aspect ratio."""
    scale = _TILE / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _interpolation(image: np.ndarray, height: int) -> int:
    return cv2.INTER_AREA if height < image.shape[0] else cv2.INTER_CUBIC


def _place(canvas: np.ndarray, tile: np.ndarray, caption: str, left: int) -> None:
    height, width = tile.shape[:2]
    top, x = _TOP + (_TILE - height) // 2, left + (_TILE - width) // 2
    canvas[top : top + height, x : x + width] = tile
    _text(canvas, caption, (x, _TOP + _TILE + 8), _TEXT, _INK, left + _TILE - x)


def _probabilities(canvas: np.ndarray, explanation: Explanation) -> None:
    top = _TOP + _TILE + _CAPTION + _GAP
    names, bar, figure = 160, 2 * _TILE + _GAP - 160 - 80, 80
    for i, (name, probability) in enumerate(explanation.probabilities.items()):
        base = top + i * _LINE
        color = _BAR_TOP if name == explanation.label else _BAR
        _text(canvas, name, (_GAP, base + 4), _TEXT, _INK, names - 12)
        left = _GAP + names
        cv2.rectangle(canvas, (left, base + 6), (left + bar, base + 22), _BAR_BACK, -1)
        length = round(bar * probability)
        if length:
            cv2.rectangle(canvas, (left, base + 6), (left + length, base + 22), color, -1)
        _text(canvas, f"{100 * probability:.1f} %", (left + bar + 12, base + 4), _TEXT, _INK, figure - 12)


def _color_scale(canvas: np.ndarray, left: int) -> None:
    """Draw the colour scale from 0 to 1, with a note about the values."""
    top = _TOP + _TILE + _CAPTION + _GAP + 6
    ramp = np.tile(np.linspace(0, 1, _TILE, dtype=np.float32), (_SCALE_WIDTH, 1))
    canvas[top : top + _SCALE_WIDTH, left : left + _TILE] = colorize(ramp)
    _text(canvas, "0 (least)", (left, top + 20), _NOTE, _GREY, _TILE // 2)
    most = "1 (most)"
    width = text_width(most, _NOTE)
    _text(canvas, most, (left + _TILE - width, top + 20), _NOTE, _GREY, width)


def _text(
    canvas: np.ndarray, text: str, corner: tuple[int, int], em_px: int, color: Color, width: int
) -> None:
    """Draw one line of text below ``corner``; shrink text wider than ``width``, then cut it off."""
    smallest = round(_SMALLEST * em_px)
    fitting = em_px * width // max(text_width(text, em_px), 1)
    size = min(em_px, max(fitting, smallest))
    left, top = corner
    top += (line_height(em_px) - line_height(size)) // 2
    draw_text(canvas, shorten(text, size, width), left, top, size, color, _BACK)

"""Text in Roboto Medium, drawn from letters that ``benchmarks/render_font.py`` rendered.

A font library would be one more dependency, and takes longer to load than a network. The letters are stored at one
size; a text is put together at that size and scaled as a whole, so that distances between letters are exact at any size.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

Color = tuple[int, int, int]

_FILE = Path(__file__).with_name("roboto.npz")
_UNKNOWN = "\ufffd"
_ELLIPSIS = "…"
#: Widths are numbers; pictures of text take 30 KB each on a frame of 3840×2160.
_MAX_WIDTHS, _MAX_PICTURES = 2048, 256


@dataclass(frozen=True)
class _Letters:
    """Letters at ``em_px``; each cell ``[height, width]`` extends ``margin_px`` beyond the letter's advance."""

    cells: Mapping[str, np.ndarray]
    advances_px: Mapping[str, float]
    em_px: int
    margin_px: int
    height_px: int


@functools.cache
def _letters() -> _Letters:
    with np.load(_FILE, allow_pickle=False) as file:
        names = [chr(code) for code in file["characters"]]
        lefts, coverage = file["lefts_px"], file["coverage"]
        cells = {name: coverage[:, lefts[i] : lefts[i + 1]] for i, name in enumerate(names)}
        advances = dict(zip(names, file["advances_px"].tolist(), strict=True))
        return _Letters(cells, advances, int(file["em_px"]), int(file["margin_px"]), coverage.shape[0])


@functools.lru_cache(_MAX_WIDTHS)
def _drawable(text: str) -> str:
    """Return the text in letters of the font: without an accent that it lacks, and a lozenge for any other letter."""
    known = _letters().cells
    drawable = []
    for letter in unicodedata.normalize("NFC", text):
        if letter in known:
            drawable.append(letter)
        elif not unicodedata.combining(letter):
            base = unicodedata.normalize("NFKD", letter)[0]
            drawable.append(base if base in known else _UNKNOWN)
    return "".join(drawable)


@functools.lru_cache(_MAX_WIDTHS)
def text_width(text: str, em_px: int) -> int:
    """Return the width of one line of text in pixels; ``em_px`` is the size of the font."""
    letters = _letters()
    width = sum(letters.advances_px[letter] for letter in _drawable(text))
    return int(np.ceil(width * em_px / letters.em_px))


def line_height(em_px: int) -> int:
    """Return the height of one line in pixels; capitals lie in its middle."""
    letters = _letters()
    return round(letters.height_px * em_px / letters.em_px)


@functools.lru_cache(_MAX_WIDTHS)
def shorten(text: str, em_px: int, width_px: int) -> str:
    """Return the text, cut off with an ellipsis if it is wider than ``width_px``; empty if not even that fits."""
    if text_width(text, em_px) <= width_px:
        return text
    while text and text_width(text + _ELLIPSIS, em_px) > width_px:
        text = text[:-1].rstrip()
    return text + _ELLIPSIS if text else ""


@functools.lru_cache(_MAX_PICTURES)
def _coverage(text: str, em_px: int) -> np.ndarray:
    """Return how much of each pixel the text covers, ``[height, width]`` uint8; do not modify it.

    The text begins ``margin_px``, scaled, to the right of the left edge.
    """
    letters = _letters()
    text = _drawable(text)
    width = sum(letters.advances_px[letter] for letter in text)
    line = np.zeros((letters.height_px, int(np.ceil(width)) + 2 * letters.margin_px + 1), np.uint8)
    position = 0.0
    for letter in text:
        cell = letters.cells[letter]
        left = round(position)
        part = line[:, left : left + cell.shape[1]]
        np.maximum(part, cell[:, : part.shape[1]], out=part)
        position += letters.advances_px[letter]
    scale = em_px / letters.em_px
    size = max(1, round(line.shape[1] * scale)), line_height(em_px)
    return cv2.resize(line, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


@functools.lru_cache(_MAX_WIDTHS)
def _shades(color_bgr: Color, background_bgr: Color) -> np.ndarray:
    """Return the colour of a pixel by how much of it the text covers, ``[256, 1, 3]`` uint8."""
    cover = np.linspace(0, 1, 256)[:, None]
    return np.rint(cover * color_bgr + (1 - cover) * background_bgr).astype(np.uint8)[:, None]


def draw_text(
    canvas_bgr: np.ndarray,
    text: str,
    left_px: int,
    top_px: int,
    em_px: int,
    color_bgr: Color,
    background_bgr: Color,
) -> None:
    """Draw one line of text on ``[H, W, 3]`` uint8 in place; pixels beyond the canvas are left out.

    Parameters
    ----------
    canvas_bgr : np.ndarray
        ``[H, W, 3]`` uint8.
    text : str
        Letters that the font lacks are drawn without their accent, or as a lozenge.
    left_px, top_px : int
        Upper left corner of the line, which is :func:`text_width` wide and :func:`line_height` high.
    em_px : int
        Size of the font; capitals are 0.71 of it high.
    color_bgr, background_bgr : tuple of int
        Blue, green, red of the text and of its background, which must be of one colour: it is painted again.
    """
    letters = _letters()
    cover = _coverage(text, em_px)
    left = left_px - round(letters.margin_px * em_px / letters.em_px)
    height, width = canvas_bgr.shape[:2]
    x0, x1 = max(left, 0), min(left + cover.shape[1], width)
    y0, y1 = max(top_px, 0), min(top_px + cover.shape[0], height)
    if x0 >= x1 or y0 >= y1:
        return
    cover = cover[y0 - top_px : y1 - top_px, x0 - left : x1 - left]
    shades = _shades(color_bgr, background_bgr)
    canvas_bgr[y0:y1, x0:x1] = cv2.LUT(cv2.cvtColor(cover, cv2.COLOR_GRAY2BGR), shades)

"""Colours of expressions, which people with any kind of colour vision can tell apart.

They were chosen by a random search that maximises the smallest CIEDE2000 difference of two of them, as seen with normal
vision and with simulated protanopia, deuteranopia and tritanopia (Machado, Oliveira and Fernandes, 2009), among colours
of usual hues that are light enough to carry dark text: it is 16. Every label names its expression too: no colour is needed to read it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

from fer_edge.errors import DataError
from fer_edge.labels import canonical

Color = tuple[int, int, int]


def _bgr(rgb: int) -> Color:
    return rgb & 255, rgb >> 8 & 255, rgb >> 16


#: Canonical class name → BGR.
EXPRESSIONS: Mapping[str, Color] = {
    "neutral": _bgr(0xF9F9F9),
    "happiness": _bgr(0xF9E335),
    "surprise": _bgr(0x61BAB3),
    "sadness": _bgr(0x767CB2),
    "anger": _bgr(0xD75F30),
    "disgust": _bgr(0xB8E0A3),
    "fear": _bgr(0xB4A5FF),
    "contempt": _bgr(0x9F7E75),
}
#: Classes that are no expressions of the papers.
OTHER = _bgr(0xB8BEC8)
#: Faces without a label: dark, unlike all expressions.
UNCERTAIN = _bgr(0x4A505A)
#: Background of bars, and dark text.
PANEL = _bgr(0x14171C)
#: The part of a bar that is not filled.
BAR_BACK = _bgr(0x353A43)
#: Light text.
TEXT = _bgr(0xF2F4F7)


@functools.lru_cache(256)
def expression_color(name: str) -> Color:
    """Return the colour of a class in any spelling that :func:`fer_edge.labels.canonical` knows."""
    try:
        return EXPRESSIONS[canonical(name)]
    except DataError:
        return OTHER


def text_color(background: Color) -> Color:
    """Return dark or light, for text and outlines: that with more contrast to a colour."""
    return max(PANEL, TEXT, key=lambda color: contrast(color, background))


@functools.lru_cache(256)
def contrast(a: Color, b: Color) -> float:
    """Return the contrast ratio of two colours, 1 to 21 (WCAG 2.2)."""
    low, high = sorted((_luminance(a), _luminance(b)))
    return (high + 0.05) / (low + 0.05)


def _luminance(color: Color) -> float:
    blue, green, red = ((v / 255 / 12.92 if v <= 10 else ((v / 255 + 0.055) / 1.055) ** 2.4) for v in color)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue

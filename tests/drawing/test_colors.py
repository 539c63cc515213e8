"""Colours that people with any kind of colour vision tell apart, and text that is legible on them."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.color import deltaE_ciede2000, xyz2lab

from fer_edge.drawing.colors import (
    EXPRESSIONS,
    OTHER,
    PANEL,
    TEXT,
    UNCERTAIN,
    Color,
    contrast,
    expression_color,
    text_color,
)
from fer_edge.labels import AFFECTNET8, CKPLUS, FER2013, FERPLUS, RAFDB

#: Machado, Oliveira and Fernandes (2009), severity 1, for linear RGB.
VISIONS = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900],
    ],
}  # fmt: skip
#: A difference of 2 is just noticeable side by side; these are told apart on different faces.
MIN_DIFFERENCE = 15
#: WCAG 2.2: text, and parts of graphics.
MIN_TEXT_CONTRAST, MIN_GRAPHIC_CONTRAST = 4.5, 3.0
SRGB_TO_XYZ = [
    [0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041],
]  # fmt: skip
OKABE_ITO = ("#F0E442", "#56B4E9", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")


def lab(colors_bgr: list[Color], vision: str) -> np.ndarray:
    """Return CIELAB ``[N, 3]`` of colours as somebody sees them."""
    rgb = np.array(colors_bgr)[:, ::-1] / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.transpose(VISIONS[vision]), 0, 1)
    return xyz2lab(seen @ np.transpose(SRGB_TO_XYZ))


def smallest_difference(colors_bgr: list[Color], vision: str) -> float:
    values = lab(colors_bgr, vision)
    first, second = np.triu_indices(len(values), 1)
    return float(deltaE_ciede2000(values[first], values[second]).min())


@pytest.mark.parametrize("vision", VISIONS)
def test_expressions_are_told_apart(vision: str) -> None:
    assert set(EXPRESSIONS) == set(FERPLUS)
    assert smallest_difference([*EXPRESSIONS.values(), UNCERTAIN], vision) > MIN_DIFFERENCE


def test_they_differ_more_than_the_usual_palette_for_colour_blind_people() -> None:
    usual = [(int(c[5:], 16), int(c[3:5], 16), int(c[1:3], 16)) for c in OKABE_ITO]
    worst = min(smallest_difference([*usual, (221, 221, 221)], vision) for vision in VISIONS)
    ours = min(smallest_difference(list(EXPRESSIONS.values()), vision) for vision in VISIONS)
    assert ours > worst + 4


@pytest.mark.parametrize("background", [*EXPRESSIONS.values(), UNCERTAIN, OTHER, PANEL], ids=str)
def test_text_is_legible(background: Color) -> None:
    assert contrast(text_color(background), background) >= MIN_TEXT_CONTRAST


@pytest.mark.parametrize("color", [*EXPRESSIONS.values(), OTHER], ids=str)
def test_bars_stand_out(color: Color) -> None:
    assert contrast(color, PANEL) >= MIN_GRAPHIC_CONTRAST


def test_contrast_is_that_of_wcag() -> None:
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert contrast((255, 255, 255), (0x76, 0x76, 0x76)) == pytest.approx(4.54, abs=0.005)
    assert contrast((0, 0, 255), (255, 255, 255)) == pytest.approx(4.0, abs=0.005)  # red, in the order BGR
    assert contrast(PANEL, TEXT) == contrast(TEXT, PANEL)


@pytest.mark.parametrize("names", [AFFECTNET8, CKPLUS, FER2013, RAFDB], ids=str)
def test_every_spelling_has_its_colour(names: tuple[str, ...]) -> None:
    assert all(expression_color(name) in EXPRESSIONS.values() for name in names)
    assert len({expression_color(name) for name in names}) == len(names)
    assert expression_color("bored") == OTHER

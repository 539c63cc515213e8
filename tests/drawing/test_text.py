"""Text drawn from the stored letters of Roboto."""

from __future__ import annotations

import string

import numpy as np
import pytest

from fer_edge.drawing.text import draw_text, line_height, shorten, text_width

INK, PAPER = (10, 20, 230), (200, 210, 220)
SIZES = (11, 13, 24, 48, 64, 96)


def written(text: str, em_px: int, left: int = 20, top: int = 10) -> np.ndarray:
    """Return where text has changed a canvas that is larger than it, bool ``[H, W]``."""
    canvas = np.full((line_height(em_px) + 20, text_width(text, em_px) + 40, 3), PAPER, np.uint8)
    draw_text(canvas, text, left, top, em_px, INK, PAPER)
    return (np.abs(canvas.astype(int) - PAPER) > 8).any(axis=2)


@pytest.mark.parametrize("em_px", SIZES)
def test_text_fills_the_width_and_height_that_are_told(em_px: int) -> None:
    found = written("Hamburg", em_px)
    rows, columns = np.flatnonzero(found.any(axis=1)), np.flatnonzero(found.any(axis=0))
    assert 20 <= columns[0] <= 20 + 0.2 * em_px
    assert (
        20 + text_width("Hamburg", em_px) - 0.2 * em_px
        <= columns[-1] + 1
        <= 21 + text_width("Hamburg", em_px)
    )
    assert rows[0] >= 10
    assert rows[-1] < 10 + line_height(em_px)


@pytest.mark.parametrize("em_px", SIZES)
def test_capitals_have_the_height_of_roboto_and_lie_in_the_middle(em_px: int) -> None:
    rows = np.flatnonzero(written("H", em_px).any(axis=1)) - 10
    assert rows[-1] + 1 - rows[0] == pytest.approx(1456 / 2048 * em_px, abs=0.02 * em_px + 1)
    assert (rows[0] + rows[-1] + 1) / 2 == pytest.approx(line_height(em_px) / 2, abs=0.03 * em_px + 1)


def test_widths_are_those_of_roboto() -> None:
    """Advances of the font file in units of 2048 per em; its figures are all as wide."""
    assert text_width("H" * 100, 48) == pytest.approx(100 * 1448 / 2048 * 48, rel=0.02)
    assert len({text_width(figure, 64) for figure in string.digits}) == 1
    assert text_width("iiii", 20) < text_width("mmmm", 20) / 2


def test_every_letter_is_another_picture() -> None:
    letters = string.ascii_letters + string.digits + "#%?·…–äéñß"
    pictures = set()
    for letter in letters:
        canvas = np.full((70, 70, 3), PAPER, np.uint8)
        draw_text(canvas, letter, 5, 5, 48, INK, PAPER)
        pictures.add(canvas.tobytes())
    assert len(pictures) == len(letters)
    assert not written("   ", 48).any()


@pytest.mark.parametrize(
    ("text", "same"),
    [("na\u0131ve", "na\ufffdve"), ("e\u0301", "é"), ("ẽ", "e"), ("ﬁ", "f"), ("猫", "\ufffd"), ("a\u0338", "a"), ("\t", "\ufffd")],
)  # fmt: skip
def test_letters_that_the_font_lacks(text: str, same: str) -> None:
    np.testing.assert_array_equal(written(text, 32), written(same, 32))


def test_colours_are_exact_inside_and_outside_of_letters() -> None:
    canvas = np.full((100, 200, 3), PAPER, np.uint8)
    draw_text(canvas, "I", 20, 10, 60, INK, PAPER)
    assert (canvas == INK).all(axis=2).sum() > 200
    assert (canvas[:, 60:] == PAPER).all()
    low, high = np.minimum(INK, PAPER), np.maximum(INK, PAPER)
    assert (canvas >= low).all()
    assert (canvas <= high).all()


@pytest.mark.parametrize(
    "corner", [(-30, -10), (90, 20), (10, 45), (-500, 0), (0, -500), (500, 500), (-5, 45)]
)
def test_what_lies_outside_the_canvas_is_left_out(corner: tuple[int, int]) -> None:
    canvas = np.full((50, 100, 3), PAPER, np.uint8)
    draw_text(canvas, "happiness", *corner, 24, INK, PAPER)
    large = np.full((1250, 1400, 3), PAPER, np.uint8)
    draw_text(large, "happiness", corner[0] + 600, corner[1] + 600, 24, INK, PAPER)
    np.testing.assert_array_equal(canvas, large[600:650, 600:700])


def test_views_are_drawn_on() -> None:
    canvas = np.full((60, 200, 3), PAPER, np.uint8)
    draw_text(canvas[:, ::2], "abc", 5, 5, 30, INK, PAPER)
    assert (canvas[:, ::2] != PAPER).any()
    assert (canvas[:, 1::2] == PAPER).all()


def test_long_text_is_cut() -> None:
    text = "a very long name of an expression"
    assert shorten(text, 20, 1000) == text
    for width in range(0, 300, 7):
        short = shorten(text, 20, width)
        assert text_width(short, 20) <= width
        assert short == "" or (short.endswith("…") and text.startswith(short[:-1]) and short[-2] != " ")
    assert shorten(text, 20, 0) == ""
    assert shorten("", 20, 0) == ""


def test_no_text() -> None:
    assert text_width("", 20) == 0
    assert not written("", 20).any()

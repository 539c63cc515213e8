"""Words, sizes and pictures of labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fer_edge.drawing.colors import BAR_BACK, EXPRESSIONS, OTHER, PANEL, UNCERTAIN
from fer_edge.drawing.labels import LabelStyle, draw_label, face_label, label_size
from fer_edge.labels import FERPLUS
from fer_edge.results import Face

PROBABILITIES = {"sadness": 0.05, "happiness": 0.8, "fear": 0.02, "neutral": 0.13}


def face(**fields: Any) -> Face:
    values = {"label": "happiness", "probability": 0.8, "probabilities": PROBABILITIES, **fields}
    return Face((0, 0, 9, 9), 0.9, **values)


def drawn(shown: Face, style: LabelStyle = LabelStyle.FULL, em_px: int = 20) -> np.ndarray:
    """Return a label alone, ``[H, W, 3]``, after checking that nothing around it has changed."""
    label = face_label(shown)
    width, height = label_size(label, style, em_px)
    canvas = np.full((height + 20, width + 20, 3), 99, np.uint8)
    draw_label(canvas, label, style, (10, 10, 10 + width, 10 + height), em_px)
    picture = canvas[10:-10, 10:-10].copy()
    canvas[10:-10, 10:-10] = 99
    assert (canvas == 99).all()
    return picture


def count(picture: np.ndarray, color: tuple[int, int, int]) -> int:
    return int((picture == color).all(axis=2).sum())


def test_a_label_names_the_expression_and_the_three_likeliest() -> None:
    label = face_label(face())
    assert (label.title, label.figure, label.held, label.tag) == ("happiness", "80 %", "", "hap")
    assert label.bars == [("happiness", 0.8), ("neutral", 0.13), ("sadness", 0.05)]
    assert label.color_bgr == EXPRESSIONS["happiness"]


@pytest.mark.parametrize(
    ("held_ms", "text"),
    [(None, ""), (0.0, "0.0 s"), (432.1, "0.4 s"), (9_940, "9.9 s"), (12_300, "12 s"), (119_000, "119 s"), (600_000, "10 min")],
)  # fmt: skip
def test_tracks_have_their_number_and_time(held_ms: float | None, text: str) -> None:
    label = face_label(face(track_id=7, stable_for_ms=held_ms))
    assert (label.title, label.held, label.tag) == ("#7 happiness", text, "#7")


def test_a_face_without_a_label_has_a_reason() -> None:
    label = face_label(face(label=None, reason="too_small", stable_for_ms=500.0, track_id=0))
    assert (label.title, label.figure, label.held, label.tag) == ("#0 ? too small", "", "", "#0")
    assert label.color_bgr == UNCERTAIN
    assert face_label(face(label=None, reason=None)).title == "?"
    assert face_label(face(label=None, reason="uncertain")).tag == "?"


@pytest.mark.parametrize(
    ("probability", "text"),
    [(0.0, "0 %"), (0.001, "<1 %"), (0.005, "<1 %"), (0.006, "1 %"), (0.994, "99 %"), (0.995, ">99 %"), (1.0, "100 %"), (float("nan"), "–")],
)  # fmt: skip
def test_figures_claim_no_certainty(probability: float, text: str) -> None:
    assert face_label(face(probability=probability)).figure == text


def test_styles_take_less_and_less_room() -> None:
    label = face_label(face(track_id=7, stable_for_ms=4000.0))
    full, line, name, tag = (label_size(label, style, 20) for style in LabelStyle)
    assert full[1] > 3 * line[1]
    assert line[1] == name[1] == tag[1]
    assert line[0] > name[0] > tag[0]
    assert full[0] > tag[0]


@pytest.mark.parametrize("style", LabelStyle)
def test_sizes_grow_with_the_text(style: LabelStyle) -> None:
    small, large = (label_size(face_label(face()), style, em_px) for em_px in (12, 48))
    assert large[0] == pytest.approx(4 * small[0], rel=0.1)
    assert large[1] == pytest.approx(4 * small[1], rel=0.1)


@pytest.mark.parametrize("style", LabelStyle)
@pytest.mark.parametrize("em_px", [11, 20, 60])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"track_id": 123456, "stable_for_ms": 1e9},
        {"label": None, "reason": "not_finite", "probabilities": {}, "probability": 0.0},
        {"label": None, "reason": "a very long reason " * 9},
        {"label": "an expression with a very long name " * 3, "probabilities": {"x " * 60: 1.0, "": 0.0}},
        {"probabilities": dict.fromkeys(FERPLUS, float("nan")), "probability": float("nan")},
        {"probabilities": {"happiness": 7.0, "fear": -3.0}, "probability": float("inf")},
        {"label": "愤怒", "probabilities": {"愤怒": 1.0}},
    ],
    ids=str,
)
def test_any_label_stays_in_its_rectangle(style: LabelStyle, em_px: int, fields: dict[str, Any]) -> None:
    picture = drawn(face(**fields), style, em_px)
    assert (picture != 99).any(axis=2).all()
    assert picture.shape[1] < 40 * em_px


def test_bars_are_as_long_as_probabilities() -> None:
    picture = drawn(face(probabilities={"happiness": 0.6, "fear": 0.3, "anger": 0.1}))
    title = label_size(face_label(face()), LabelStyle.LINE, 20)[1]
    bars = {name: count(picture[title:], EXPRESSIONS[name]) for name in ("happiness", "fear", "anger")}
    assert bars["happiness"] == pytest.approx(2 * bars["fear"], rel=0.05)
    assert bars["fear"] == pytest.approx(3 * bars["anger"], rel=0.1)
    empty = count(picture, BAR_BACK)
    assert sum(bars.values()) / (sum(bars.values()) + empty) == pytest.approx(1 / 3, rel=0.05)


def test_the_title_has_the_colour_of_the_expression() -> None:
    for label, color in ((None, UNCERTAIN), ("anger", EXPRESSIONS["anger"]), ("bored", OTHER)):
        picture = drawn(face(label=label, probabilities={}))
        assert (picture[0] == color).all()
        assert count(picture, color) > 0.5 * picture.shape[0] * picture.shape[1]


def test_width_does_not_depend_on_which_classes_are_likeliest() -> None:
    sizes = set()
    for likeliest in ("fear", "anger", "neutral"):
        probabilities = {name: 0.9 if name == likeliest else 0.01 for name in FERPLUS}
        shown = face(label=likeliest, probabilities=probabilities)
        sizes.add(label_size(face_label(shown), LabelStyle.FULL, 20))
    assert len(sizes) == 1


def test_words_are_drawn() -> None:
    fear, anger = (drawn(face(label=name, probabilities={}), LabelStyle.NAME) for name in ("fear", "anger"))
    assert count(fear, PANEL) > 20
    assert fear.shape != anger.shape

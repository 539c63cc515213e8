"""Expression names: one vocabulary, and maps between class orders."""

from __future__ import annotations

import pytest

from fer_edge.errors import DataError
from fer_edge.labels import AFFECTNET8, FER2013, FERPLUS, canonical, index_map


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Happy", "happiness"), (" joy ", "happiness"), ("SCARED", "fear"), ("contempt", "contempt")],
)
def test_canonical(name: str, expected: str) -> None:
    assert canonical(name) == expected


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("angry ANGER 0_angry 01-Anger", "anger"),
        ("happy Happiness joy 1.happy", "happiness"),
        ("surprise surprised 5)surprise", "surprise"),
        ("contempt contemptuous", "contempt"),
        ("neutral normal 7:neutral", "neutral"),
        ("fear fearful afraid scared", "fear"),
        ("disgust disgusted", "disgust"),
        ("sad sadness 4sad", "sadness"),
    ],
)
def test_names_as_people_write_them(names: str, expected: str) -> None:
    for name in names.split():
        assert canonical(f"  {name}\t") == canonical(name.replace(".", ". ")) == expected


@pytest.mark.parametrize("order", [FERPLUS, FER2013, AFFECTNET8])
def test_every_order_has_canonical_names_once(order: tuple[str, ...]) -> None:
    names = [canonical(name) for name in order]
    assert len(set(names)) == len(order)
    assert set(names) <= set(FERPLUS)


@pytest.mark.parametrize("name", ["", "bored", "happy!", "²", "0", "7_", "²_sad"])
def test_unknown_names_list_the_choices(name: str) -> None:
    with pytest.raises(DataError, match="expected one of afraid, anger"):
        canonical(name)


@pytest.mark.parametrize(
    ("name", "nearest"), [("suprise", "surprise"), ("3_hapy", "happy"), ("sad" * 10**6, None)]
)
def test_unknown_names_suggest_the_nearest(name: str, nearest: str | None) -> None:
    with pytest.raises(DataError) as caught:
        canonical(name)
    text = str(caught.value)
    assert (f"did you mean {nearest!r}?" in text) is (nearest is not None)
    assert len(text) < 500


def test_index_map_goes_by_name() -> None:
    assert index_map(FER2013, FERPLUS).tolist() == [4, 5, 6, 1, 3, 2, 0]
    assert index_map(FERPLUS, FER2013).tolist() == [6, 3, 5, 4, 0, 1, 2, -1]
    assert index_map(("joy", "fear"), ("sad",)).tolist() == [-1, -1]

"""The comparison of two machines holds where they agree and fails where they do not."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from compare import compare, main

FACE = {
    "box_xyxy": [10.0, 20.0, 110.0, 140.0],
    "label": "anger",
    "probabilities": {"anger": 0.6, "fear": 0.4},
}
X86 = {
    "machine": "x86_64",
    "precision": "fp32",
    "versions": {"python": "3.11.7", "numpy": "2.4.6"},
    "faces": {"a.png": [FACE], "b.png": []},
}


def other(change: Callable[[dict[str, Any]], object] = lambda result: None) -> dict[str, Any]:
    result = copy.deepcopy(X86) | {"machine": "aarch64"}
    change(result)
    return result


def shift(result: dict[str, Any], pixels: float) -> None:
    face = result["faces"]["a.png"][0]
    face["box_xyxy"] = [value + pixels for value in face["box_xyxy"]]


def move_probability(result: dict[str, Any], amount: float) -> None:
    probabilities = result["faces"]["a.png"][0]["probabilities"]
    probabilities.update(anger=0.6 - amount, fear=0.4 + amount)


def test_small_differences_are_measured() -> None:
    def change(result: dict[str, Any]) -> None:
        shift(result, 0.1)
        move_probability(result, 4e-4)
        result["versions"]["python"] = "3.11.2"

    result = compare(X86, other(change))
    assert result.problems == ()
    assert result.faces == 1
    assert result.probability_difference == pytest.approx(4e-4)
    shared = 99.9 * 119.9
    assert result.iou == pytest.approx(shared / (2 * 100 * 120 - shared))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda r: move_probability(r, 2e-3), "probabilities differ by 2.0e-03, allowed 1e-03"),
        (lambda r: move_probability(r, float("nan")), "probabilities differ by nan"),
        (lambda r: shift(r, 2.0), "boxes overlap by 0.9"),
        (lambda r: r["faces"]["a.png"].append(FACE), "a.png: 1 faces against 2"),
        (lambda r: r["faces"]["a.png"].clear(), "a.png: 1 faces against 0"),
        (lambda r: r["faces"]["a.png"][0].update(label="fear"), "a.png: anger against fear"),
        (lambda r: r["faces"].pop("b.png"), "pictures:"),
        (lambda r: r["versions"].update(numpy="2.2.6"), "versions:"),
        (lambda r: r.update(precision="int8"), "precision: fp32 against int8"),
        (lambda r: r.update(machine="x86_64"), "both ran on x86_64"),
    ],
)
def test_what_differs_is_named(change: Callable[[dict[str, Any]], object], problem: str) -> None:
    problems = compare(X86, other(change)).problems
    assert any(problem in text for text in problems), problems


def test_no_face_at_all_is_no_agreement() -> None:
    empty = X86 | {"faces": {"a.png": []}}
    problems = compare(empty, empty | {"machine": "aarch64"}).problems
    assert problems == ("no face was compared",)


def test_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(tmp_path / name) for name in ("x86.json", "same.json", "different.json")]
    contents = (X86, other(), other(lambda r: move_probability(r, 2e-3)))
    for file, content in zip(files, contents, strict=True):
        Path(file).write_text(json.dumps(content))
    assert main(files[0], files[1]) == 0
    assert main(files[0], files[2]) == 1
    assert "fp32: probabilities differ by 2.0e-03" in capsys.readouterr().err

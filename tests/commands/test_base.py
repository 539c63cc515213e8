"""Tables and lines of the command line show their input, including square brackets and long names."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import pytest
from terminal import shown

from fer_edge.commands.base import make_table, print_result

ROWS = [
    ("onnxruntime-tensorrt", "conv-attention on a processor", "12.34 MB", "left out"),
    ("openvino", "visual-attention-symmetric", "1000.00 MB", "chosen"),
]
PICTURE = f"{'picture-of-a-person-' * 2}from-a-camera.png"
BUILD = (
    *("build", "--model", "visual-attention", "--int8", "--sensitivity"),
    *("--calibration-images", "16", "--comparison-images", "16", "--sensitivity-images", "8"),
)
COLUMNS = ("backend", "network", "size", "state")


@pytest.fixture
def folder(tmp_path: Path, astronaut_file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a picture, and the same folder as a data set."""
    monkeypatch.setenv("FER_EDGE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data" / "happy").mkdir(parents=True)
    shutil.copy(astronaut_file, tmp_path / "data" / "happy")
    shutil.copy(astronaut_file, tmp_path / PICTURE)
    return tmp_path


def printed(capsys: pytest.CaptureFixture[str], table: object) -> str:
    print_result(argparse.Namespace(json=False), {}, table)  # type: ignore[arg-type]
    return capsys.readouterr().out


def test_square_brackets_are_shown_and_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    table = make_table("Fixes", ("", "command"), [("[red]layer[/red]", "pip install 'fer-edge[openvino]'")])
    print_result(argparse.Namespace(json=False), {}, table, "Bundle: [a]/b.fer")
    shown = capsys.readouterr().out
    assert "pip install 'fer-edge[openvino]'" in shown
    assert "[red]layer[/red]" in shown
    assert "Bundle: [a]/b.fer" in shown


@pytest.mark.parametrize("columns", [20, 40, 60, 67, 68, 74, 75, 80, 120])
def test_no_word_is_cut_or_broken(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    text = printed(capsys, make_table("A title", COLUMNS, ROWS))
    assert max(map(len, text.splitlines())) <= columns
    words = [word for row in ROWS for cell in row for word in cell.split()]
    longest = max(map(len, words))
    assert [word for word in words if word not in text and columns >= longest + 2] == []
    assert ("│" in text) == (columns >= 75)
    assert ("\nonnxruntime-tensorrt " in text) == (68 <= columns < 75)
    assert text.startswith("A title\n")


@pytest.mark.parametrize("columns", [40, 80])
def test_a_name_wider_than_the_table_has_a_line_of_its_own(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    name = "photographs/" + "x" * (columns - 12)
    text = printed(capsys, make_table("", ("frame", "score", ""), [(name, 0.5, "happy"), ("b", "", "")]))
    assert text.splitlines()[1:4] == [name, "  score 0.5, happy".ljust(columns), "b"]


def test_a_long_path_is_broken_and_not_cut(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    path = "/folder" * 20
    text = printed(capsys, make_table("Facts", ("", "value"), [("data", path), ("network", "feratt")]))
    cells = [line.strip("│").split("│")[-1].strip() for line in text.splitlines() if line.startswith("│")]
    assert "".join(cells) == f"{path}feratt"


@pytest.mark.parametrize("columns", [80, 120, None])
@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (("inspect", "default"), ("model.onnx", "ranges.json", "self_test.npz", "conv-attention")),
        (("run", "visual-attention", "--no-tune", "--source", PICTURE), (PICTURE, "happy", "detect")),
    ],
    ids=["inspect", "run"],
)
def test_names_are_whole_at_every_width(
    arguments: tuple[str, ...], names: tuple[str, ...], columns: int | None, folder: Path
) -> None:
    check_names(shown(columns, *arguments, cwd=folder), names, columns)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (("eval", "visual-attention", "--data", "data"), ("balanced accuracy", "macro-F1", "happy")),
        (("tune", "visual-attention", "--backend", "onnxruntime"), ("onnxruntime", "fp32", "chosen")),
        pytest.param(
            (*BUILD, "--output", "a.fer"),
            ("latency p50, batch 1", "features.21/Conv"),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["eval", "tune", "build"],
)
def test_names_are_whole_at_80_columns(
    arguments: tuple[str, ...], names: tuple[str, ...], folder: Path
) -> None:
    check_names(shown(80, *arguments, cwd=folder), names, 80)


def check_names(text: str, names: tuple[str, ...], columns: int | None) -> None:
    assert [name for name in names if name not in text] == [], text
    table = [line for line in text.splitlines() if line.startswith(tuple("┏┃┡│└"))]
    assert all(line.endswith(tuple("┓┃┩│┘")) for line in table), text
    assert max(map(len, table), default=0) <= (columns or 160)

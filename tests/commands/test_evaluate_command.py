"""``fer-edge eval`` on data with bad rows."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from fer_edge.cli import main
from fer_edge.synthetic.drawn import generate_faces


@pytest.fixture
def rafdb(tmp_path: Path) -> Path:
    """RAF-DB's layout with three good rows, a bad label and an unreadable image, in a folder [b]."""
    root = tmp_path / "[b] raf"
    (root / "EmoLabel").mkdir(parents=True)
    (root / "Image" / "aligned").mkdir(parents=True)
    for i, face in enumerate(generate_faces(3), 1):
        cv2.imwrite(str(root / "Image" / "aligned" / f"test_000{i}_aligned.jpg"), face)
    (root / "Image" / "aligned" / "test_0004_aligned.jpg").write_bytes(b"no image")
    lines = ["test_0001.jpg 4", "test_0002.jpg 9", "test_0003.jpg 7", "test_0004.jpg 1", "test_0002.jpg 1"]
    (root / "EmoLabel" / "list_patition_label.txt").write_text("\n".join(lines))
    return root


def test_photographs_of_a_folder_are_evaluated_cropped_and_face_crops_as_they_are(
    tmp_path: Path, astronaut: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, picture in (("photographs", cv2.copyMakeBorder(astronaut, 100, 100, 100, 100, cv2.BORDER_REPLICATE)),
                            ("crops", astronaut[50:210, 150:310])):  # fmt: skip
        for i in range(2):
            (tmp_path / folder / "happy").mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(tmp_path / folder / "happy" / f"{i}.png"), picture)
        arguments = ["eval", "default", "--data", str(tmp_path / folder)]
        assert main([*arguments, "--json"]) == 0
        value = json.loads(capsys.readouterr().out)
        assert (value["photographs"], value["metrics"]["count"]) == (folder == "photographs", 2)
        assert main(arguments) == 0
        said = capsys.readouterr().out
        assert ("photographs holds photographs: the largest face of each was cut out by yunet." in said) is (
            folder == "photographs"
        )
        assert ("each was classified whole." in said) is (folder != "photographs")


def test_data_without_labels_are_refused_as_such(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "test.csv").write_text(f"pixels\n{'7 ' * 2304}\n")
    assert main(["eval", "default", "--data", str(tmp_path / "test.csv")]) == 1
    assert "FER2013 has no labels. Fix: give labelled faces" in capsys.readouterr().err


def test_a_bad_row_stops_with_file_and_line(rafdb: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "default", "--data", str(rafdb)]) == 1
    assert (
        "list_patition_label.txt, line 2: expected a class from 1 to 7, found '9'. Fix: correct it, or leave bad rows out "
        "(--skip-bad of build, eval"
    ) in capsys.readouterr().err


def test_skipped_rows_are_counted_and_listed(rafdb: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["eval", "default", "--data", str(rafdb), "--split", "test", "--skip-bad"]
    assert main([*arguments, "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["metrics"]["count"] == 3
    assert value["skipped_rows"]["count"] == 2
    assert ["line 2" in text for text in value["skipped_rows"]["first"]] == [True, False]
    assert main(arguments) == 0
    shown = capsys.readouterr().out.replace("\n", "")
    assert "left out: bad rows" in shown
    assert f"bad row: {rafdb}" in shown
    assert "line 4" in shown


def test_parts_that_are_mixed_are_a_warning(rafdb: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["eval", "default", "--data", str(rafdb), "--skip-bad"]
    assert main([*arguments, "--json"]) == 0
    assert "give --split for one part" in json.loads(capsys.readouterr().out)["warnings"][0]
    assert main([*arguments, "--split", "test"]) == 0
    assert "Warning" not in capsys.readouterr().out


def test_a_class_without_faces_has_no_recall(
    tmp_path: Path, astronaut: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "happy").mkdir()
    cv2.imwrite(str(tmp_path / "happy" / "a.png"), astronaut)
    assert main(["eval", "visual-attention", "--data", str(tmp_path), "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    assert metrics["recall"]["happy"] == metrics["f1"]["happy"] == 1
    assert metrics["recall"]["sad"] is metrics["f1"]["sad"] is None
    assert main(["eval", "visual-attention", "--data", str(tmp_path)]) == 0
    rows = [line.split("│") for line in capsys.readouterr().out.splitlines() if line.startswith("│ sad")]
    assert [[cell.strip() for cell in row[2:5]] for row in rows] == [["0", "–", "–"]]


def test_without_matplotlib_output_is_refused_before_the_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "matplotlib" else find(name, *rest)
    )
    monkeypatch.setattr("fer_edge.datasets.load_dataset", lambda *a, **k: pytest.fail("the data was read"))
    assert main(["eval", "default", "--data", str(tmp_path), "--output", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "matplotlib (extra plots)" in error
    assert "pip install" in error
    assert not (tmp_path / "out").exists()

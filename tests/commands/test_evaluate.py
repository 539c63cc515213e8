"""``fer-edge eval`` on data with bad rows."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest

from fer_edge.cli import main
from fer_edge.synthetic_faces import generate_faces


@pytest.fixture
def rafdb(tmp_path: Path) -> Path:
    """RAF-DB's layout with three good rows, a bad label, and an image that is none, in a folder [b]."""
    root = tmp_path / "[b] raf"
    (root / "EmoLabel").mkdir(parents=True)
    (root / "Image" / "aligned").mkdir(parents=True)
    for i, face in enumerate(generate_faces(3), 1):
        cv2.imwrite(str(root / "Image" / "aligned" / f"test_000{i}_aligned.jpg"), face)
    (root / "Image" / "aligned" / "test_0004_aligned.jpg").write_bytes(b"no image")
    lines = ["test_0001.jpg 4", "test_0002.jpg 9", "test_0003.jpg 7", "test_0004.jpg 1", "test_0002.jpg 1"]
    (root / "EmoLabel" / "list_patition_label.txt").write_text("\n".join(lines))
    return root


def test_a_bad_row_stops_with_file_and_line(rafdb: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "default", "--data", str(rafdb)]) == 1
    assert (
        "list_patition_label.txt, line 2: expected a class from 1 to 7, found '9'" in capsys.readouterr().err
    )


def test_skipped_rows_are_counted_and_listed(rafdb: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["eval", "default", "--data", str(rafdb), "--split", "test", "--skip-bad-rows"]
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

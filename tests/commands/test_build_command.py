"""Faces in the output of ``fer-edge build``."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from fer_edge.cli import main
from fer_edge.synthetic import render_faces
from fer_edge.system.load import LoadMeter


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """Three distinct faces, one of them twice."""
    folder = tmp_path / "faces"
    folder.mkdir()
    for i, face in enumerate(render_faces(3, 8)):
        cv2.imwrite(str(folder / f"{i}.png"), face)
    cv2.imwrite(str(folder / "again.jpg"), face)
    return folder


def arguments(faces: Path, *more: str) -> list[str]:
    output = faces.parent / "built.fer"
    words = ["build", "--int8", "--method", "minmax", "--backend", "onnxruntime"]
    words += ["--output", str(output), "--overwrite"]
    return [*words, "--calibration-data", str(faces), *more]


def test_text_and_json_name_faces_overlap_and_warnings(
    faces: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LoadMeter, "share_of_others", lambda self: 0.5)
    assert main(arguments(faces)) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Faces with a copy in another part: 0." in text
    assert "Left out of 4 pictures of faces: 1 copies of another face" in text
    assert "Warning: expected at least 100 distinct faces of faces to calibrate on, found 3" in text
    assert "Warning: INT8 is compared on 16 generated images (rendered)" in text
    assert "with 16 generated images (rendered)." in text
    assert main(arguments(faces, "--json")) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["data"]["calibrating"]["distinct"] == 3
    assert value["data"]["comparing"]["generated"] == value["comparison"]["faces"] == 16
    assert value["data"]["overlap"] == 0
    assert len(value["warnings"]) == 3
    comparison = value["comparison"]
    assert "other processes took 50 % of the processors" in value["warnings"][-1]
    assert f"Warning: {value['warnings'][-1]}." in text
    assert "Latency on onnxruntime: " in text
    assert comparison["speedup_low"] <= comparison["speedup"] <= comparison["speedup_high"]
    assert f"{comparison['fp32_latency']['n']} runs of each" in comparison["latency_verdict"]
    assert comparison["load_of_others"] == 0.5
    assert value["gate"]["passed"]


def test_black_pictures_are_refused(faces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in faces.iterdir():
        cv2.imwrite(str(path), np.zeros((64, 64, 3), np.uint8))
    assert main(arguments(faces)) == 1
    error = capsys.readouterr().err
    assert "4 of 4 pictures of faces have hardly any contrast" in error
    assert str(faces / "0.png") in error
    assert [path.name for path in faces.parent.iterdir()] == ["faces"]

"""``fer-edge explain`` and ``fer-edge emfacs``, and their choice of weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from fer_edge.bundle import open_bundle
from fer_edge.cli import main
from fer_edge.explanation.weights import check_weights, weights_of
from fer_edge.models.catalogue import MODELS_FOLDER, shipped_bundle

WEIGHTS = MODELS_FOLDER / "conv-attention.safetensors"


def test_grad_cam_of_the_default_model(
    tmp_path: Path, astronaut_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The smile is found at the mouth or the cheeks, not in the background."""
    output = tmp_path / "new" / "why.png"
    arguments = ["explain", "default", str(astronaut_file), "--method", "gradcam", "--output", str(output)]
    assert main([*arguments, "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["apparent_expression"] == value["class"] == "happiness"
    heat = np.array(value["heat"])
    assert heat.shape == (48, 48)
    assert (heat.min(), heat.max()) == (0, 1)
    left, top, right, bottom = value["box_xyxy"]
    x, y = value["peak_xy"]
    assert left < x < right
    assert (top + bottom) / 2 - 10 < y < bottom
    assert cv2.imread(str(output)).shape[1] == 1320
    other = tmp_path / "other.png"
    assert main([*arguments[:-1], str(other), "--class", "fear", "--json"]) == 0
    fear = json.loads(capsys.readouterr().out)
    assert fear["class"] == "fear"
    assert fear["apparent_expression"] == "happiness"
    assert fear["heat"] != value["heat"]


def test_attention_and_one_of_its_rows(
    tmp_path: Path, astronaut_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["explain", str(WEIGHTS), str(astronaut_file), "--output", str(tmp_path / "a.png"), "--json"]
    assert main(arguments) == 0
    received = json.loads(capsys.readouterr().out)
    assert received["class"] is None
    assert np.shape(received["heat"]) == (6, 6)
    assert main([*arguments, "--map", "row", "--location", "4", "2", "--face", "whole"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["box_xyxy"] is None
    assert row["crop_xyxy"] == [0, 0, 512, 512]
    assert row["heat"] != received["heat"]


@pytest.mark.parametrize(
    ("extra", "message", "code"),
    [
        (["--class", "joy", "--method", "gradcam"], "unknown class 'joy'", 2),
        (["--class", "happiness"], "attention maps are not class-specific", 2),
        (["--map", "rows"], "did you mean 'row'", 2),
        (["--model", "resmasking"], "expected the network resmasking", 2),
        (["--weights", "none.safetensors", "--method", "gradcam"], "does not exist", 1),
    ],
)
def test_wrong_wishes(
    tmp_path: Path, astronaut_file: Path, capsys: pytest.CaptureFixture[str],
    extra: list[str], message: str, code: int,
) -> None:  # fmt: skip
    arguments = ["explain", "default", str(astronaut_file), "--output", str(tmp_path / "a.png"), *extra]
    assert main(arguments) == code
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_picture_without_a_face(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "empty.png"
    cv2.imwrite(str(picture), np.full((200, 200, 3), 90, np.uint8))
    arguments = ["explain", "default", str(picture), "--output", str(tmp_path / "a.png")]
    assert main([*arguments, "--method", "gradcam"]) == 1
    assert "--face whole" in capsys.readouterr().err


def test_without_pytorch_the_command_that_helps_is_named(
    tmp_path: Path, astronaut_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    arguments = ["explain", "default", str(astronaut_file), "--output", str(tmp_path / "a.png")]
    assert main([*arguments, "--method", "gradcam"]) == 1
    assert "pip install 'torch>=2.8'" in capsys.readouterr().err


def test_weights_are_found_by_their_sha256(tmp_path: Path) -> None:
    copy = open_bundle(Path(shutil.copytree(shipped_bundle(), tmp_path / "mine.fer")))
    assert weights_of(copy) == WEIGHTS
    beside = Path(shutil.copy(WEIGHTS, tmp_path / "mine.safetensors"))
    assert weights_of(copy) == beside
    assert check_weights(copy, beside) == beside
    beside.write_bytes(b"others")
    assert weights_of(copy) == WEIGHTS
    with pytest.raises(Exception, match="sha256 differs"):
        check_weights(copy, beside)


def test_weights_that_are_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fer_edge.explanation.weights.MODELS_FOLDER", tmp_path)
    copy = open_bundle(Path(shutil.copytree(shipped_bundle(), tmp_path / "mine.fer")))
    with pytest.raises(Exception, match="Fix: give them with --weights FILE"):
        weights_of(copy)


def test_random_weights_explain_nothing_without_consent(
    tmp_path: Path, astronaut_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from fer_edge.export.checkpoints import random_network
    from fer_edge.export.weights import save_weights

    save_weights(tmp_path / "r.safetensors", random_network("visual-attention"))
    output = tmp_path / "a.png"
    arguments = ["explain", str(tmp_path / "r.safetensors"), str(astronaut_file), "--output", str(output)]
    assert main(arguments) == 2
    assert "expected trained weights, found random ones" in capsys.readouterr().err
    assert not output.exists()
    assert main([*arguments, "--allow-random", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["random_weights"]
    assert np.shape(value["heat"]) == (9, 7)


def test_emfacs_by_a_network_that_finds_no_landmarks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.random.default_rng(0).integers(0, 255, (48, 48, 3), np.uint8))
    assert main(["emfacs", "default", "--data", str(tmp_path), "--method", "gradcam"]) == 1
    assert "has no landmarks, and conv-attention does not predict them" in capsys.readouterr().err


def test_emfacs_with_predicted_landmarks(
    tmp_path: Path, astronaut: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "happiness").mkdir()
    cv2.imwrite(str(tmp_path / "happiness" / "a.png"), astronaut[40:200, 150:310])
    arguments = ["emfacs", "default", "--data", str(tmp_path), "--landmarks", "mtcnn-mean-face"]
    assert main([*arguments, "--method", "gradcam", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["landmark_source"].startswith("pseudo: mtcnn")
    (row,) = value["classes"]
    assert (row["class_name"], row["images"]) == ("happiness", 1)
    assert 0 <= row["overlap"] <= 1

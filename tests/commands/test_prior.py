"""``--prior``: names, files, pairs and invalid input; and the output of the commands."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from fer_edge.cli import main
from fer_edge.commands.base import parse_prior
from fer_edge.errors import UsageError
from fer_edge.labels import FERPLUS
from fer_edge.synthetic.drawn import generate_faces

#: A prior without happiness, which the astronaut shows.
SAD = {name: 0.0 if name == "happiness" else 1 / 7 for name in FERPLUS}
PAIRS = ",".join(f"{name}={0 if name == 'happiness' else 1 / 7!r}" for name in FERPLUS)


def test_names_pairs_and_files(tmp_path: Path) -> None:
    file = tmp_path / "camera.json"
    file.write_text(json.dumps(SAD))
    assert parse_prior(None) is None
    assert [parse_prior(name) for name in ("training", "balanced", "uniform")] == [
        "training",
        "balanced",
        "uniform",
    ]
    assert parse_prior(PAIRS) == parse_prior(PAIRS.replace(",", " , ")) == parse_prior(str(file)) == SAD


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("balence", "unknown prior 'balence'.*did you mean 'balanced'"),
        ("", "unknown prior ''"),
        ("anger=0.5,happiness", "expected CLASS=PROBABILITY in --prior, found 'happiness'. Fix: give pairs"),
        ("anger=0.5,=0.5", "found '=0.5'"),
        ("anger=half", "found 'anger=half'"),
        ("anger=0.5,", "found ''"),
        ("anger=0.5,anger=0.5", "--prior has anger more than once"),
        ("none.json", "none.json cannot be read .No such file"),
    ],
)  # fmt: skip
def test_what_is_no_prior(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_prior(text)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[0.5]", "expected a JSON object in --prior .*, found list"),
        (b'"balanced"', "expected a JSON object in --prior .*, found str"),
        (b"{", "is not JSON"),
        (b"", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"anger": 0.5, "anger": 0.5}', "--prior has anger more than once"),
    ],
    ids=["list", "text", "torn", "empty", "binary", "deep", "twice"],
)  # fmt: skip
def test_files_that_hold_no_prior(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UsageError, match=message):
        parse_prior(str(tmp_path / "a.json"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("anger=1", "lacks the classes neutral"),
        (PAIRS.replace("anger", "angry"), "unknown class 'angry'.*did you mean 'anger'"),
        (PAIRS.replace("happiness=0", "happiness=0.1"), "must sum to 1, found 1.1"),
        (PAIRS.replace("happiness=0", "happiness=nan"), "the prior of happiness must be a number"),
        ("uniforme", "did you mean 'uniform'"),
    ],
)
@pytest.mark.parametrize("command", ["run", "eval", "explain", "emfacs"])
def test_wrong_priors_stop_every_command(
    command: str, text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((60, 60, 3), np.uint8))
    output = str(tmp_path / "out.png")
    arguments = {
        "run": ["--source", str(tmp_path / "a.png"), "--output", output],
        "eval": ["default", "--data", str(tmp_path)],
        "explain": ["default", str(tmp_path / "a.png"), "--output", output],
        "emfacs": ["default", "--data", str(tmp_path)],
    }
    assert main([command, *arguments[command], "--prior", text]) == 2
    error = capsys.readouterr().err.removeprefix("loading the network\n")
    assert error.startswith(f"fer-edge {command}: ")
    assert all(part in error for part in message.split(".*"))
    assert not Path(output).exists()


def test_run_says_which_prior_it_used(astronaut_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", "--source", str(astronaut_file)]
    labels = {}
    for prior in ("training", "uniform", PAIRS):
        assert main([*arguments, "--prior", prior, "--json"]) == 0
        value = json.loads(capsys.readouterr().out)
        labels[prior] = value["info"]["prior"]["name"], value["results"][0]["faces"][0]["label"]
    assert labels["training"] == ("training", "happiness")
    assert labels["uniform"] == ("uniform", "happiness")
    assert labels[PAIRS][0] == "given"
    assert labels[PAIRS][1] != "happiness"
    assert main(arguments) == 0
    assert "prior balanced" in capsys.readouterr().out  # the default of the bundle


@pytest.mark.slow
def test_explain_answers_under_the_prior(
    tmp_path: Path, astronaut_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["explain", "default", str(astronaut_file), "--output", str(tmp_path / "a.png"), "--json"]
    found = {}
    for method in ("attention", "gradcam"):
        for prior in ("training", PAIRS):
            assert main([*arguments, "--method", method, "--prior", prior]) == 0
            found[method, prior] = json.loads(capsys.readouterr().out)
    for prior in ("training", PAIRS):  # ONNX Runtime and PyTorch
        a, b = (found[method, prior]["probabilities"] for method in ("attention", "gradcam"))
        assert a == pytest.approx(b, abs=2e-4)
        assert found["attention", prior]["prior"] == found["gradcam", prior]["prior"]
    assert found["attention", PAIRS]["probabilities"]["happiness"] == 0
    # Grad-CAM explains the most likely class under the prior, not the class of the largest logit.
    explained = found["gradcam", PAIRS]
    assert explained["class"] == max(explained["probabilities"], key=explained["probabilities"].__getitem__)
    assert explained["heat"] != found["gradcam", "training"]["heat"]
    assert main([*arguments, "--method", "gradcam", "--class", explained["class"]]) == 0
    assert json.loads(capsys.readouterr().out)["heat"] == explained["heat"]


@pytest.mark.slow
def test_eval_says_which_prior_it_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, output = tmp_path / "faces", tmp_path / "out"
    for i, face in enumerate(generate_faces(24, seed=3)):
        folder = data / FERPLUS[i % 8]
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{i}.png"), face)
    found = {}
    for prior in ("training", "balanced", "uniform", PAIRS):
        assert main(["eval", "default", "--data", str(data), "--prior", prior, "--json"]) == 0
        found[prior] = json.loads(capsys.readouterr().out)
    assert [found[prior]["prior"]["name"] for prior in found] == ["training", "balanced", "uniform", "given"]
    assert found[PAIRS]["prior"]["class_prior"] == SAD
    confusion = np.array(found[PAIRS]["metrics"]["confusion"])
    assert confusion[:, FERPLUS.index("happiness")].sum() == 0
    assert found["training"]["metrics"]["confusion"] != found["uniform"]["metrics"]["confusion"]
    weights = [sum(b["weight"] for b in found[p]["metrics"]["reliability"]) for p in found]
    assert weights[0] == 24
    frequencies = found["training"]["prior"]["class_prior"]
    assert weights[2] == pytest.approx(sum(3 / 8 / frequencies[name] for name in FERPLUS))
    assert all(math.isfinite(value["metrics"]["ece"]) for value in found.values())
    assert main(["eval", "default", "--data", str(data), "--output", str(output)]) == 0
    assert re.search(r"│ prior +│ +balanced │", capsys.readouterr().out)
    written = json.loads((output / "metrics.json").read_text())
    assert written["prior"] == found["balanced"]["prior"]
    assert written["metrics"] == found["balanced"]["metrics"]

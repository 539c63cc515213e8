"""``fer-edge tune``: a table of the measurements, and the same as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fer_edge.backends import BACKENDS, available_backends
from fer_edge.cli import main
from fer_edge.system.load import LoadMeter


@pytest.fixture
def share_of_others() -> list[float]:
    return [0.0]


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, share_of_others: list[float]) -> None:
    monkeypatch.setenv("FER_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(LoadMeter, "share_of_others", lambda self: share_of_others[0])


def test_tune_measures_then_reads(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "visual-attention", "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["measured_now"]
    assert first["choice"]["by"] == "measured"
    assert {timing["candidate"]["backend"] for timing in first["timings"]} >= set(available_backends("cpu"))
    assert Path(first["kept_in"]).is_file()
    assert main(["tune", "visual-attention", "--json"]) == 0
    second = json.loads(capsys.readouterr().out)
    assert not second["measured_now"]
    assert second["choice"] == first["choice"]
    assert main(["tune", "visual-attention"]) == 0
    text = capsys.readouterr().out
    rows = (line.lstrip("│ ") for line in text.splitlines())  # a cell may go on in a second line
    table = [row for row in rows if row.startswith(tuple(BACKENDS))]
    assert len(table) == len(first["timings"])
    assert sum("chosen" in line for line in table) == 1
    assert max(map(len, table)) <= 80
    for words in ("Chosen:", "Default without a measurement:", "--again measures now", "FER_EDGE_TUNE=0"):
        assert words in text


def test_tune_varies_only_what_is_open(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["tune", "visual-attention", "--backend", "onnxruntime", "--json"]
    assert main([*arguments, "--threads", "1"]) == 0
    value = json.loads(capsys.readouterr().out)
    (timing,) = value["timings"]  # a single candidate is timed too
    assert timing["n"] > 1
    assert timing["candidate"] == {
        "backend": "onnxruntime",
        "precision": "fp32",
        "threads": 1,
        "max_batch": 64,
    }
    assert main(["tune", "visual-attention", "--precision", "int8"]) == 1
    assert "holds no int8 model" in capsys.readouterr().err
    assert main(["tune", "--backend", "onnx"]) == 2
    assert "unknown backend 'onnx'" in capsys.readouterr().err


def test_tune_says_that_a_busy_machine_is_not_kept(
    capsys: pytest.CaptureFixture[str], share_of_others: list[float]
) -> None:
    share_of_others[0] = 0.5
    arguments = ["tune", "visual-attention", "--backend", "onnxruntime", "--threads", "1", "--max-batch", "1"]
    assert main([*arguments, "-q"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Not kept: other processes took 50 % of the processors meanwhile. --again measures again" in text
    assert main([*arguments, "--again", "--keep", "--json", "-q"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert Path(value["kept_in"]).is_file()
    assert "50 %" in value["disturbed_by"]

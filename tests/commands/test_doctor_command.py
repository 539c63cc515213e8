"""``fer-edge doctor`` as a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from fer_edge.backends import BACKENDS
from fer_edge.detection import DETECTORS


def run(folder: Path, *arguments: str) -> str:
    result = subprocess.run(
        [sys.executable, "-I", "-m", "fer_edge.cli", "doctor", *arguments],
        cwd=folder,
        env={**os.environ, "COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


def test_doctor_is_readable_in_80_columns(tmp_path: Path) -> None:
    text = run(tmp_path)
    assert max(map(len, text.splitlines())) <= 80
    for word in ("board", "driver", "memory", "ONNX Runtime", "Backends", "Detectors", *BACKENDS, *DETECTORS):
        assert word in text
    assert not list(tmp_path.iterdir())


def test_doctor_as_json_from_a_folder_with_strange_modules(tmp_path: Path) -> None:
    for name in ("json", "tensorrt", "onnxruntime", "fer_edge"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('hijacked')\n")
    value = json.loads(run(tmp_path, "--json"))
    assert set(value) == {"machine", "checks", "backends", "int8", "detectors"}
    assert set(value["backends"]) == set(BACKENDS)
    assert set(value["detectors"]) == set(DETECTORS)
    assert set(value["int8"]) == {name for name, state in value["backends"].items() if state["ok"]}
    assert all(value["int8"].values())
    for check in value["checks"]:
        assert set(check) == {"name", "state", "found", "advice", "commands"}
        assert check["state"] in ("ok", "warn", "missing")
    states = {check["name"]: check["state"] for check in value["checks"]}
    assert states["ONNX Runtime"] == "ok"

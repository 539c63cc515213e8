"""Format, lint and types are clean, and the wheel holds what it should."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from places import ROOT


def run(*command: str, cwd: Path = ROOT) -> str:
    result = subprocess.run(
        [sys.executable, "-m", *command], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_lint() -> None:
    run("ruff", "check", ".")


def test_format() -> None:
    run("ruff", "format", "--check", ".")


def test_types() -> None:
    run("mypy")


def test_the_wheel_holds_one_package_with_its_models(tmp_path: Path) -> None:
    run("pip", "wheel", "--no-deps", "--quiet", "--disable-pip-version-check", "-w", str(tmp_path), str(ROOT))
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"fer_edge"}
    assert {
        "fer_edge/py.typed",
        "fer_edge/export/onnx/export.py",
        "fer_edge/calibration/qdq/writer.py",
        "fer_edge/models/conv-attention.fer/manifest.json",
        "fer_edge/models/conv-attention.fer/model.onnx",
        "fer_edge/models/conv-attention.safetensors",
    } <= set(names)
    assert not [name for name in names if {"tests", "__pycache__"} & set(name.split("/"))]

"""Format, lint and types are clean, and the wheel holds what it should."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


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


def test_types(tmp_path: Path) -> None:
    """The packages are put where they are installed, since mypy does not read the build's table."""
    for source, target in (
        ("fer_edge", "fer_edge"),
        ("export", "fer_edge/export"),
        ("calibration", "fer_edge/calibration"),
    ):
        shutil.copytree(
            ROOT / source, tmp_path / target, ignore=shutil.ignore_patterns("*.onnx", "*.safetensors")
        )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    run("mypy", cwd=tmp_path)


def test_the_wheel_holds_one_package_with_its_models(tmp_path: Path) -> None:
    run("pip", "wheel", "--no-deps", "--quiet", "--disable-pip-version-check", "-w", str(tmp_path), str(ROOT))
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"fer_edge"}
    assert {
        "fer_edge/py.typed",
        "fer_edge/export/onnx_model.py",
        "fer_edge/calibration/qdq.py",
        "fer_edge/models/conv-attention.fer/manifest.json",
        "fer_edge/models/conv-attention.fer/model.onnx",
        "fer_edge/models/conv-attention.safetensors",
    } <= set(names)
    assert not [name for name in names if {"tests", "__pycache__"} & set(name.split("/"))]

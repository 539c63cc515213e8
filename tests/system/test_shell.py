"""Commands of messages name the Python of this process."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from fer_edge.system.extras import install_command
from fer_edge.system.shell import pip_command, python_command


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two environments; a space in the name needs quotes in a shell."""
    for place in ("own env", "other"):
        (tmp_path / place).mkdir()
        for name in ("python", "python3"):
            (tmp_path / place / name).symlink_to(os.path.realpath(sys.executable))
    return tmp_path


@pytest.mark.parametrize(
    ("first", "expected"), [("own env", "python"), ("other", "path"), ("nowhere", "path")]
)
def test_another_python_on_the_path_is_not_named(
    first: str, expected: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = folder / "own env" / "python3"
    monkeypatch.setattr(sys, "executable", str(own))
    monkeypatch.setenv("PATH", str(folder / first))
    assert python_command() == (shlex.quote(str(own)) if expected == "path" else expected)
    assert shlex.split(pip_command("install", "openvino>=2024.6"))[1:] == [
        "-m",
        "pip",
        "install",
        "openvino>=2024.6",
    ]


def test_only_python3_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "own env" / "python").unlink()
    monkeypatch.setattr(sys, "executable", str(folder / "own env" / "python3"))
    monkeypatch.setenv("PATH", f"{folder / 'own env'}:{folder / 'other'}")
    assert python_command() != "python"  # which is that of another environment
    assert python_command() == "python3"


@pytest.mark.parametrize("executable", ["", "/opt/robot/bin/brain", None])
def test_a_program_that_embeds_python(executable: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    assert python_command() == "python3"


def test_the_command_runs_in_a_shell() -> None:
    done = subprocess.run(
        f"{python_command()} -c 'import sys; print(sys.prefix)'",
        shell=True,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == sys.prefix
    assert install_command("plots").startswith(f"{python_command()} -m pip install ")

"""Imports run down the layers without a circle, and the page on the architecture shows them as they are."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT


def test_imports_run_down_and_in_no_circle() -> None:
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache", ROOT / "pyproject.toml"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[result.stdout.find("Contracts") :] + result.stderr
    assert "2 kept, 0 broken" in result.stdout


def test_the_picture_is_of_this_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs")
    draw = importlib.import_module("draw_imports")
    page = draw.PAGE.read_text(encoding="utf-8")
    assert page == draw.drawn(page), "run: python docs/draw_imports.py"
    assert page.count(" --> ") > 30
    assert sorted(room for row in draw.ROWS.values() for room in row) == sorted(draw.layers())

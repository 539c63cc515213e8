"""Code on the pages runs, or says why not, and then at least compiles or parses."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from markdown_blocks import Block, blocks_of, require_parses
from places import ROOT

PAGES = sorted((ROOT / "docs").rglob("*.md"))
BLOCKS = [block for page in PAGES for block in blocks_of(page, ROOT / "docs")]
CODE = [block for block in BLOCKS if block.language in ("python", "sh")]
#: Languages that nothing runs.
SHOWN = {"text", "dockerfile", ""}
#: Commands of more than a few seconds.
LONG = re.compile(r"fer-edge (build|train|export)|^report = build", re.MULTILINE)
#: Left, top, right, bottom of the astronaut's face, pixels.
FACE = (160, 60, 290, 190)


def case(block: Block) -> pytest.param:
    return pytest.param(block, id=block.name, marks=[pytest.mark.slow] if LONG.search(block.text) else [])


@pytest.fixture
def folder(
    request: pytest.FixtureRequest, tmp_path: Path, astronaut: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The working directory of the pages: ``photo.jpg``, ``photos``, ``faces`` by class, ``my.fer``."""
    left, top, right, bottom = FACE
    (tmp_path / "photos").mkdir()
    for path in ("photo.jpg", "photos/1.jpg", "photos/2.jpg"):
        assert cv2.imwrite(str(tmp_path / path), astronaut)
    for label in ("happiness", "neutral", "anger"):
        (tmp_path / "faces" / label).mkdir(parents=True)
        for number in range(4):
            face = cv2.convertScaleAbs(astronaut[top:bottom, left:right], beta=5 * number)
            assert cv2.imwrite(str(tmp_path / "faces" / label / f"{number}.png"), face)
    if "my.fer" in request.getfixturevalue("block").text:
        shutil.copytree(request.getfixturevalue("int8_bundle"), tmp_path / "my.fer")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_block_is_found_and_its_language_run_or_known_to_be_shown() -> None:
    fences = [
        line for page in PAGES for line in page.read_text(encoding="utf-8").splitlines() if "```" in line
    ]
    assert 2 * len(BLOCKS) == len(fences)
    assert {block.language for block in BLOCKS} - SHOWN == {"python", "sh"}
    assert len([block for block in CODE if block.reason is None]) > 20


@pytest.mark.parametrize("block", [case(b) for b in CODE if b.reason is None and b.language == "python"])
def test_python_runs(block: Block, folder: Path) -> None:
    exec(compile(block.text, block.name, "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("block", [case(b) for b in CODE if b.reason is None and b.language == "sh"])
def test_commands_run(block: Block, folder: Path) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.text],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("block", [pytest.param(b, id=b.name) for b in CODE if b.reason is not None])
def test_code_that_is_not_run_is_right_by_its_form(block: Block) -> None:
    if block.language == "python":
        compile(block.text, block.name, "exec")
    else:
        require_parses(block.text)

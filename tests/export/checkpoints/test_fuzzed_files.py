"""Damaged files of every kind raise a one-line FerEdgeError in bounded time and memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("google_crc32c", reason="needs pip install 'fer-edge[tensorflow]'")

import hostile_files
from hostile_files import KINDS, fuzz


@pytest.mark.parametrize("kind", KINDS)
def test_a_hundred_damaged_files(kind: str, tmp_path: Path) -> None:
    found = fuzz(kind, 100, tmp_path)
    assert found["refused"] > 20
    assert found["lines"] == 1
    assert found["peak_mib"] < 64


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_three_thousand_damaged_files(kind: str, tmp_path: Path) -> None:
    """In a process limited to 1 GiB above its memory after the imports."""
    result = subprocess.run(
        [sys.executable, hostile_files.__file__, kind, "3000", str(tmp_path)],
        capture_output=True, text=True, check=False, timeout=1800,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    found = json.loads(result.stdout)
    assert found["refused"] > 1000
    assert found["lines"] == 1
    assert found["longest_s"] < 5

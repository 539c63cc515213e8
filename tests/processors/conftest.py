"""Runs Python on an emulated processor."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fer_edge.bundle import open_bundle
from fer_edge.preprocess import prepare_batch
from fer_edge.synthetic.drawn import generate_faces

#: AVX2 without VNNI. QEMU emulates no AVX-512, so that only this kind of processor can be emulated.
PROCESSOR = "Haswell"

RunEmulated = Callable[..., "subprocess.CompletedProcess[str]"]
Check = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def run_emulated() -> RunEmulated:
    """``run_emulated(*arguments)`` runs this Python with the arguments on the emulated processor, on one thread."""
    emulator = shutil.which("qemu-x86_64")
    if platform.machine() != "x86_64":
        pytest.skip(f"the emulated processor needs a Python for x86-64, this one is for {platform.machine()}")
    if emulator is None:
        pytest.skip("needs qemu-x86_64: apt-get install qemu-user")

    def run(*arguments: str | Path, timeout_s: float = 900) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [emulator, "-cpu", PROCESSOR, sys.executable, *map(str, arguments)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )

    return run


@pytest.fixture(scope="session")
def batch(int8_bundle: Path) -> np.ndarray:
    """Faces ``[3, 1, 48, 48]`` as the default network takes them."""
    return prepare_batch(list(generate_faces(3, seed=3)), open_bundle(int8_bundle).spec)


@pytest.fixture(scope="session")
def check(run_emulated: RunEmulated, int8_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Check:
    """``check(backend, batch, *names)`` runs checks of ``emulated.py`` on the default INT8 bundle."""
    file = tmp_path_factory.mktemp("emulated") / "batch.npy"

    def run(backend: str, batch: np.ndarray, *names: str) -> dict[str, Any]:
        np.save(file, batch)
        result = run_emulated(Path(__file__).with_name("emulated.py"), backend, int8_bundle, file, *names)
        assert result.returncode == 0, result.stderr
        found: dict[str, Any] = json.loads(result.stdout)
        return found

    return run

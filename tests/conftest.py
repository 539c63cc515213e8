"""Fixtures that every test may use: real faces, and the folder that holds what is not in the repository."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent


def pytest_configure() -> None:
    """Give every parallel worker processors of its own: thread pools that compete lose half of their time."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if worker:
        number, count = int(worker.removeprefix("gw")), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        processors = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, processors[number::count] or processors[number % len(processors) :][:1])


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with data, models and golden outputs that lies beside the checkout."""
    path = ROOT.parent / "shared"
    if not (path / "golden").is_dir():
        pytest.skip("needs ../shared (golden outputs, data), which is not beside this checkout")
    return path


@pytest.fixture(scope="session")
def golden_filler(shared: Path) -> ModuleType:
    """The module that draws the weights and inputs of the golden outputs."""
    spec = importlib.util.spec_from_file_location("golden_fill", shared / "golden" / "fill.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def astronaut_file() -> Path:
    """A real photograph with one frontal face, from the scikit-image package (public domain, NASA)."""
    import skimage

    return Path(skimage.__file__).parent / "data" / "astronaut.png"


@pytest.fixture(scope="session")
def astronaut(astronaut_file: Path) -> np.ndarray:
    """The astronaut as ``[512, 512, 3]`` BGR uint8."""
    return cv2.imread(str(astronaut_file))

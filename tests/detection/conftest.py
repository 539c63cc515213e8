"""Fixtures of the detectors: cache folder, YuNet's file, photographs with faces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fer_edge.datasets import load_dataset
from fer_edge.detection import create_detector
from fer_edge.detection.base import Detector, DetectorOptions


@pytest.fixture(autouse=True, scope="module")
def networks_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The cache folder of all tests here, apart from the user's."""
    folder = tmp_path_factory.getbasetemp() / "detectors"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FER_EDGE_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def yunet_file(shared: Path) -> Path:
    """YuNet as published, for images of 640 pixels."""
    return shared / "models" / "yunet" / "yunet_n_640_640.onnx"


@pytest.fixture(scope="module")
def photographs(shared: Path) -> list[np.ndarray]:
    """208 photographs of one face each; the smallest is 32 pixels wide."""
    return list(load_dataset(shared / "data" / "faces_in_context"))


@pytest.fixture
def create() -> Iterator[Callable[..., Detector]]:
    """Make a detector by name and options; closed after the test."""
    made: list[Detector] = []

    def make(name: str, **options: Any) -> Detector:
        made.append(create_detector(name, DetectorOptions(**options)))
        return made[-1]

    yield make
    for detector in made:
        detector.close()

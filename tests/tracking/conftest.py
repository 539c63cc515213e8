"""Fixtures of tracking: YuNet's file, and photographs with faces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fer_edge.datasets import load_dataset
from fer_edge.tracking.refine import Refiner, RefinerOptions, create_refiner


@pytest.fixture(scope="session")
def photographs(shared: Path) -> list[np.ndarray]:
    """208 photographs of one face each."""
    return list(load_dataset(shared / "data" / "faces_in_context"))


@pytest.fixture
def open_refiner() -> Iterator[Callable[..., Refiner]]:
    """Make a refiner by options; closed after the test."""
    made: list[Refiner] = []

    def make(**options: Any) -> Refiner:
        made.append(create_refiner(RefinerOptions(**options)))
        return made[-1]

    yield make
    for refiner in made:
        refiner.close()

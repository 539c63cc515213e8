"""An engine of the fake device whose answers are known, and what a test asks of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from fake_device import FakeDevice, FakeNetwork

from fer_edge.engines.run.engine import TensorInfo

ENGINE = Path("fake.engine")
SHAPE = (2, 4, 6)
WEIGHT = np.random.default_rng(3).normal(size=(48, 5))


def compute(batch: np.ndarray) -> dict[str, np.ndarray]:
    rows = batch.astype(np.float64).reshape(len(batch), -1)
    return {
        "logits": np.stack([row @ WEIGHT for row in rows]).astype(np.float32),
        "largest": rows.argmax(axis=1).astype(np.int32)[:, None],
        "half": (batch[:, :, ::2] / 2).astype(np.float16),
    }


OUTPUTS = (
    TensorInfo("logits", np.dtype(np.float32), (5,)),
    TensorInfo("largest", np.dtype(np.int32), (1,)),
    TensorInfo("half", np.dtype(np.float16), (2, 2, 6)),
)
INPUT = TensorInfo("x", np.dtype(np.float32), SHAPE)


def network(**changes: Any) -> FakeNetwork:
    return FakeNetwork(**{"compute": compute, "input": INPUT, "outputs": OUTPUTS, **changes})


def draw(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, *SHAPE)).astype(np.float32)


def assert_clean(device: FakeDevice) -> None:
    assert device.hazards == []
    assert device.left() == {}
    assert device.closed


def assert_right(outputs: Mapping[str, Any], batch: np.ndarray) -> None:
    expected = compute(batch)
    assert list(outputs) == list(expected)
    for name, values in outputs.items():
        assert values.dtype == expected[name].dtype
        np.testing.assert_array_equal(values, expected[name])

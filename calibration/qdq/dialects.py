"""Q/DQ dialects of the backends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fer_edge.calibration.qdq.weights import MIN_SCALE


@dataclass(frozen=True)
class Dialect:
    """Q/DQ format that a family of backends expects for activations."""

    name: str
    signed: bool
    store_outputs: bool  # Q/DQ behind integer operators too, for every consumer
    integer_bias: bool
    integer_ops: frozenset[str]
    expand_transposed: bool  # for backends without an integer ConvTranspose

    def scale_and_zero_point(self, low: float, high: float) -> tuple[np.float32, np.ndarray]:
        """Return the scale and zero point of a range; zero is always represented exactly."""
        if self.signed:
            scale = max(abs(low), abs(high)) / 127
            return np.float32(max(scale, MIN_SCALE)), np.array(0, np.int8)
        low, high = min(low, 0.0), max(high, 0.0)
        scale = max((high - low) / 255, MIN_SCALE)
        return np.float32(scale), np.array(round(-low / scale), np.uint8)


DIALECTS: Mapping[str, Dialect] = {
    "cpu": Dialect("cpu", False, True, True, frozenset({"Conv", "Gemm", "Add"}), True),
    "tensorrt": Dialect(
        "tensorrt", True, False, False, frozenset({"Conv", "ConvTranspose", "Gemm", "Add"}), False
    ),
}

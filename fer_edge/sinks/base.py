"""Interface of sinks, which consume the results of the runtime."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from fer_edge.results import FrameResult


class Sink(Protocol):
    """Consumer of frames and results, in order."""

    def write(self, frame_bgr: np.ndarray, result: FrameResult) -> None:
        """Write one frame ``[H, W, 3]`` uint8 BGR (read-only) with its result."""

    def close(self) -> None:
        """Finish the output."""

    def discard(self) -> None:
        """Remove incomplete output."""

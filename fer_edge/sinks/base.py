"""The seam between the runtime and whatever takes its results."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from fer_edge.results import FrameResult


class Sink(Protocol):
    """Takes frames and results in order."""

    def write(self, frame_bgr: np.ndarray, result: FrameResult) -> None:
        """Take one frame ``[H, W, 3]`` uint8 BGR (not to be changed) with its result."""

    def close(self) -> None:
        """Finish: what was written is now whole."""

    def discard(self) -> None:
        """Remove what is half-written."""

"""The seam between the runtime and a face detector."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from fer_edge._utils.checks import MAX_THREADS, require_number, require_path, require_whole
from fer_edge.errors import UsageError
from fer_edge.results import Detection

_MAX_FACE_PX = 1 << 16


@dataclass(frozen=True)
class DetectorOptions:
    """Choices that every detector understands.

    Attributes
    ----------
    min_face_px : int
        Smallest face side looked for, in pixels of the frame. Larger is faster.
    min_score : float or None
        Detections below are dropped; ``None`` is the detector's own default.
    model : Path or None
        Weights file, for detectors that need one from the user.
    backend : str
        What runs the networks of mtcnn and yunet, a key of :data:`fer_edge.backends.BACKENDS` or ``auto``.
    threads : int or None
        CPU threads; ``None`` leaves the choice to the backend. The networks are so small that more than
        one rarely helps, and hurts where other work shares the cores.
    """

    min_face_px: int = 40
    min_score: float | None = None
    model: Path | None = None
    backend: str = "onnxruntime"
    threads: int | None = 1

    def __post_init__(self) -> None:
        require_whole("min_face_px", self.min_face_px, 1, _MAX_FACE_PX)
        require_number("min_score", self.min_score, 0, 1, optional=True)
        require_path("model", self.model)
        if not isinstance(self.backend, str):
            raise UsageError(f"backend must be a name, found {self.backend!r:.60}")
        require_whole("threads", self.threads, 1, MAX_THREADS, optional=True)


class Detector(Protocol):
    """Finds faces.

    Any thread may call, several at the same time, as with :class:`fer_edge.backends.base.Session`; a detector that
    is closed, or was made before a fork of the process, raises :class:`fer_edge.errors.DetectorError`.
    """

    name: str

    def detect(self, frame_bgr: np.ndarray) -> list[Detection]:
        """Return the faces of ``[H, W, 3]`` uint8 BGR, largest first, boxes inside the frame."""

    def close(self) -> None:
        """Wait for the frames that run, then free what the detector holds."""

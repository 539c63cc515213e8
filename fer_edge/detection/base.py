"""Interface of face detectors."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from fer_edge._utils.checks import MAX_THREADS, require_number, require_path, require_whole
from fer_edge.errors import UsageError
from fer_edge.results import Detection

#: Key in :data:`fer_edge.detection.DETECTORS`.
DEFAULT_DETECTOR = "yunet"

#: Smallest face side where the options do not give one.
MIN_FACE_PX = 40

_MAX_FACE_PX = 1 << 16


@dataclass(frozen=True)
class DetectorOptions:
    """Options of all detectors.

    Attributes
    ----------
    min_face_px : int or None
        Smallest face side to detect, in pixels of the frame. Larger is faster. ``None``: 40; with yunet 64, and 40 in
        streams with tracking, whose frames are searched seldom.
    min_score : float or None
        Smallest score of a detection; ``None`` is the detector's own default.
    model : Path or None
        Weights file of yunet instead of the one of the package.
    backend : str
        Backend of yunet and mtcnn, a key of :data:`fer_edge.backends.BACKENDS` or ``auto``.
    threads : int or None
        CPU threads; ``None`` is the default of the backend. The networks are so small that more than one thread
        rarely helps, and slows down other work on the same cores.
    turned_looks : float
        Looks of yunet at the turned frame where it finds no upright face, per search: 2 are one to each side, fewer are
        spread over the frames, for videos; the side of the last face found is looked at in each frame. The places of
        up to four faces, or of weak ones, are looked at again in any case. 0 finds upright faces alone.
    """

    min_face_px: int | None = None
    min_score: float | None = None
    model: Path | None = None
    backend: str = "onnxruntime"
    threads: int | None = 1
    turned_looks: float = 2

    def __post_init__(self) -> None:
        require_whole("min_face_px", self.min_face_px, 1, _MAX_FACE_PX, optional=True)
        require_number("min_score", self.min_score, 0, 1, optional=True)
        require_number("turned_looks", self.turned_looks, 0, 2)
        require_path("model", self.model)
        if not isinstance(self.backend, str):
            raise UsageError(
                f"backend must be a name, found {self.backend!r:.60}. Fix: give a name listed by fer-edge doctor, or auto"
            )
        require_whole("threads", self.threads, 1, MAX_THREADS, optional=True)


class Effort(enum.Enum):
    """Time that a search of a frame may take; a detector may ignore it.

    Attributes
    ----------
    USUAL
        The frame stands alone, or every frame is searched.
    THOROUGH
        The frames before and after are not searched: small and turned faces are worth more time.
    QUICK
        Frames were and will be searched thoroughly: only a known face is missed.
    """

    QUICK = "quick"
    USUAL = "usual"
    THOROUGH = "thorough"


class Detector(Protocol):
    """A face detector.

    It is thread-safe, like :class:`fer_edge.backends.base.Session`. A detector that is closed, or was made before a
    fork of the process, raises :class:`fer_edge.errors.DetectorError`.
    """

    name: str
    #: Largest number of faces that it returns; ``None``: no limit.
    max_faces: int | None

    def detect(self, frame_bgr: np.ndarray, effort: Effort = Effort.USUAL) -> list[Detection]:
        """Return the faces of ``[H, W, 3]`` uint8 BGR, largest first, boxes inside the frame."""

    def close(self) -> None:
        """Wait for running calls, then free the detector's resources."""

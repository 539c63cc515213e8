"""Frames of one camera as the detector and the network take them: 8 bits per value, BGR, and upright."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from fer_edge.cuda.arrays import is_device_array
from fer_edge.detection.rotation import Mounting, UprightFrame
from fer_edge.frames import Frame, check_frame
from fer_edge.levels import LevelConverter, LevelOptions
from fer_edge.results import Detection


class Camera:
    """Levels and mounting of one camera. Thread-safe.

    Parameters
    ----------
    levels : LevelOptions
        Map of gray and 16-bit values to 8 bits.
    rotate : int or str
        See :class:`fer_edge.detection.rotation.Mounting`.
    detect : callable
        Returns the faces of an upright frame.
    """

    def __init__(
        self,
        levels: LevelOptions,
        rotate: int | str,
        detect: Callable[[np.ndarray], Sequence[Detection]],
    ) -> None:
        self._levels = LevelConverter(levels)
        self._mounting = Mounting(rotate, detect)

    def upright(self, frame: Frame) -> UprightFrame:
        """Return a frame converted and upright; one in device memory is not converted.

        Raises
        ------
        DataError
            If the frame has another shape or dtype, or 16-bit values whose bits are not declared.
        UsageError
            If it is in device memory and must be turned.
        """
        if not is_device_array(frame.image):
            frame = replace(frame, image=check_frame(frame.image, self._levels))
        return self._mounting.turn(frame)

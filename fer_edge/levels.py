"""Levels: pixel values of 8 to 16 bits, such as those of near-infrared and thermal cameras, to 8 bits.

Values of uint16 mean nothing without the number of bits that the camera uses. It is declared, and the map is fixed:

    full         y = 255 · v / (2^bits − 1)                            the same for every frame (default)
    percentile   y = 255 · (v − low) / (high − low), clipped           low, high: 1st and 99th percentile of the frame

``percentile`` shows dark frames brightly, but an object that enters the frame changes the brightness of the rest. high − low is at
least 1/32 of the full range, so that noise is not shown as a picture.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np

from fer_edge._utils.checks import require_choice, require_number, require_whole
from fer_edge.errors import DataError

FULL, PERCENTILE = "full", "percentile"
STRETCHES = (FULL, PERCENTILE)
MIN_BITS, MAX_BITS = 8, 16
_PERCENTILES = (1, 99)
#: Least range of ``percentile``, as a share of the full range.
_MIN_RANGE = 1 / 32
#: Values that the percentiles are taken of, in rows and columns.
_SAMPLES_PER_SIDE = 160
_MAX_HALF_LIFE = 1e6


@dataclass(frozen=True)
class LevelOptions:
    """Options of the conversion to 8 bits.

    Attributes
    ----------
    bits : int or None
        Bits per value of uint16 frames, in the low bits: 10 for Y10, 12 for Y12, 16 for Y16 and for cameras that put
        their bits in the high ones. ``None``: uint16 frames are an error, and 16-bit image files use all 16 bits.
    stretch : {"full", "percentile"}
        Map of the values, for frames of 8 bits too, see :mod:`fer_edge.levels`.
    half_life_frames : float
        With ``percentile`` in a :class:`LevelConverter`: frames after which half of an old range is forgotten. 0 takes
        the range of each frame alone.
    """

    bits: int | None = None
    stretch: str = FULL
    half_life_frames: float = 0.0

    def __post_init__(self) -> None:
        require_whole("bits", self.bits, MIN_BITS, MAX_BITS, optional=True)
        require_choice("stretch", self.stretch, STRETCHES)
        require_number("half_life_frames", self.half_life_frames, 0, _MAX_HALF_LIFE)


class LevelConverter:
    """Conversion of the frames of one camera, in order.

    Thread-safe. Remembers the range of the frames if ``half_life_frames`` is above 0.
    """

    def __init__(self, options: LevelOptions | None = None) -> None:
        self.options = options or LevelOptions()
        self._lock = threading.Lock()
        self._range: np.ndarray | None = None  # low, high

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """Convert ``[H, W]`` or ``[H, W, C]`` uint8 or uint16 to uint8 of the same shape.

        Returns
        -------
        np.ndarray
            The frame itself if it is uint8 and the stretch is ``full``.

        Raises
        ------
        DataError
            If the frame is uint16 and its bits are not declared, or a value has more bits.
        """
        white = _white(frame, self.options.bits)
        if self.options.stretch == PERCENTILE:
            low, high = self._smoothed(_range_of(frame))
            span = max(high - low, white * _MIN_RANGE)
            return _mapped(frame, round(max((low + high - span) / 2, 0.0)), span)
        return frame if frame.dtype == np.uint8 else _mapped(frame, 0, white)

    def _smoothed(self, found: np.ndarray) -> np.ndarray:
        if self.options.half_life_frames == 0:
            return found
        with self._lock:
            if self._range is None:
                self._range = found
            else:
                kept = 0.5 ** (1 / self.options.half_life_frames)
                self._range = kept * self._range + (1 - kept) * found
            return self._range


def to_8_bits(frame: np.ndarray, options: LevelOptions | None = None) -> np.ndarray:
    """Convert one frame, by its own range with ``percentile``; otherwise as :class:`LevelConverter`."""
    return LevelConverter(options)(frame)


def _white(frame: np.ndarray, bits: int | None) -> int:
    """Return the value of white; raise an error if the values of uint16 are not declared or exceed it."""
    if frame.dtype == np.uint8:
        return 255
    if bits is None:
        raise DataError(
            f"expected the number of bits of uint16 values, found no declaration for {list(frame.shape)} with values up to "
            f"{frame.max()}. Fix: declare it, as with Runtime(levels=LevelOptions(bits=10)) for Y10"
        )
    white = (1 << bits) - 1
    if (largest := int(frame.max())) > white:
        raise DataError(
            f"expected values of {bits} bits, at most {white}, found {largest}. "
            f"Fix: declare bits={largest.bit_length()}, or {MAX_BITS} if the camera puts its bits in the high ones"
        )
    return white


def _range_of(frame: np.ndarray) -> np.ndarray:
    """Return the percentiles of about 25,000 values, evenly spaced over the frame."""
    rows, columns = (max(side // _SAMPLES_PER_SIDE, 1) for side in frame.shape[:2])
    return np.percentile(frame[::rows, ::columns], _PERCENTILES)


def _mapped(frame: np.ndarray, black: int, span: float) -> np.ndarray:
    """Map black to 0 and black + span to 255, rounded; values beyond them are clipped."""
    import cv2  # most callers give uint8

    shifted = cv2.subtract(frame, (float(black),) * 4) if black else frame
    return np.asarray(cv2.convertScaleAbs(shifted, alpha=255 / span))

"""What a frame is: uint8 BGR pixels ``[H, W, 3]``, on the host or on a device."""

from __future__ import annotations

from typing import Any

import numpy as np

from fer_edge.engines.device_arrays import DeviceArray
from fer_edge.errors import DataError

_MAX_SIDE_PX = 32766  # OpenCV's warps count pixels in 16 bits


def check_frame(frame_bgr: Any) -> np.ndarray:
    """Return ``[H, W, 3]`` uint8 BGR contiguous.

    Raises
    ------
    DataError
        If it is anything else, gray, floating point or without pixels for example, or too large.
    """
    if not isinstance(frame_bgr, np.ndarray):
        hint = (
            "cv2.imread gives None where it cannot read a file: check the path"
            if frame_bgr is None
            else "read a picture with cv2.imread(path), convert others with numpy.asarray"
        )
        raise DataError(
            f"expected a frame as NumPy array [H, W, 3] uint8 BGR, found {type(frame_bgr).__name__}: {hint}"
        )
    _check_format(frame_bgr.dtype, frame_bgr.shape)
    return np.ascontiguousarray(frame_bgr)


def check_device_frame(frame_bgr: DeviceArray) -> DeviceArray:
    """Return the frame, whose rows may be any number of bytes apart.

    Raises
    ------
    DataError
        As :func:`check_frame`; or if its pixels do not lie row by row, as those of planes seen as pixels.
    """
    _check_format(frame_bgr.dtype, frame_bgr.shape)
    height, width, channels = frame_bgr.shape
    rows, pixels, values = frame_bgr.strides or (width * channels, channels, 1)
    if values != 1 or (width > 1 and pixels != channels) or (height > 1 and rows < 0):
        raise DataError(
            f"expected a frame whose pixels lie row by row, found strides {list(frame_bgr.strides or ())}: "
            "copy it first, with .contiguous() (PyTorch) or ascontiguousarray (CuPy)"
        )
    return frame_bgr


def _check_format(dtype: np.dtype, shape: tuple[int, ...]) -> None:
    if dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or 0 in shape:
        raise DataError(
            f"expected a frame of uint8 BGR pixels [H, W, 3], found {dtype} {list(shape)}: "
            "convert it, gray with cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR)"
        )
    if max(shape) > _MAX_SIDE_PX:
        raise DataError(
            f"expected a frame of at most {_MAX_SIDE_PX} pixels a side, found {list(shape)}: shrink it"
        )

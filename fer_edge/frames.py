"""Frames: uint8 BGR pixels ``[H, W, 3]``, on the host or on a device, and what becomes one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fer_edge.cuda.arrays import DeviceArray
from fer_edge.errors import DataError

_MAX_SIDE_PX = 32766  # OpenCV's warps count pixels in 16 bits


def as_frame(value: Any) -> Any:
    """Return an array of pixels for what a caller may give as a frame.

    Parameters
    ----------
    value : np.ndarray, path, bytes or PIL image
        An array, also one on a device, is returned as it is; a path and the bytes of a picture file are decoded; a PIL
        image is turned as its EXIF orientation says and converted from its own mode, transparency left out.

    Raises
    ------
    DataError
        If a picture cannot be decoded.
    """
    if isinstance(value, str | os.PathLike | bytes | bytearray | memoryview):
        from fer_edge._utils.images import (  # with OpenCV, which most users of this need not
            decode_image,
            read_image,
        )

    if isinstance(value, str | os.PathLike):
        return read_image(Path(value))
    if isinstance(value, bytes | bytearray | memoryview):
        return decode_image(np.frombuffer(value, np.uint8), f"a picture of {len(value)} bytes")
    if type(value).__module__.partition(".")[0] == "PIL" and hasattr(value, "convert"):
        return _from_pil(value)
    return value


def _from_pil(picture: Any) -> np.ndarray:
    from PIL import ImageOps  # whoever has such a picture has the library

    try:
        turned = ImageOps.exif_transpose(picture)
        if turned.mode.startswith("I"):  # 16 bits a pixel, which PIL would clip at 255
            values = np.asarray(turned).astype(np.float64)
            gray = (values / 257 if turned.mode != "I" or values.max(initial=0) > 255 else values).round()
            return np.repeat(gray.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
        return np.ascontiguousarray(np.asarray(turned.convert("RGB"))[..., ::-1])
    except (OSError, ValueError, SyntaxError) as error:  # PIL decodes files when their pixels are asked for
        raise DataError(f"the PIL image cannot be decoded ({error}): give a picture that is whole") from error


def check_frame(frame_bgr: Any) -> np.ndarray:
    """Return ``[H, W, 3]`` uint8 BGR contiguous, of an array or of what :func:`as_frame` takes.

    Raises
    ------
    DataError
        If it is anything else, gray, floating point or without pixels for example, or too large; the message says how
        to convert it.
    """
    frame_bgr = as_frame(frame_bgr)
    if not isinstance(frame_bgr, np.ndarray):
        raise DataError(
            "expected a frame as NumPy array [H, W, 3] uint8 BGR, the path or bytes of a picture, or a PIL image, found "
            f"{type(frame_bgr).__name__}: {_other_kind(frame_bgr)}"
        )
    _check_format(frame_bgr.dtype, frame_bgr.shape)
    return np.ascontiguousarray(frame_bgr)


def _other_kind(value: Any) -> str:
    if value is None:
        return "cv2.imread gives None where it cannot read a file: check the path"
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], bool | np.bool_):
        return "cv2.VideoCapture.read gives (found, frame): give the second"
    if isinstance(value, list | tuple):
        return "give one frame at a time; numbers become an array by numpy.asarray(frame, numpy.uint8)"
    return "convert it with numpy.asarray"


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
            f"expected a frame of uint8 BGR pixels [H, W, 3], found {dtype} {list(shape)}: {_conversion(dtype, shape)}"
        )
    if max(shape) > _MAX_SIDE_PX:
        raise DataError(
            f"expected a frame of at most {_MAX_SIDE_PX} pixels a side, found {list(shape)}: shrink it"
        )


def _conversion(dtype: np.dtype, shape: tuple[int, ...]) -> str:
    """Say how to make a frame of an array of another form."""
    if 0 in shape or not shape:
        return "it has no pixels, check what gave it"
    if len(shape) == 4:
        return "give one frame of the batch at a time"
    if dtype.kind == "f":
        return "values from 0 to 1 become pixels by (255 * frame).round().astype(numpy.uint8)"
    if dtype == np.uint16:
        return "16 bits become 8 by (frame >> 8).astype(numpy.uint8)"
    if dtype == np.bool_:
        return "a mask is no picture"
    if dtype != np.uint8:
        return "convert it with frame.astype(numpy.uint8), if its values are from 0 to 255"
    if len(shape) == 2 or (len(shape) == 3 and shape[2] == 1):
        return "gray becomes BGR by cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR)"
    if len(shape) == 3 and shape[2] == 4:
        return "BGRA becomes BGR by cv2.cvtColor(frame, cv2.COLOR_BGRA2BGR)"
    if len(shape) == 3 and shape[2] == 2:
        return "YUV 4:2:2 becomes BGR by cv2.cvtColor(frame, cv2.COLOR_YUV2BGR_YUY2)"
    if len(shape) == 3 and shape[0] in (1, 3, 4):
        return "channels come last: frame.transpose(1, 2, 0)"
    return "convert it to [H, W, 3], BGR"


@dataclass(frozen=True)
class Frame:
    """One picture with its origin.

    ``image`` is ``[H, W, 3]`` uint8 BGR: NumPy, as all sources here give it, or an array on a device, which a
    runtime takes whose backend can. ``captured_at_s`` is ``time.monotonic()`` at capture; ``dropped`` counts frames
    skipped so far.
    """

    image: Any
    index: int
    captured_at_s: float
    dropped: int = 0
    name: str = ""

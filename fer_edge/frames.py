"""Frames: uint8 BGR pixels ``[H, W, 3]`` on the host or a device, and conversion of other types to them.

On the host, gray frames ``[H, W]`` or ``[H, W, 1]`` are frames too, and uint16 values whose number of bits is declared
(:mod:`fer_edge.levels`). Frames on a device are BGR.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fer_edge.cuda.arrays import DeviceArray
from fer_edge.errors import DataError
from fer_edge.levels import LevelConverter, LevelOptions

_MAX_SIDE_PX = 32766  # OpenCV's warps count pixels in 16 bits
_HOST_TYPES = (np.uint8, np.uint16)
_HOST_CHANNELS = ((), (1,), (3,))


def as_frame(value: Any, bits: int | None = None) -> Any:
    """Return the pixel array of a frame given as an array, path, encoded bytes or PIL image.

    Parameters
    ----------
    value : np.ndarray, path, bytes or PIL image
        An array on the host or a device is returned unchanged; a path and the bytes of an image file are decoded; a PIL
        image is rotated by its EXIF orientation and converted from its mode, without the alpha channel.
    bits : int or None
        Bits of the values of image files with 16 bits, whose array is then uint16. ``None``: all 16 bits are used, and
        the array is uint8.

    Raises
    ------
    DataError
        If a picture cannot be decoded.
    """
    if isinstance(value, str | os.PathLike | bytes | bytearray | memoryview):
        from fer_edge._utils.images import (  # imports OpenCV, which most callers do not need
            decode_image,
            read_image,
        )

    if isinstance(value, str | os.PathLike):
        return read_image(Path(value), any_depth=bits is not None)
    if isinstance(value, bytes | bytearray | memoryview):
        return decode_image(np.frombuffer(value, np.uint8), "the given data", any_depth=bits is not None)
    if type(value).__module__.partition(".")[0] == "PIL" and hasattr(value, "convert"):
        return _from_pil(value, bits)
    return value


def _from_pil(picture: Any, bits: int | None) -> np.ndarray:
    from PIL import ImageOps  # installed if a PIL image exists

    try:
        turned = ImageOps.exif_transpose(picture)
        if turned.mode.startswith("I"):  # 16 bits per pixel, which PIL would clip at 255
            if bits is not None and turned.mode != "I":
                return np.asarray(turned).astype(np.uint16)
            values = np.asarray(turned).astype(np.float64)
            gray = (values / 257 if turned.mode != "I" or values.max(initial=0) > 255 else values).round()
            return np.repeat(gray.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
        return np.ascontiguousarray(np.asarray(turned.convert("RGB"))[..., ::-1])
    except (OSError, ValueError, SyntaxError) as error:  # PIL decodes files lazily
        raise DataError(
            f"the PIL image cannot be decoded ({error}). Fix: give a complete image file"
        ) from error


def check_frame(frame_bgr: Any, levels: LevelConverter | LevelOptions | None = None) -> np.ndarray:
    """Return a frame as contiguous ``[H, W, 3]`` uint8 BGR.

    Parameters
    ----------
    frame_bgr : np.ndarray, path, bytes or PIL image
        ``[H, W, 3]`` BGR, or ``[H, W]`` or ``[H, W, 1]`` gray, uint8 or uint16; or a picture (:func:`as_frame`).
    levels : LevelConverter, LevelOptions or None
        Map of the values to 8 bits; a converter remembers earlier frames. ``None`` accepts uint8 alone.

    Raises
    ------
    DataError
        If it has another format (floating point, empty), is too large, or is uint16 and ``levels`` does not declare its
        bits; the message says how to convert it.
    """
    convert = levels if isinstance(levels, LevelConverter) else LevelConverter(levels)
    frame = as_frame(frame_bgr, convert.options.bits)
    if not isinstance(frame, np.ndarray):
        raise DataError(
            "expected a frame as a NumPy array [H, W, 3] uint8 BGR, the path or bytes of an image file, or a PIL image, found "
            f"{type(frame).__name__}. Fix: {_other_kind(frame)}"
        )
    _check_format(frame.dtype, frame.shape, _HOST_TYPES, _HOST_CHANNELS)
    pixels = convert(np.ascontiguousarray(frame))
    if pixels.shape[2:] == (3,):
        return pixels
    import cv2

    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR))


def _other_kind(value: Any) -> str:
    if value is None:
        return "check the path: cv2.imread returns None for a file that it cannot read"
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], bool | np.bool_):
        return "give the second value of cv2.VideoCapture.read, which returns (success, frame)"
    if isinstance(value, list | tuple):
        return (
            "give one frame at a time, and convert a list of numbers with numpy.asarray(frame, numpy.uint8)"
        )
    return "convert it with numpy.asarray"


def check_device_frame(frame_bgr: DeviceArray) -> DeviceArray:
    """Return a device frame of any row pitch, checked.

    Raises
    ------
    DataError
        As :func:`check_frame`; or if its pixels are not interleaved row by row, such as a transposed planar image.
    """
    _check_format(frame_bgr.dtype, frame_bgr.shape)
    height, width, channels = frame_bgr.shape
    rows, pixels, values = frame_bgr.strides or (width * channels, channels, 1)
    if values != 1 or (width > 1 and pixels != channels) or (height > 1 and rows < 0):
        raise DataError(
            f"expected a frame with interleaved pixels, row by row, found strides {list(frame_bgr.strides or ())}. "
            "Fix: copy it first, with .contiguous() (PyTorch) or ascontiguousarray (CuPy)"
        )
    return frame_bgr


def _check_format(
    dtype: np.dtype,
    shape: tuple[int, ...],
    types: tuple[type, ...] = (np.uint8,),
    channels: tuple[tuple[int, ...], ...] = ((3,),),
) -> None:
    if dtype not in types or len(shape) < 2 or shape[2:] not in channels or 0 in shape:
        raise DataError(
            f"expected a frame of uint8 BGR pixels [H, W, 3], found {dtype} {list(shape)}. Fix: {_conversion(dtype, shape)}"
        )
    if max(shape) > _MAX_SIDE_PX:
        raise DataError(
            f"expected a frame of at most {_MAX_SIDE_PX} pixels per side, found {list(shape)}. Fix: scale it down"
        )


def _conversion(dtype: np.dtype, shape: tuple[int, ...]) -> str:
    """Return how to convert an array of another format to a frame."""
    if 0 in shape or not shape:
        return "check the source of the frame, which has no pixels"
    if len(shape) == 4:
        return "give one frame of the batch at a time"
    if dtype.kind == "f":
        return "convert values from 0 to 1 with (255 * frame).round().astype(numpy.uint8)"
    if dtype == np.bool_:
        return "give the image instead of its mask"
    if dtype.kind == "u" and dtype.itemsize == 2 and dtype != np.uint16:
        return "swap its bytes with frame.astype(numpy.uint16)"
    if dtype not in (np.uint8, np.uint16):
        return "convert it with frame.astype(numpy.uint8), if its values are from 0 to 255"
    if shape[2:] in _HOST_CHANNELS and len(shape) > 1:  # of a device
        return "convert it to 8 bits and three equal channels on the device, or give it in host memory"
    if len(shape) == 3 and shape[2] == 4:
        return "convert BGRA to BGR with cv2.cvtColor(frame, cv2.COLOR_BGRA2BGR)"
    if len(shape) == 3 and shape[2] == 2:
        return "convert YUV 4:2:2 to BGR with cv2.cvtColor(frame, cv2.COLOR_YUV2BGR_YUY2)"
    if len(shape) == 3 and shape[0] in (1, 3, 4):
        return "move the channels last with frame.transpose(1, 2, 0)"
    return "convert it to [H, W, 3], BGR"


@dataclass(frozen=True)
class Frame:
    """One image with its origin.

    ``image`` is ``[H, W, 3]`` uint8 BGR: a NumPy array, as from all sources here, or a device array, for runtimes
    whose backend accepts one. ``captured_at_s`` is ``time.monotonic()`` at capture; ``dropped`` counts frames
    skipped so far. ``media_time_s`` is the position in a video file, ``None`` for other sources.
    """

    image: Any
    index: int
    captured_at_s: float
    dropped: int = 0
    name: str = ""
    media_time_s: float | None = None

    @property
    def time_s(self) -> float:
        """Time of the scene in the frame, for tracks and events: the position in a video, else the capture time."""
        return self.captured_at_s if self.media_time_s is None else self.media_time_s

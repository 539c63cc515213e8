"""Frames: uint8 BGR pixels ``[H, W, 3]`` on the host or a device, and conversion of other types to them."""

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
    """Return the pixel array of a frame given as an array, path, encoded bytes or PIL image.

    Parameters
    ----------
    value : np.ndarray, path, bytes or PIL image
        An array on the host or a device is returned unchanged; a path and the bytes of an image file are decoded; a PIL
        image is rotated by its EXIF orientation and converted from its mode, without the alpha channel.

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
        return read_image(Path(value))
    if isinstance(value, bytes | bytearray | memoryview):
        return decode_image(np.frombuffer(value, np.uint8), "the given data")
    if type(value).__module__.partition(".")[0] == "PIL" and hasattr(value, "convert"):
        return _from_pil(value)
    return value


def _from_pil(picture: Any) -> np.ndarray:
    from PIL import ImageOps  # installed if a PIL image exists

    try:
        turned = ImageOps.exif_transpose(picture)
        if turned.mode.startswith("I"):  # 16 bits per pixel, which PIL would clip at 255
            values = np.asarray(turned).astype(np.float64)
            gray = (values / 257 if turned.mode != "I" or values.max(initial=0) > 255 else values).round()
            return np.repeat(gray.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
        return np.ascontiguousarray(np.asarray(turned.convert("RGB"))[..., ::-1])
    except (OSError, ValueError, SyntaxError) as error:  # PIL decodes files lazily
        raise DataError(
            f"the PIL image cannot be decoded ({error}). Fix: give a complete image file"
        ) from error


def check_frame(frame_bgr: Any) -> np.ndarray:
    """Return a frame, given as any type that :func:`as_frame` takes, as contiguous ``[H, W, 3]`` uint8 BGR.

    Raises
    ------
    DataError
        If it has another format (gray, floating point, empty) or is too large; the message says how to convert it.
    """
    frame_bgr = as_frame(frame_bgr)
    if not isinstance(frame_bgr, np.ndarray):
        raise DataError(
            "expected a frame as a NumPy array [H, W, 3] uint8 BGR, the path or bytes of an image file, or a PIL image, found "
            f"{type(frame_bgr).__name__}. Fix: {_other_kind(frame_bgr)}"
        )
    _check_format(frame_bgr.dtype, frame_bgr.shape)
    return np.ascontiguousarray(frame_bgr)


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


def _check_format(dtype: np.dtype, shape: tuple[int, ...]) -> None:
    if dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or 0 in shape:
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
    if dtype == np.uint16:
        return "convert 16 bits to 8 with (frame >> 8).astype(numpy.uint8)"
    if dtype == np.bool_:
        return "give the image instead of its mask"
    if dtype != np.uint8:
        return "convert it with frame.astype(numpy.uint8), if its values are from 0 to 255"
    if len(shape) == 2 or (len(shape) == 3 and shape[2] == 1):
        return "convert gray to BGR with cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR)"
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

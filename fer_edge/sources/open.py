"""Where frames come from: one image, a folder, a video file, a camera or a network stream.

Files give every frame. Cameras and streams give the newest frame only: a thread keeps one slot, what it
overwrites is counted, and no queue can grow.
"""

from __future__ import annotations

import os
from numbers import Integral
from pathlib import Path
from typing import Any

import cv2

from fer_edge._utils.images import ANIMATED_SUFFIXES, IMAGE_SUFFIXES, list_images
from fer_edge.errors import SourceError, UsageError
from fer_edge.sources.base import Source
from fer_edge.sources.files import ImageSource, VideoSource
from fer_edge.sources.live import LiveSource


def as_source(source: Any) -> Source:
    """Return a source for what a caller may give as one.

    Raises
    ------
    UsageError
        If it is anything but a :class:`Source`, an address, a path or the number of a camera.
    SourceError
        See :func:`open_source`.
    """
    if isinstance(source, Integral) and source is not True and source is not False:
        return open_source(int(source))
    if isinstance(source, str | os.PathLike):
        return open_source(os.fspath(source))
    if hasattr(source, "__iter__") and hasattr(source, "close") and hasattr(source, "is_live"):
        found: Source = source
        return found
    hint = (
        "give its camera number or address, or call runtime(frame) for each frame that you read"
        if isinstance(source, cv2.VideoCapture)
        else "for single frames call runtime(frame)"
    )
    raise UsageError(
        "expected a camera number, path, address or Source (with is_live, close and frames to iterate over), found "
        f"{type(source).__name__}: {hint}"
    )


def is_live(source: str | int | Path) -> bool:
    """Tell cameras and streams, of which only the newest frame counts, from files."""
    text = str(source)
    return text.isdecimal() or "://" in text


def open_source(source: str | int | Path) -> Source:
    """Open an image, a folder of images, a video file, a camera (``0``) or a stream (``rtsp://…``).

    Raises
    ------
    SourceError
        If it does not exist, is empty, or cannot be decoded.
    """
    text = str(source)
    if is_live(text):
        return LiveSource(int(text) if text.isdecimal() else text)
    if not text:
        raise SourceError(
            "the source is empty: give an image, a folder, a video, a camera number or an address"
        )
    path = Path(text)
    if path.is_dir():
        images = list_images(path)
        if not images:
            raise SourceError(
                f"{path} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}): give another folder"
            )
        return ImageSource(images)
    if not path.is_file():
        raise SourceError(
            f"{path} does not exist: give an image, a folder, a video, a camera number or an rtsp:// address"
        )
    if path.suffix.lower() in IMAGE_SUFFIXES - ANIMATED_SUFFIXES:
        return ImageSource((path,))
    return VideoSource(path)

"""Open a source of frames: an image, a folder, a video file, a camera or a network stream.

Files yield every frame. Cameras and streams yield the newest frame only: a thread overwrites a single slot and
counts the dropped frames, so that no queue can grow.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
    """Return ``source`` if it is a :class:`Source`, else open it.

    Raises
    ------
    UsageError
        If it is not a :class:`Source`, an address, a path or a camera number.
    SourceError
        As in :func:`open_source`.
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
        else "call runtime(frame) for single frames"
    )
    raise UsageError(
        "expected a camera number, path, address or Source (with is_live, close and frames to iterate over), found "
        f"{type(source).__name__}. Fix: {hint}"
    )


@dataclass(frozen=True)
class SourceKind:
    """A kind of source, with the test for its addresses and the function that opens it; ``is_video`` if frames follow each other in time."""

    matches: Callable[[str], bool]
    open: Callable[[str], Source]
    is_live: bool = False
    is_video: bool = False


def _is_picture(text: str) -> bool:
    path = Path(text)
    return path.suffix.lower() in IMAGE_SUFFIXES - ANIMATED_SUFFIXES and path.is_file()


def _open_folder(text: str) -> Source:
    path = Path(text)
    images = list_images(path)
    if not images:
        raise SourceError(
            f"{path} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}). Fix: give another folder"
        )
    return ImageSource(images)


#: In order of precedence.
SOURCES: Mapping[str, SourceKind] = {
    "camera": SourceKind(str.isdecimal, lambda text: LiveSource(int(text)), is_live=True, is_video=True),
    "stream": SourceKind(lambda text: "://" in text, LiveSource, is_live=True, is_video=True),
    "folder": SourceKind(lambda text: text != "" and Path(text).is_dir(), _open_folder),
    "picture": SourceKind(_is_picture, lambda text: ImageSource((Path(text),))),
    "video": SourceKind(
        lambda text: Path(text).is_file(), lambda text: VideoSource(Path(text)), is_video=True
    ),
}


def is_live(source: str | int | Path) -> bool:
    """Return ``True`` for cameras and streams, which yield only the newest frame, and ``False`` for files."""
    kind = _kind_of(str(source))
    return kind is not None and kind.is_live


def is_video(source: str | int | Path) -> bool:
    """Return ``True`` for cameras, streams and video files, and ``False`` for pictures."""
    kind = _kind_of(str(source))
    return kind is not None and kind.is_video


def open_source(source: str | int | Path) -> Source:
    """Open an image, a folder of images, a video file, a camera (``0``) or a stream (``rtsp://…``).

    Raises
    ------
    SourceError
        If the source does not exist, is empty, or cannot be decoded.
    """
    text = str(source)
    kind = _kind_of(text)
    if kind is not None:
        return kind.open(text)
    if not text:
        raise SourceError(
            "the source is an empty string. Fix: give an image, a folder, a video, a camera number or an address"
        )
    raise SourceError(
        f"{Path(text)} does not exist. Fix: give an image, a folder, a video, a camera number or an rtsp:// address"
    )


def _kind_of(text: str) -> SourceKind | None:
    return next((kind for kind in SOURCES.values() if kind.matches(text)), None)

"""Sinks for annotated pictures, chosen by suffix and source."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fer_edge.errors import UsageError
from fer_edge.sinks.base import Sink
from fer_edge.sinks.files import ImageFileSink, ImageFolderSink, JsonLinesSink, VideoFileSink
from fer_edge.sources.base import Source

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mkv", ".mov"})
#: Image suffixes that every OpenCV build writes; it reads more.
WRITTEN_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
#: Suffixes of single-file outputs; any other output is a folder.
PICTURE_SUFFIXES = VIDEO_SUFFIXES | WRITTEN_SUFFIXES

__all__ = [
    "PICTURE_SUFFIXES",
    "VIDEO_SUFFIXES",
    "WRITTEN_SUFFIXES",
    "JsonLinesSink",
    "Sink",
    "picture_sink",
]


@dataclass(frozen=True)
class PictureSink:
    """An output format for annotated pictures: its suffixes, the sources that it fits, and its constructor."""

    suffixes: frozenset[str]
    takes: Callable[[Source], bool]
    open: Callable[[Path, Source], Sink]


#: In order of precedence.
PICTURE_SINKS: Mapping[str, PictureSink] = {
    "video": PictureSink(
        VIDEO_SUFFIXES, lambda source: True, lambda path, source: VideoFileSink(path, source.fps)
    ),
    "picture": PictureSink(
        WRITTEN_SUFFIXES, lambda source: source.frame_count == 1, lambda path, source: ImageFileSink(path)
    ),
    "folder": PictureSink(
        frozenset({""}),
        lambda source: True,
        lambda path, source: ImageFolderSink(path, numbered=not source.names_frames),
    ),
}


def picture_sink(path: Path, source: Source) -> Sink:
    """Return the sink for annotated pictures: an image, a video, or a folder (without a suffix).

    Raises
    ------
    UsageError
        If the suffix does not fit the source, or the source would be overwritten.
    """
    if path.resolve() in source.reads:
        raise UsageError(f"--output {path} would overwrite the source. Fix: choose another name")
    for kind in PICTURE_SINKS.values():
        if path.suffix.lower() in kind.suffixes and kind.takes(source):
            return kind.open(path, source)
    raise UsageError(
        f"--output {path} does not fit this source. Fix: give an image name for one image, "
        "a video name (.mp4) for video, or a folder"
    )

"""Sinks, and the choice of one by the kind of source."""

from __future__ import annotations

from pathlib import Path

from fer_edge.errors import UsageError
from fer_edge.sinks.annotate import annotate
from fer_edge.sinks.base import Sink
from fer_edge.sinks.files import ImageFileSink, ImageFolderSink, JsonLinesSink, VideoFileSink
from fer_edge.sources.base import Source
from fer_edge.sources.files import ImageSource, VideoSource

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mkv", ".mov"})
#: Of the images that every OpenCV writes; it reads more.
WRITTEN_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
#: Of what one file holds; any other output is a folder.
PICTURE_SUFFIXES = VIDEO_SUFFIXES | WRITTEN_SUFFIXES

__all__ = [
    "PICTURE_SUFFIXES",
    "VIDEO_SUFFIXES",
    "WRITTEN_SUFFIXES",
    "JsonLinesSink",
    "Sink",
    "annotate",
    "picture_sink",
]


def picture_sink(path: Path, source: Source) -> Sink:
    """Return the sink for annotated pictures: an image, a video, or a folder (no suffix).

    Raises
    ------
    UsageError
        If the suffix does not fit the source, or the source would be overwritten.
    """
    if path.resolve() in _read_from(source):
        raise UsageError(f"--output {path} would overwrite the source: choose another name")
    suffix = path.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        return VideoFileSink(path, source.fps)
    if suffix in WRITTEN_SUFFIXES and source.frame_count == 1:
        return ImageFileSink(path)
    if not suffix:
        return ImageFolderSink(path, numbered=not isinstance(source, ImageSource))
    raise UsageError(
        f"--output {path} does not fit this source: give an image name for one image, "
        "a video name (.mp4) for video, or a folder"
    )


def _read_from(source: Source) -> set[Path]:
    """Return the files, and the folders of images, that a source reads."""
    if isinstance(source, ImageSource):
        files = {path.resolve() for path in source.paths}
        return files | {path.parent for path in files}
    return {source.path.resolve()} if isinstance(source, VideoSource) else set()

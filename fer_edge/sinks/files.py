"""Sinks that write files: annotated images, annotated video, JSON Lines."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import cv2
import numpy as np

from fer_edge._utils.files import opencv_path, whole_file
from fer_edge.drawing.annotate import annotate
from fer_edge.errors import DataError
from fer_edge.results import FrameResult

#: Keys of the header line; lines of frames have the key ``index`` instead.
_SCHEMA = {"schema": "fer-edge/frames", "schema_version": 1}
_DEFAULT_FPS = 25.0
_MIN_FPS = 1.0  # the encoders refuse or abort below


class ImageFileSink:
    """Writes one annotated image."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, frame_bgr: np.ndarray, result: FrameResult) -> None:
        write_image(self.path, annotate(frame_bgr, result))

    def close(self) -> None:
        """Nothing is open."""

    def discard(self) -> None:
        """Nothing is half-written."""


class ImageFolderSink:
    """Writes one annotated image per frame, named after its source.

    The frame number is appended to repeated names, and to all names with ``numbered``, for the frames of a video.
    """

    def __init__(self, folder: Path, numbered: bool = False) -> None:
        self.folder = folder
        self.numbered = numbered
        self._written: set[str] = set()
        if folder.exists() and not folder.is_dir():
            raise DataError(
                f"expected a folder or a new name, found the file {folder}. Fix: choose another name"
            )

    def write(self, frame_bgr: np.ndarray, result: FrameResult) -> None:
        stem = Path(result.source).stem or "frame"
        if self.numbered or stem in self._written or not result.source:
            stem = f"{stem}_{result.index:06d}"
        else:
            self._written.add(stem)
        write_image(self.folder / f"{stem}.png", annotate(frame_bgr, result))

    def close(self) -> None:
        """Nothing is open."""

    def discard(self) -> None:
        """Each image is whole by itself."""


class VideoFileSink:
    """Writes an annotated video, which appears under its name when it is complete."""

    def __init__(self, path: Path, fps: float | None) -> None:
        self.path = path
        self.fps = max(fps or _DEFAULT_FPS, _MIN_FPS)
        self._stack = contextlib.ExitStack()
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)

    def write(self, frame_bgr: np.ndarray, result: FrameResult) -> None:
        if self._writer is None:
            self._size = (frame_bgr.shape[1], frame_bgr.shape[0])
            part = self._stack.enter_context(whole_file(self.path))
            codec = cv2.VideoWriter.fourcc(*("MJPG" if self.path.suffix.lower() == ".avi" else "mp4v"))
            self._writer = cv2.VideoWriter(opencv_path(part), codec, self.fps, self._size)
            if not self._writer.isOpened():
                self.discard()
                raise DataError(f"{self.path} cannot be written as video. Fix: use the suffix .mp4 or .avi")
        image = annotate(frame_bgr, result)
        if (image.shape[1], image.shape[0]) != self._size:
            image = cv2.resize(image, self._size)
        self._writer.write(image)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.release()
        self._stack.close()

    def discard(self) -> None:
        if self._writer is not None:
            self._writer.release()
            abandoned = RuntimeError("discarded")
            self._stack.__exit__(RuntimeError, abandoned, None)


class JsonLinesSink:
    """Writes one JSON object per frame, to a file or to standard output (``-``), without partial lines.

    Parameters
    ----------
    path : str
        The file, or ``-``.
    info : mapping, optional
        :attr:`fer_edge.Runtime.info`, written as a header line ``{"schema", "schema_version", "info"}``, so that the
        results record their origin.
    """

    def __init__(self, path: str, info: Mapping[str, Any] | None = None) -> None:
        self.path = path
        self._header = None if info is None else {**_SCHEMA, "info": dict(info)}
        self._file: TextIO | None = sys.stdout if path == "-" else None

    def write(self, frame_bgr: np.ndarray, result: FrameResult) -> None:
        if self._file is None:
            try:
                Path(self.path).parent.mkdir(parents=True, exist_ok=True)
                self._file = Path(self.path).open("w", encoding="utf-8")  # noqa: SIM115  # closed in close()
            except OSError as error:
                raise DataError(
                    f"{self.path} cannot be written ({error.strerror}). Fix: choose another file"
                ) from error
        if self._header is not None:
            self._file.write(json.dumps(self._header, allow_nan=False) + "\n")
            self._header = None
        self._file.write(json.dumps(result.to_dict(), allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        if self._file is not None and self._file is not sys.stdout:
            self._file.close()

    def discard(self) -> None:
        """Keep the complete lines."""
        self.close()


def write_image(path: Path, image_bgr: np.ndarray) -> None:
    """Write an image atomically, in the format of the suffix."""
    suffix = path.suffix.lower() or ".png"
    try:
        ok, data = cv2.imencode(suffix, image_bgr)
    except cv2.error:
        ok = False
    if not ok:
        raise DataError(f"{path} cannot be written as an image. Fix: use the suffix .png or .jpg")
    with whole_file(path) as part:
        part.write_bytes(data.tobytes())

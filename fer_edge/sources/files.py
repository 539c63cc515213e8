"""Sources of frames from pictures and video files."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path

import cv2

from fer_edge._utils.guard import ProcessBound
from fer_edge._utils.images import read_image
from fer_edge.errors import DataError, SourceError, UnreadableFilesError, without_fix
from fer_edge.frames import Frame
from fer_edge.sources.base import Source
from fer_edge.sources.capture import open_capture


class ImageSource(Source):
    """One or more image files, in order; with several, unreadable files are reported after the last frame."""

    names_frames = True
    is_sequence = False

    def __init__(self, paths: tuple[Path, ...]) -> None:
        self.paths = paths
        self.bits: int | None = None  # of files with 16 bits per value; None: all of them
        self.frame_count = len(paths)

    @property
    def reads(self) -> frozenset[Path]:
        files = {path.resolve() for path in self.paths}
        return frozenset(files | {path.parent for path in files})

    def __iter__(self) -> Iterator[Frame]:
        problems = []
        for index, path in enumerate(self.paths):
            try:
                image = read_image(path, any_depth=self.bits is not None)
            except DataError as error:
                if len(self.paths) == 1:
                    raise
                problems.append(str(error))
                continue
            yield Frame(image, index, time.monotonic(), name=path.name)
        if problems:
            raise UnreadableFilesError(
                f"{len(problems)} of {len(self.paths)} pictures cannot be read, all others were: {without_fix(problems[0])}"
                f"{', …' if len(problems) > 1 else ''}. Fix: remove them, or catch this error (--skip-bad)",
                tuple(problems),
            )

    def close(self) -> None:
        """Nothing is held."""


class VideoSource(ProcessBound, Source):
    """Every frame of a video file."""

    def __init__(self, path: Path) -> None:
        super().__init__("video", SourceError)
        self.path = path
        self._capture = open_capture(
            str(path), f"{path} is not a video that OpenCV can read. Fix: convert it to MP4 (H.264)"
        )
        frames = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.frame_count = frames if frames > 0 else None
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = rate if 0 < rate < 1000 else None
        self._index = 0
        self._last_stamp_s = 0.0

    @property
    def reads(self) -> frozenset[Path]:
        return frozenset({self.path.resolve()})

    def __iter__(self) -> Iterator[Frame]:
        while True:
            self.require_process()
            ok, image = self._capture.read()
            if not ok:
                break
            frame = Frame(
                image,
                self._index,
                time.monotonic(),
                name=self.path.name,
                media_time_s=self._media_time_s(),
            )
            self._index += 1
            yield frame
        if self._index == 0:
            raise SourceError(
                f"{self.path} holds no frame that OpenCV can decode. Fix: convert it to MP4 (H.264)"
            )

    def _media_time_s(self) -> float:
        """Return the time stamp of the frame read last; one that does not increase is replaced by the nominal interval."""
        stamp_s = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        if (self._index == 0 and math.isfinite(stamp_s)) or (
            math.isfinite(stamp_s) and stamp_s > self._last_stamp_s
        ):
            self._last_stamp_s = stamp_s
        else:
            self._last_stamp_s += 0.0 if self.fps is None else 1 / self.fps
        return self._last_stamp_s

    def close(self) -> None:
        """Close the file, except in a forked process."""
        if not self.is_inherited:
            self._capture.release()

"""Where frames come from: one image, a folder, a video file, a camera or a network stream.

Files give every frame. Cameras and streams give the newest frame only: a thread keeps one slot, what it
overwrites is counted, and no queue can grow.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, Protocol

import cv2

from fer_edge._utils.files import opencv_path
from fer_edge._utils.guard import ProcessBound
from fer_edge._utils.images import ANIMATED_SUFFIXES
from fer_edge.datasets import IMAGE_SUFFIXES, list_images, read_image
from fer_edge.errors import DataError, SourceError, UnreadableFilesError, UsageError

# FFmpeg, inside OpenCV, prints its own lines about files that it cannot read; our error says it once.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

_FIRST_FRAME_TIMEOUT_S = 15.0
_STALL_TIMEOUT_S = 5.0


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


class Source(Protocol):
    """Gives frames one after the other."""

    is_live: bool
    frame_count: int | None
    fps: float | None

    def __iter__(self) -> Iterator[Frame]:
        """Yield frames until the source ends."""

    def close(self) -> None:
        """Release the device or file."""


class ImageSource:
    """One or more image files, in order. Of several, those that cannot be read are named after the last one."""

    is_live = False
    fps: float | None = None

    def __init__(self, paths: tuple[Path, ...]) -> None:
        self.paths = paths
        self.frame_count: int | None = len(paths)

    def __iter__(self) -> Iterator[Frame]:
        problems = []
        for index, path in enumerate(self.paths):
            try:
                image = read_image(path)
            except DataError as error:
                if len(self.paths) == 1:
                    raise
                problems.append(str(error))
                continue
            yield Frame(image, index, time.monotonic(), name=path.name)
        if problems:
            raise UnreadableFilesError(
                f"{len(problems)} of {len(self.paths)} pictures cannot be read, all others were: {problems[0]}"
                f"{', …' if len(problems) > 1 else ''}; remove them, or catch this error (--skip-bad)",
                tuple(problems),
            )

    def close(self) -> None:
        """Nothing is held."""


class VideoSource(ProcessBound):
    """Every frame of a video file."""

    is_live = False

    def __init__(self, path: Path) -> None:
        super().__init__("video", SourceError)
        self.path = path
        self._capture = _open_capture(
            str(path), f"{path} is not a video that OpenCV can read: convert it to MP4 (H.264)"
        )
        frames = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.frame_count = frames if frames > 0 else None
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps: float | None = rate if 0 < rate < 1000 else None
        self._index = 0

    def __iter__(self) -> Iterator[Frame]:
        while True:
            self.require_process()
            ok, image = self._capture.read()
            if not ok:
                break
            frame = Frame(image, self._index, time.monotonic(), name=self.path.name)
            self._index += 1
            yield frame
        if self._index == 0:
            raise SourceError(f"{self.path} holds no frame that OpenCV can decode: convert it to MP4 (H.264)")

    def close(self) -> None:
        """Close the file; in a forked process nothing is done."""
        if not self.is_inherited:
            self._capture.release()


class LiveSource(ProcessBound):
    """The newest frame of a camera (index) or a network stream (URL)."""

    is_live = True
    frame_count: int | None = None

    def __init__(self, address: int | str) -> None:
        super().__init__("live source", SourceError)
        self.address = address
        # User name and password of an address are for nobody's log.
        what = f"camera {address}" if isinstance(address, int) else re.sub(r"(?<=://)[^/]*@", "", address)
        self._what = what
        self._capture = _open_capture(
            address, f"{what} cannot be opened: check that it is connected and not in use"
        )
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps: float | None = rate if 0 < rate < 1000 else None
        self._fresh = threading.Condition()
        self._slot: Frame | None = None
        self._dropped = 0
        self._index = 0
        self._ended = False
        self._closed = False
        self._thread = threading.Thread(target=self._grab, name="fer-edge-grabber", daemon=True)
        self._thread.start()

    def _grab(self) -> None:
        while not self._ended:
            try:
                ok, image = self._capture.read()
            except cv2.error:
                ok = False
            with self._fresh:
                if not ok:
                    self._ended = True
                else:
                    if self._slot is not None:
                        self._dropped += 1
                    self._slot = Frame(image, self._index, time.monotonic(), self._dropped, self._what)
                    self._index += 1
                self._fresh.notify()

    def __iter__(self) -> Iterator[Frame]:
        timeout_s = _FIRST_FRAME_TIMEOUT_S
        while True:
            self.require_process()  # the thread that grabs frames is in the other one
            with self._fresh:
                if not self._fresh.wait_for(lambda: self._slot is not None or self._ended, timeout_s):
                    raise SourceError(
                        f"{self._what} gave no frame for {timeout_s:.0f} s: check the connection"
                    )
                frame, self._slot = self._slot, None
            if frame is None:
                if self._index == 0 and not self._closed:
                    raise SourceError(f"{self._what} gave no frame: check the connection")
                return
            timeout_s = _STALL_TIMEOUT_S
            yield frame

    def close(self) -> None:
        """Stop the thread and release the device; in a forked process nothing is done."""
        if self.is_inherited:
            return
        self._ended = self._closed = True
        self._thread.join(timeout=_STALL_TIMEOUT_S)
        if not self._thread.is_alive():
            self._capture.release()


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


def _open_capture(address: int | str, problem: str) -> cv2.VideoCapture:
    # OpenCV prints its own warnings for every backend it tries; our error says it once.
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        capture = cv2.VideoCapture(address if isinstance(address, int) else opencv_path(address))
    except cv2.error as error:  # a camera number beyond 32 bits
        raise SourceError(problem) from error
    finally:
        cv2.utils.logging.setLogLevel(level)
    if not capture.isOpened():
        capture.release()
        raise SourceError(problem)
    return capture

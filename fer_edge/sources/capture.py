"""OpenCV captures of files, cameras and streams."""

from __future__ import annotations

import os

import cv2

from fer_edge._utils.files import opencv_path
from fer_edge.errors import SourceError

# Silences FFmpeg in OpenCV, which prints lines about unreadable files; our error reports the problem once.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


def open_capture(address: int | str, problem: str) -> cv2.VideoCapture:
    """Open a capture of a camera number, a file or an address.

    Raises
    ------
    SourceError
        With the text ``problem`` if it cannot be opened.
    """
    # OpenCV prints warnings for every backend that it tries; our error reports the problem once.
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

"""Cameras and streams: a source of the newest frame, with a count of dropped frames."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import cv2

from fer_edge._utils.guard import ProcessBound
from fer_edge.errors import SourceError
from fer_edge.frames import Frame
from fer_edge.sources.base import Source
from fer_edge.sources.capture import open_capture

_FIRST_FRAME_TIMEOUT_S = 15.0
_STALL_TIMEOUT_S = 5.0


def without_secrets(address: str) -> str:
    """Return an address without user name, password, query and fragment, for messages and results.

    Everything up to the last ``@`` is removed, since a password may hold any character.
    """
    scheme, found, rest = address.partition("://")
    rest = rest.rpartition("@")[2]
    return scheme + found + rest.partition("?")[0].partition("#")[0]


class LiveSource(ProcessBound, Source):
    """The newest frame of a camera (index) or a network stream (URL)."""

    is_live = True

    def __init__(self, address: int | str) -> None:
        super().__init__("live source", SourceError)
        self.address = address
        what = f"camera {address}" if isinstance(address, int) else without_secrets(address)
        self._what = what
        self._capture = open_capture(
            address,
            f"{what} cannot be opened. Fix: check that it is connected and not in use"
            + ("" if isinstance(address, int) else ", and check address, user name and password"),
        )
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = rate if 0 < rate < 1000 else None
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
            self.require_process()  # a fork does not copy the grabber thread
            with self._fresh:
                if not self._fresh.wait_for(lambda: self._slot is not None or self._ended, timeout_s):
                    raise SourceError(
                        f"{self._what} gave no frame for {timeout_s:.0f} s. Fix: check the connection"
                    )
                frame, self._slot = self._slot, None
            if frame is None:
                if self._index == 0 and not self._closed:
                    raise SourceError(f"{self._what} gave no frame. Fix: check the connection")
                return
            timeout_s = _STALL_TIMEOUT_S
            yield frame

    def close(self) -> None:
        """Stop the thread and release the device, except in a forked process."""
        if self.is_inherited:
            return
        self._ended = self._closed = True
        self._thread.join(timeout=_STALL_TIMEOUT_S)
        if not self._thread.is_alive():
            self._capture.release()

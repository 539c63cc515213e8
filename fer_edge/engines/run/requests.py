"""Requests to the thread that owns a device."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import numpy as np

from fer_edge.cuda.arrays import DeviceArray
from fer_edge.engines.run.slot import Part, Source, Target
from fer_edge.errors import FerEdgeError


class Request:
    """A request that a caller waits for."""

    __slots__ = ("_done", "error")

    def __init__(self) -> None:
        self.error: FerEdgeError | None = None
        self._done = threading.Lock()
        self._done.acquire()

    def finish(self) -> None:
        """Release the caller."""
        self._done.release()

    def wait(self, limit_s: float) -> bool:
        """Return whether it finished within the limit."""
        return self._done.acquire(timeout=limit_s)


class Batch(Request):
    """Samples to run."""

    __slots__ = ("rows", "source", "started", "targets", "under_way")

    def __init__(self, source: Source, rows: int, targets: Mapping[str, Target]) -> None:
        super().__init__()
        self.source, self.rows, self.targets = source, rows, targets
        self.started = 0  # enqueued samples
        self.under_way = 0  # parts on the device

    def part(self, most: int) -> Part:
        """Return the next samples."""
        return Part(self.source, self.targets, self.started, min(self.rows - self.started, most))


class Download(Request):
    """An array to copy to the host."""

    __slots__ = ("array", "result")

    def __init__(self, array: DeviceArray) -> None:
        super().__init__()
        self.array, self.result = array, np.empty(0)

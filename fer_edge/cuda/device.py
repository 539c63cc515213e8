"""The protocol of a GPU: memory, streams, events and graphs.

Addresses and handles are integers. Work that is given to a stream returns at once and is done in order;
what it reads and writes must stay untouched until an event after it is reached. All calls of one device are
made by the thread that opened it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np


class Device(Protocol):
    """One GPU.

    Every method raises :class:`fer_edge.errors.BackendError` where the device reports an error, also one of
    earlier work.
    """

    def allocate(self, size_bytes: int) -> int:
        """Return the address of new device memory, aligned to 256 bytes."""

    def free(self, address: int) -> None:
        """Free device memory that nothing uses any more."""

    def allocate_pinned(self, size_bytes: int) -> np.ndarray:
        """Return new host memory as ``[size_bytes]`` uint8 that the device copies from and to by itself."""

    def free_pinned(self, memory: np.ndarray) -> None:
        """Free it."""

    def create_stream(self) -> int:
        """Return a stream that waits for no other, not even the default stream."""

    def destroy_stream(self, stream: int) -> None:
        """Free it."""

    def create_event(self) -> int:
        """Return an event that takes the time."""

    def destroy_event(self, event: int) -> None:
        """Free it."""

    def copy(self, target: int, source: int, size_bytes: int, stream: int) -> None:
        """Copy between pinned or device memory, in any direction."""

    def record(self, event: int, stream: int) -> None:
        """Let the event be reached once the stream has done all that it was given so far."""

    def wait(self, stream: int, event: int) -> None:
        """Let the stream wait until the event, as it was recorded last, is reached."""

    def is_done(self, event: int) -> bool:
        """Return whether the event, as it was recorded last, is reached."""

    def elapsed_ms(self, begin: int, end: int) -> float:
        """Return the time between two events that are reached."""

    def capture(self, stream: int, enqueue: Callable[[], None]) -> int:
        """Return a graph of what ``enqueue`` gives to the stream; nothing of it runs now."""

    def launch(self, graph: int, stream: int) -> None:
        """Give the work of a graph to a stream."""

    def destroy_graph(self, graph: int) -> None:
        """Free it."""

    def close(self) -> None:
        """Leave the device; all that was created on it must be freed."""

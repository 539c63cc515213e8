"""Protocol of a GPU: memory, streams, events and graphs.

Addresses and handles are integers. Work enqueued on a stream is asynchronous and runs in order; its inputs and
outputs must stay untouched until a later event completes. All calls of one device must come from the thread that
opened it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np


class Device(Protocol):
    """One GPU.

    Every method raises :class:`fer_edge.errors.BackendError` if the device reports an error, including errors of
    earlier asynchronous work.
    """

    def allocate(self, size_bytes: int) -> int:
        """Return the address of new device memory, aligned to 256 bytes."""

    def free(self, address: int) -> None:
        """Free device memory that is no longer used."""

    def allocate_pinned(self, size_bytes: int) -> np.ndarray:
        """Return new pinned host memory as ``[size_bytes]`` uint8."""

    def free_pinned(self, memory: np.ndarray) -> None:
        """Free pinned memory."""

    def create_stream(self) -> int:
        """Return a new stream that does not synchronise with the default stream."""

    def destroy_stream(self, stream: int) -> None:
        """Free a stream."""

    def create_event(self) -> int:
        """Return a new event with timing."""

    def destroy_event(self, event: int) -> None:
        """Free an event."""

    def copy(self, target: int, source: int, size_bytes: int, stream: int) -> None:
        """Enqueue a copy between pinned or device memory, in any direction."""

    def record(self, event: int, stream: int) -> None:
        """Record an event on a stream, after the work enqueued so far."""

    def wait(self, stream: int, event: int) -> None:
        """Make a stream wait for the last recording of an event."""

    def is_done(self, event: int) -> bool:
        """Return whether the last recording of an event has completed."""

    def elapsed_ms(self, begin: int, end: int) -> float:
        """Return the time between two completed events."""

    def capture(self, stream: int, enqueue: Callable[[], None]) -> int:
        """Return a graph of the work that ``enqueue`` adds to the stream, without running it."""

    def launch(self, graph: int, stream: int) -> None:
        """Launch a graph on a stream."""

    def destroy_graph(self, graph: int) -> None:
        """Free a graph."""

    def close(self) -> None:
        """Close the device, whose resources must all be freed."""

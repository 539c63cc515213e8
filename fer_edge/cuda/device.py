"""The seam between the runner and a GPU: memory, streams, events, graphs, and an engine on them.

Addresses and handles are integers. Work that is given to a stream returns at once and is done in order;
what it reads and writes must stay untouched until an event after it is reached. All calls of one device are
made by the thread that opened it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from fer_edge.engines.cache.engine_file import EngineFile


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of an engine.

    Attributes
    ----------
    name : str
        As in the ONNX file.
    dtype : numpy.dtype
        Of its elements on the device.
    row_shape : tuple of int
        Its shape without the first axis, which is the batch.
    """

    name: str
    dtype: np.dtype
    row_shape: tuple[int, ...]

    @cached_property
    def row_bytes(self) -> int:
        """Bytes of one sample."""
        return math.prod(self.row_shape) * self.dtype.itemsize


class Context(Protocol):
    """An engine made ready for one batch size and one set of addresses, which never change."""

    def enqueue(self, stream: int) -> None:
        """Give one run of the network to a stream."""

    def close(self) -> None:
        """Free it."""


class Engine(Protocol):
    """A network that was loaded onto a device: one input, a batch that is free within bounds."""

    input: TensorInfo
    outputs: tuple[TensorInfo, ...]
    min_batch: int
    max_batch: int
    #: Working memory of a context. Contexts that never run at the same time may share it.
    scratch_bytes: int

    def create_context(self, batch: int, addresses: Mapping[str, int], scratch: int) -> Context:
        """Return a context for ``batch`` samples, with the address of every input and output by name."""

    def close(self) -> None:
        """Free it; all its contexts must be closed."""


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

    def load_engine(self, file: EngineFile) -> Engine:
        """Load an engine."""

    def capture(self, stream: int, enqueue: Callable[[], None]) -> int:
        """Return a graph of what ``enqueue`` gives to the stream; nothing of it runs now."""

    def launch(self, graph: int, stream: int) -> None:
        """Give the work of a graph to a stream."""

    def destroy_graph(self, graph: int) -> None:
        """Free it."""

    def close(self) -> None:
        """Leave the device; all that was created on it must be freed."""

"""Copies of device arrays to the host, through a reused buffer of pinned memory."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np

from fer_edge.cuda.arrays import DeviceArray
from fer_edge.cuda.device import Device
from fer_edge.cuda.resources import create_event


class HostCopy:
    """Copies one array at a time. The buffer is allocated by the first copy and grows as needed.

    Parameters
    ----------
    device : Device
        Device of the arrays.
    stream : int
        Stream of the copies.
    resources : ExitStack
        Frees all allocations.
    """

    def __init__(self, device: Device, stream: int, resources: ExitStack) -> None:
        self._device, self._stream = device, stream
        self._done = create_event(device, resources)
        self._producer = create_event(device, resources)
        self._pinned: np.ndarray | None = None
        resources.callback(self._free)

    def start(self, array: DeviceArray) -> None:
        """Enqueue the copy of ``array``, whose strides must not be negative, without waiting."""
        device, size_bytes = self._device, _span_bytes(array)
        if self._pinned is None or self._pinned.nbytes < size_bytes:
            self._free()
            self._pinned = device.allocate_pinned(size_bytes)
        if array.producer is not None and array.producer != self._stream:
            device.record(self._producer, array.producer)
            device.wait(self._stream, self._producer)
        device.copy(self._pinned.ctypes.data, array.address, size_bytes, self._stream)
        device.record(self._done, self._stream)

    def is_done(self) -> bool:
        """Return whether the last copy is complete."""
        return self._device.is_done(self._done)

    def result(self, array: DeviceArray) -> np.ndarray:
        """Return the content of ``array`` as a new contiguous array."""
        assert self._pinned is not None
        return np.ndarray(array.shape, array.dtype, self._pinned, 0, array.strides).copy()

    def _free(self) -> None:
        if self._pinned is not None:
            pinned, self._pinned = self._pinned, None
            self._device.free_pinned(pinned)


def _span_bytes(array: DeviceArray) -> int:
    """Return the bytes from the first to the last element, row padding included."""
    if array.strides is None:
        return int(np.prod(array.shape, dtype=np.int64)) * array.dtype.itemsize
    steps = zip(array.shape, array.strides, strict=True)
    return array.dtype.itemsize + sum((side - 1) * stride for side, stride in steps)

"""Device memory, streams and events, freed by an :class:`contextlib.ExitStack`."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np

from fer_edge.cuda.device import Device


def create_stream(device: Device, resources: ExitStack) -> int:
    """Return a new stream."""
    stream = device.create_stream()
    resources.callback(device.destroy_stream, stream)
    return stream


def create_event(device: Device, resources: ExitStack) -> int:
    """Return a new event."""
    event = device.create_event()
    resources.callback(device.destroy_event, event)
    return event


def allocate(device: Device, size_bytes: int, resources: ExitStack) -> int:
    """Return the address of new device memory, 0 for a size of 0."""
    if not size_bytes:
        return 0
    address = device.allocate(size_bytes)
    resources.callback(device.free, address)
    return address


def allocate_pinned(device: Device, size_bytes: int, resources: ExitStack) -> np.ndarray:
    """Return new pinned host memory as ``[size_bytes]`` uint8."""
    memory = device.allocate_pinned(size_bytes)
    resources.callback(device.free_pinned, memory)
    return memory

"""Helpers of the GPU tests: a small network, and copies of NumPy arrays to device memory and back."""

from __future__ import annotations

import time

import numpy as np

from fer_edge.cuda.arrays import DeviceArray

RNG = np.random.default_rng(11)
WEIGHT = RNG.normal(0, 0.2, (8, 3, 3, 3)).astype(np.float32)
HEAD = RNG.normal(0, 0.3, (8, 5)).astype(np.float32)
SHAPE = (3, 16, 16)


class Gpu:
    """NumPy arrays to device memory and back, by cuda-python alone."""

    def __init__(self) -> None:
        from fer_edge.cuda.cuda_device import CudaDevice

        self.device = CudaDevice()
        self.stream, self.event = self.device.create_stream(), self.device.create_event()
        self._addresses: list[int] = []

    def empty(self, shape: tuple[int, ...], dtype: type | np.dtype, offset: int = 0) -> DeviceArray:
        """Return new memory, ``offset`` bytes behind an aligned address."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self._addresses.append(self.device.allocate(max(size + offset, 1)))
        return DeviceArray(self._addresses[-1] + offset, shape, np.dtype(dtype), producer=self.stream)

    def put(self, array: np.ndarray, offset: int = 0) -> DeviceArray:
        """Copy to the device; done when this returns."""
        result = self.empty(array.shape, array.dtype, offset)
        self._copy(np.ascontiguousarray(array), result, to_device=True)
        return result

    def get(self, array: DeviceArray) -> np.ndarray:
        """Copy to the host."""
        result = np.empty(array.shape, array.dtype)
        self._copy(result, array, to_device=False)
        return result

    def wait(self) -> None:
        """Wait for the stream."""
        self.device.record(self.event, self.stream)
        while not self.device.is_done(self.event):
            time.sleep(1e-4)

    def free_bytes(self) -> int:
        """Return the memory that is free on the device."""
        from cuda.bindings import runtime

        status, free, _ = runtime.cudaMemGetInfo()
        assert not status
        return int(free)

    def close(self) -> None:
        """Free everything."""
        self.wait()
        for address in self._addresses:
            self.device.free(address)
        self.device.destroy_event(self.event)
        self.device.destroy_stream(self.stream)

    def _copy(self, host: np.ndarray, array: DeviceArray, to_device: bool) -> None:
        if not host.nbytes:
            return
        pinned = self.device.allocate_pinned(host.nbytes)
        if to_device:
            pinned[:] = host.reshape(-1).view(np.uint8)
        ends = (array.address, pinned.ctypes.data)
        self.device.copy(*(ends if to_device else ends[::-1]), host.nbytes, self.stream)
        self.wait()
        if not to_device:
            host.reshape(-1).view(np.uint8)[:] = pinned
        self.device.free_pinned(pinned)

"""One NVIDIA GPU by cuda-python, on the primary context, which is shared with other libraries of the process."""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from fer_edge.errors import BackendError
from fer_edge.system.shell import pip_command

#: With JetPack 6, whose CUDA is 12.6, ``cuda-python<13``.
INSTALL_CUDA_PYTHON = pip_command("install", "cuda-python")


class CudaDevice:
    """NVIDIA GPU, implemented with the CUDA runtime of cuda-python.

    Parameters
    ----------
    index : int
        CUDA index of the GPU.

    Raises
    ------
    BackendError
        If cuda-python is not installed, or CUDA finds no such GPU.
    """

    def __init__(self, index: int = 0) -> None:
        self._cuda = import_runtime(index)
        self._check(self._cuda.cudaSetDevice(index))
        self._check(self._cuda.cudaFree(0))  # creates the primary context, so that its errors appear here

    def allocate(self, size_bytes: int) -> int:
        return int(self._check(self._cuda.cudaMalloc(size_bytes)))

    def free(self, address: int) -> None:
        self._check(self._cuda.cudaFree(address))

    def allocate_pinned(self, size_bytes: int) -> np.ndarray:
        address = int(self._check(self._cuda.cudaHostAlloc(size_bytes, self._cuda.cudaHostAllocDefault)))
        return np.ctypeslib.as_array((ctypes.c_uint8 * size_bytes).from_address(address))

    def free_pinned(self, memory: np.ndarray) -> None:
        self._check(self._cuda.cudaFreeHost(memory.ctypes.data))

    def create_stream(self) -> int:
        return int(self._check(self._cuda.cudaStreamCreateWithFlags(self._cuda.cudaStreamNonBlocking)))

    def destroy_stream(self, stream: int) -> None:
        self._check(self._cuda.cudaStreamDestroy(stream))

    def create_event(self) -> int:
        return int(self._check(self._cuda.cudaEventCreateWithFlags(self._cuda.cudaEventDefault)))

    def destroy_event(self, event: int) -> None:
        self._check(self._cuda.cudaEventDestroy(event))

    def copy(self, target: int, source: int, size_bytes: int, stream: int) -> None:
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDefault  # the direction follows from the addresses
        self._check(self._cuda.cudaMemcpyAsync(target, source, size_bytes, kind, stream))

    def record(self, event: int, stream: int) -> None:
        self._check(self._cuda.cudaEventRecord(event, stream))

    def wait(self, stream: int, event: int) -> None:
        self._check(self._cuda.cudaStreamWaitEvent(stream, event, 0))

    def is_done(self, event: int) -> bool:
        (status,) = self._cuda.cudaEventQuery(event)
        if status == self._cuda.cudaError_t.cudaErrorNotReady:
            # Otherwise it stays the last error, and a launch by another library would report it.
            self._cuda.cudaGetLastError()
            return False
        self._check((status,))
        return True

    def elapsed_ms(self, begin: int, end: int) -> float:
        return float(self._check(self._cuda.cudaEventElapsedTime(begin, end)))

    def capture(self, stream: int, enqueue: Callable[[], None]) -> int:
        # Of this thread only: concurrent work of other threads is allowed and not captured.
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._check(self._cuda.cudaStreamBeginCapture(stream, mode))
        try:
            enqueue()
        except BaseException:
            status, graph = self._cuda.cudaStreamEndCapture(stream)
            if not status:
                self._cuda.cudaGraphDestroy(graph)
            self._cuda.cudaGetLastError()  # clears the error of the capture
            raise
        try:
            graph = self._check(self._cuda.cudaStreamEndCapture(stream))
        except BackendError:
            self._cuda.cudaGetLastError()
            raise
        try:
            return int(self._check(self._cuda.cudaGraphInstantiate(graph, 0)))
        finally:
            self._cuda.cudaGraphDestroy(graph)

    def launch(self, graph: int, stream: int) -> None:
        self._check(self._cuda.cudaGraphLaunch(graph, stream))

    def destroy_graph(self, graph: int) -> None:
        self._check(self._cuda.cudaGraphExecDestroy(graph))

    def close(self) -> None:
        """Do nothing: other libraries may use the primary context."""

    def _check(self, answer: tuple[Any, ...]) -> Any:
        return checked(self._cuda, answer)


def free_device_bytes(index: int = 0) -> int:
    """Return the free memory of a GPU; on a Jetson this is main memory, without reclaimable caches.

    Raises
    ------
    BackendError
        As :class:`CudaDevice`.
    """
    cuda = import_runtime(index)
    checked(cuda, cuda.cudaSetDevice(index))
    return int(checked(cuda, cuda.cudaMemGetInfo()))


def import_runtime(index: int) -> Any:
    """Return cuda-python's runtime; raise :class:`BackendError` if it finds no GPU ``index``."""
    try:
        cuda = importlib.import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise BackendError(f"cuda-python is not installed ({error}). Fix: {INSTALL_CUDA_PYTHON}") from error
    status, count = cuda.cudaGetDeviceCount()
    if status or not count:
        raise BackendError(
            f"CUDA finds no GPU ({_describe(cuda, status)}). Fix: install NVIDIA's driver, then check it with nvidia-smi"
        )
    if not 0 <= index < count:
        raise BackendError(
            f"GPU {index} does not exist, CUDA finds {count} GPUs, counted from 0. Fix: list them with nvidia-smi"
        )
    return cuda


def checked(cuda: Any, answer: tuple[Any, ...]) -> Any:
    """Return the value that follows the status of a CUDA call; raise :class:`BackendError` if it failed."""
    if answer[0]:
        raise BackendError(
            f"CUDA failed with {_describe(cuda, answer[0])}. Fix: check the GPU with nvidia-smi and dmesg"
        )
    return answer[1] if len(answer) > 1 else None


def _describe(cuda: Any, status: Any) -> str:
    """Return name and meaning of an error, such as ``cudaErrorNoDevice: no CUDA-capable device is detected``."""
    if not status:
        return "no device"
    _, name = cuda.cudaGetErrorName(status)
    _, text = cuda.cudaGetErrorString(status)
    return f"{name.decode()}: {text.decode()}"

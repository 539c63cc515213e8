"""One NVIDIA GPU, through cuda-python on the primary context, which other libraries in the process share."""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from fer_edge.errors import BackendError

#: With JetPack 6, whose CUDA is 12.6, ``cuda-python<13``.
INSTALL_CUDA_PYTHON = "pip install cuda-python"


class CudaDevice:
    """See :class:`fer_edge.cuda.device.Device`.

    Parameters
    ----------
    index : int
        Which GPU, as CUDA counts them.

    Raises
    ------
    BackendError
        If cuda-python is not installed, or CUDA finds no such GPU; the message names what to do.
    """

    def __init__(self, index: int = 0) -> None:
        self._cuda = import_runtime(index)
        self._check(self._cuda.cudaSetDevice(index))
        self._check(self._cuda.cudaFree(0))  # makes the primary context, so that its errors are told here

    def allocate(self, size_bytes: int) -> int:
        """See :class:`fer_edge.cuda.device.Device`."""
        return int(self._check(self._cuda.cudaMalloc(size_bytes)))

    def free(self, address: int) -> None:
        """See :class:`fer_edge.cuda.device.Device`."""
        self._check(self._cuda.cudaFree(address))

    def allocate_pinned(self, size_bytes: int) -> np.ndarray:
        """See :class:`fer_edge.cuda.device.Device`."""
        address = int(self._check(self._cuda.cudaHostAlloc(size_bytes, self._cuda.cudaHostAllocDefault)))
        return np.ctypeslib.as_array((ctypes.c_uint8 * size_bytes).from_address(address))

    def free_pinned(self, memory: np.ndarray) -> None:
        """See :class:`fer_edge.cuda.device.Device`."""
        self._check(self._cuda.cudaFreeHost(memory.ctypes.data))

    def create_stream(self) -> int:
        """See :class:`fer_edge.cuda.device.Device`."""
        return int(self._check(self._cuda.cudaStreamCreateWithFlags(self._cuda.cudaStreamNonBlocking)))

    def destroy_stream(self, stream: int) -> None:
        """See :class:`fer_edge.cuda.device.Device`."""
        self._check(self._cuda.cudaStreamDestroy(stream))

    def create_event(self) -> int:
        """See :class:`fer_edge.cuda.device.Device`."""
        return int(self._check(self._cuda.cudaEventCreateWithFlags(self._cuda.cudaEventDefault)))

    def destroy_event(self, event: int) -> None:
        """See :class:`fer_edge.cuda.device.Device`."""
        self._check(self._cuda.cudaEventDestroy(event))

    def copy(self, target: int, source: int, size_bytes: int, stream: int) -> None:
        """See :class:`fer_edge.cuda.device.Device`."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDefault  # the addresses say where they lie
        self._check(self._cuda.cudaMemcpyAsync(target, source, size_bytes, kind, stream))

    def record(self, event: int, stream: int) -> None:
        """See :class:`fer_edge.cuda.device.Device`."""
        self._check(self._cuda.cudaEventRecord(event, stream))

    def wait(self, stream: int, event: int) -> None:
        """See :class:`fer_edge.cuda.device.Device`."""
        self._check(self._cuda.cudaStreamWaitEvent(stream, event, 0))

    def is_done(self, event: int) -> bool:
        """See :class:`fer_edge.cuda.device.Device`."""
        (status,) = self._cuda.cudaEventQuery(event)
        if status == self._cuda.cudaError_t.cudaErrorNotReady:
            # Kept as the last error otherwise, where a launch by another library would find it.
            self._cuda.cudaGetLastError()
            return False
        self._check((status,))
        return True

    def elapsed_ms(self, begin: int, end: int) -> float:
        """See :class:`fer_edge.cuda.device.Device`."""
        return float(self._check(self._cuda.cudaEventElapsedTime(begin, end)))

    def capture(self, stream: int, enqueue: Callable[[], None]) -> int:
        """See :class:`fer_edge.cuda.device.Device`."""
        # Of this thread only: what others do on the device meanwhile is allowed, and not in the graph.
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._check(self._cuda.cudaStreamBeginCapture(stream, mode))
        try:
            enqueue()
        except BaseException:
            status, graph = self._cuda.cudaStreamEndCapture(stream)
            if not status:
                self._cuda.cudaGraphDestroy(graph)
            self._cuda.cudaGetLastError()  # of the capture; the stream is as it was
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
        """See :class:`fer_edge.cuda.device.Device`."""
        self._check(self._cuda.cudaGraphLaunch(graph, stream))

    def destroy_graph(self, graph: int) -> None:
        """See :class:`fer_edge.cuda.device.Device`."""
        self._check(self._cuda.cudaGraphExecDestroy(graph))

    def close(self) -> None:
        """See :class:`fer_edge.cuda.device.Device`; the primary context stays, since others may use it."""

    def _check(self, answer: tuple[Any, ...]) -> Any:
        return checked(self._cuda, answer)


def free_device_bytes(index: int = 0) -> int:
    """Return the memory that is free on a GPU; on a board it is main memory, without what the kernel could give back.

    Raises
    ------
    BackendError
        As :class:`CudaDevice`.
    """
    cuda = import_runtime(index)
    checked(cuda, cuda.cudaSetDevice(index))
    return int(checked(cuda, cuda.cudaMemGetInfo()))


def import_runtime(index: int) -> Any:
    """Return cuda-python's runtime, or raise :class:`BackendError` where it finds no GPU ``index``."""
    try:
        cuda = importlib.import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise BackendError(f"cuda-python is not installed ({error}); run: {INSTALL_CUDA_PYTHON}") from error
    status, count = cuda.cudaGetDeviceCount()
    if status or not count:
        raise BackendError(
            f"CUDA finds no GPU ({_describe(cuda, status)}): install NVIDIA's driver, then run: nvidia-smi"
        )
    if not 0 <= index < count:
        raise BackendError(f"there is no GPU {index}: CUDA finds {count}, counted from 0; run: nvidia-smi")
    return cuda


def checked(cuda: Any, answer: tuple[Any, ...]) -> Any:
    """Return what lies beside a status that is success."""
    if answer[0]:
        raise BackendError(f"CUDA failed: {_describe(cuda, answer[0])}")
    return answer[1] if len(answer) > 1 else None


def _describe(cuda: Any, status: Any) -> str:
    """Name and meaning of an error, such as ``cudaErrorNoDevice: no CUDA-capable device is detected``."""
    if not status:
        return "it counts none"
    _, name = cuda.cudaGetErrorName(status)
    _, text = cuda.cudaGetErrorString(status)
    return f"{name.decode()}: {text.decode()}"

"""cuda-python and TensorRT without a GPU: their errors and the resulting messages."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_runtime import Recorder, runtime_without_gpu

from fer_edge.cuda import cuda_device
from fer_edge.cuda.cuda_device import CudaDevice, free_device_bytes
from fer_edge.engines.cache.key import identify_gpu
from fer_edge.engines.run.runner import EngineRunner
from fer_edge.engines.run.tensorrt_engine import TensorRtDevice
from fer_edge.errors import BackendError


@pytest.fixture
def cuda() -> Any:
    return runtime_without_gpu()


@pytest.mark.parametrize(
    "ask",
    [CudaDevice, identify_gpu, free_device_bytes, lambda: EngineRunner(TensorRtDevice, Path("x.engine"))],
)
def test_a_machine_without_a_gpu_says_what_to_do(cuda: Any, ask: Callable[[], object]) -> None:
    """The error code comes from CUDA: cudaErrorNoDevice with a driver, cudaErrorInsufficientDriver without."""
    status, _ = cuda.cudaGetDeviceCount()
    name = cuda.cudaGetErrorName(status)[1].decode()
    assert name in ("cudaErrorNoDevice", "cudaErrorInsufficientDriver", "cudaErrorStubLibrary")
    with pytest.raises(
        BackendError, match=rf"CUDA finds no GPU \({name}: .*install NVIDIA's driver, .*nvidia-smi"
    ):
        ask()


def test_cuda_python_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with pytest.raises(
        BackendError, match="cuda-python is not installed .*Fix: .*python3? -m pip install cuda-python"
    ):
        CudaDevice()


CALLS: dict[str, Callable[[CudaDevice], object]] = {
    "allocate": lambda d: d.allocate(8),
    "free": lambda d: d.free(256),
    "allocate_pinned": lambda d: d.allocate_pinned(8),
    "free_pinned": lambda d: d.free_pinned(np.zeros(8, np.uint8)),
    "create_stream": lambda d: d.create_stream(),
    "destroy_stream": lambda d: d.destroy_stream(256),
    "create_event": lambda d: d.create_event(),
    "destroy_event": lambda d: d.destroy_event(256),
    "copy": lambda d: d.copy(256, 512, 8, 1),
    "record": lambda d: d.record(256, 1),
    "wait": lambda d: d.wait(1, 256),
    "is_done": lambda d: d.is_done(256),
    "elapsed_ms": lambda d: d.elapsed_ms(256, 512),
    "capture": lambda d: d.capture(1, lambda: None),
    "launch": lambda d: d.launch(256, 1),
    "destroy_graph": lambda d: d.destroy_graph(256),
}


def test_every_method_is_called_below() -> None:
    methods = {name for name, _ in inspect.getmembers(CudaDevice, inspect.isfunction) if name[0] != "_"}
    assert methods == {*CALLS, "close"}


@pytest.mark.parametrize("method", CALLS)
def test_the_status_of_every_call_is_checked(cuda: Any, method: str) -> None:
    """Without a driver each CUDA function returns an error, which must be raised."""
    device = object.__new__(CudaDevice)
    device._cuda = cuda
    with pytest.raises(BackendError, match=r"CUDA failed with cudaError\w+: "):
        CALLS[method](device)


def test_every_name_of_cuda_exists() -> None:
    """Names are read from the source and looked up in the installed cuda-python."""
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="needs cuda-python")
    tree = ast.parse(inspect.getsource(cuda_device))
    names = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and n.attr.startswith("cuda")}
    assert len(names) > 30
    enumerations = (
        runtime.cudaError_t,
        runtime.cudaMemcpyKind,
        runtime.cudaStreamCaptureMode,
        runtime.cudaDeviceAttr,
    )
    for name in names:
        assert any(hasattr(owner, name) for owner in (runtime, *enumerations)), name


def recorded(**statuses: int) -> tuple[CudaDevice, Recorder]:
    pytest.importorskip("cuda.bindings.runtime", reason="needs cuda-python")
    device = object.__new__(CudaDevice)
    device._cuda = Recorder(**statuses)
    return device, device._cuda


def test_an_event_that_is_not_reached_leaves_no_error_behind() -> None:
    """CUDA keeps "not ready" as its last error, which a launch of another library would report."""
    device, cuda = recorded(cudaEventQuery=600)
    assert device.is_done(1) is False
    assert cuda.called == ["cudaEventQuery", "cudaGetLastError"]
    device, cuda = recorded()
    assert device.is_done(1) is True
    device, _ = recorded(cudaEventQuery=719)
    with pytest.raises(BackendError, match="error 719"):
        device.is_done(1)


def test_a_capture_ends_whatever_happens_in_it() -> None:
    device, cuda = recorded()
    assert device.capture(1, lambda: None) == 4096
    assert cuda.called == [
        "cudaStreamBeginCapture",
        "cudaStreamEndCapture",
        "cudaGraphInstantiate",
        "cudaGraphDestroy",
    ]

    def refuse() -> None:
        raise BackendError("TensorRT cannot run the engine")

    device, cuda = recorded()
    with pytest.raises(BackendError, match="TensorRT cannot run"):
        device.capture(1, refuse)
    assert cuda.called == [
        "cudaStreamBeginCapture",
        "cudaStreamEndCapture",
        "cudaGraphDestroy",
        "cudaGetLastError",
    ]

    device, cuda = recorded(cudaStreamEndCapture=901)
    with pytest.raises(BackendError, match="error 901"):
        device.capture(1, lambda: None)
    assert "cudaGetLastError" in cuda.called
    assert "cudaGraphInstantiate" not in cuda.called

    device, cuda = recorded(cudaGraphInstantiate=2)
    with pytest.raises(BackendError, match="error 2"):
        device.capture(1, lambda: None)
    assert "cudaGraphDestroy" in cuda.called


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cuda.bindings.runtime", reason="needs cuda-python")
    monkeypatch.setattr(Recorder, "cudaGetDeviceCount", lambda self: (0, 2), raising=False)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", Recorder())
    for index in (2, -1):
        with pytest.raises(BackendError, match=f"GPU {index} does not exist, CUDA finds 2"):
            CudaDevice(index=index)
    monkeypatch.setattr(Recorder, "cudaGetDeviceCount", lambda self: (0, 0))
    with pytest.raises(BackendError, match="CUDA finds no GPU"):
        CudaDevice()


def test_the_memory_that_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cuda.bindings.runtime", reason="needs cuda-python")
    monkeypatch.setattr(Recorder, "cudaGetDeviceCount", lambda self: (0, 1), raising=False)
    monkeypatch.setattr(Recorder, "cudaMemGetInfo", lambda self: (0, 5 << 30, 8 << 30), raising=False)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", Recorder())
    assert free_device_bytes() == 5 << 30
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", Recorder(cudaSetDevice=719))
    with pytest.raises(BackendError, match="error 719"):
        free_device_bytes()

"""cuda-python and TensorRT as far as they go without a GPU: what they say there, and what is made of it."""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fer_edge.cuda import cuda_device
from fer_edge.cuda.cuda_device import CudaDevice, free_device_bytes, identify_gpu
from fer_edge.cuda.gpus import Gpu, require_gpu
from fer_edge.engines.cache.engine_file import EngineFile
from fer_edge.engines.cache.header import EngineKey
from fer_edge.engines.run.runner import EngineRunner
from fer_edge.engines.run.tensorrt_engine import TensorRtEngine
from fer_edge.errors import BackendError, EngineError, UsageError


@pytest.fixture
def cuda() -> Any:
    """The real cuda-python, where there is no GPU."""
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="needs cuda-python")
    try:
        require_gpu()
    except EngineError:
        return runtime
    pytest.skip("this machine has a GPU: tests/gpu covers it")


@pytest.mark.parametrize(
    "ask", [CudaDevice, identify_gpu, free_device_bytes, lambda: EngineRunner(CudaDevice, Path("x.engine"))]
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
    with pytest.raises(BackendError, match="cuda-python is not installed .*; run: pip install cuda-python"):
        CudaDevice()


def test_an_unknown_flavour() -> None:
    with pytest.raises(UsageError, match="did you mean 'tensorrt'"):
        CudaDevice("tensort")


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
    assert methods == {*CALLS, "load_engine", "close"}


@pytest.mark.parametrize("method", CALLS)
def test_the_status_of_every_call_is_checked(cuda: Any, method: str) -> None:
    """Without a driver each function of CUDA returns an error, so none may pass unseen."""
    device = object.__new__(CudaDevice)
    device._cuda = cuda
    with pytest.raises(BackendError, match=r"CUDA failed: cudaError\w+: "):
        CALLS[method](device)


def test_every_name_of_cuda_exists() -> None:
    """In the cuda-python that is installed; the names are read from the source."""
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


class Recorder(types.SimpleNamespace):
    """A CUDA runtime that succeeds, but for the functions that are given a status; it notes what is called."""

    success, not_ready, failed = 0, 600, 719

    def __init__(self, **statuses: int) -> None:
        super().__init__()
        self.statuses, self.called = statuses, list[str]()
        real = importlib.import_module("cuda.bindings.runtime")
        self.cudaStreamCaptureMode, self.cudaMemcpyKind = real.cudaStreamCaptureMode, real.cudaMemcpyKind
        self.cudaError_t = types.SimpleNamespace(cudaErrorNotReady=self.not_ready)

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cuda"):
            raise AttributeError(name)

        def call(*arguments: object) -> tuple[object, ...]:
            self.called.append(name)
            if name in ("cudaGetErrorName", "cudaGetErrorString"):
                return 0, f"error {arguments[0]}".encode()
            status = self.statuses.get(name, 0)
            return (
                (status,)
                if name in ("cudaEventQuery", "cudaGraphDestroy", "cudaGetLastError")
                else (status, 4096)
            )

        return call


def recorded(**statuses: int) -> tuple[CudaDevice, Recorder]:
    pytest.importorskip("cuda.bindings.runtime", reason="needs cuda-python")
    device = object.__new__(CudaDevice)
    device._cuda = Recorder(**statuses)
    return device, device._cuda


def test_an_event_that_is_not_reached_leaves_no_error_behind() -> None:
    """CUDA keeps "not ready" as its last error, which a launch of another library would take for its own."""
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
        with pytest.raises(BackendError, match=f"there is no GPU {index}: CUDA finds 2"):
            CudaDevice(index=index)
    monkeypatch.setattr(Recorder, "cudaGetDeviceCount", lambda self: (0, 0))
    with pytest.raises(BackendError, match="CUDA finds no GPU"):
        CudaDevice()


@pytest.mark.parametrize(
    ("name", "multiprocessors", "gib", "expected"),
    [
        (b"Orin", 8, 7.4, "Orin, 8 multiprocessors, 7 GiB"),
        (b"Orin", 16, 61.4, "Orin, 16 multiprocessors, 61 GiB"),
        (b"NVIDIA A100-SXM4-40GB MIG 1g.5gb", 14, 4.75, "NVIDIA A100-SXM4-40GB MIG 1g.5gb, 14 multiprocessors, 5 GiB"),
        ("Größe\x1b[2J".encode(), 1, 1, "Gr--e--2J, 1 multiprocessors, 1 GiB"),
        (b"x" * 200, 1, 1, "x" * 80),
    ],
)  # fmt: skip
def test_what_a_gpu_is_to_an_engine(
    name: bytes, multiprocessors: int, gib: float, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cuda.bindings.runtime", reason="needs cuda-python")
    found = types.SimpleNamespace(
        name=name, multiProcessorCount=multiprocessors, totalGlobalMem=int(gib * 2**30), major=8, minor=7
    )
    real = importlib.import_module("cuda.bindings.runtime").cudaDeviceProp
    assert all(hasattr(real, attribute) for attribute in vars(found))
    for method, answer in {
        "cudaGetDeviceCount": (0, 1),
        "cudaGetDeviceProperties": (0, found),
        "cudaDriverGetVersion": (0, 12060),
    }.items():
        monkeypatch.setattr(Recorder, method, lambda self, *rest, answer=answer: answer, raising=False)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", Recorder())
    for version, driver in (("540.4.0", "540.4.0, CUDA 12.6"), (None, "CUDA 12.6")):
        monkeypatch.setattr(cuda_device, "read_driver_version", lambda machine, version=version: version)
        assert identify_gpu() == Gpu((8, 7), expected, driver)
        EngineKey("a" * 64, "fp32", (1, 1, 1), "tensorrt", "10.3", (8, 7), expected, driver)


def test_the_memory_that_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cuda.bindings.runtime", reason="needs cuda-python")
    monkeypatch.setattr(Recorder, "cudaGetDeviceCount", lambda self: (0, 1), raising=False)
    monkeypatch.setattr(Recorder, "cudaMemGetInfo", lambda self: (0, 5 << 30, 8 << 30), raising=False)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", Recorder())
    assert free_device_bytes() == 5 << 30
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", Recorder(cudaSetDevice=719))
    with pytest.raises(BackendError, match="error 719"):
        free_device_bytes()


# TensorRT's runtime: the real one refuses without a GPU; a stand-in gives it engines that we do not take.


def test_a_real_engine_without_a_gpu_is_an_error(cuda: Any, tmp_path: Path) -> None:
    """TensorRT-RTX is run: its deserialiser says no, and so do we, with its reason."""
    trt = pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx")
    path = tmp_path / "n.engine"
    path.write_bytes(b"ptrt" * 1000)
    with pytest.raises(
        BackendError, match=r"n\.engine is no engine of this tensorrt_rtx .* it is built again"
    ):
        TensorRtEngine(trt, EngineFile(path))
    with pytest.raises(BackendError, match=r"missing\.engine cannot be read"):
        TensorRtEngine(trt, EngineFile(tmp_path / "missing.engine"))


class StandIn:
    """As much of TensorRT as an engine with these tensors shows: name → (is input, type, shape)."""

    __name__, __version__ = "tensorrt", "10.3.0"

    def __init__(self, tensors: dict[str, tuple[bool, str, tuple[int, ...]]]) -> None:
        kinds = ("FLOAT", "HALF", "INT64", "INT32", "INT8", "UINT8", "BOOL", "FP8")
        self.DataType = types.SimpleNamespace(**{kind: kind for kind in kinds})
        self.TensorIOMode = types.SimpleNamespace(INPUT="INPUT", OUTPUT="OUTPUT")
        self.ExecutionContextAllocationStrategy = types.SimpleNamespace(USER_MANAGED="USER_MANAGED")
        self.ILogger = type("ILogger", (), {})
        self.tensors, self.names = tensors, list(tensors)
        self.refused, self.said = set[str](), list[tuple[object, ...]]()

    def Runtime(self, log: Any) -> StandIn:
        self.log = log
        return self

    def deserialize_cuda_engine(self, content: bytes) -> StandIn | None:
        self.log.log(1, "the  version\nis another")
        return self if content == b"good" else None

    device_memory_size_v2 = 1024

    @property
    def num_io_tensors(self) -> int:
        return len(self.names)

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_mode(self, name: str) -> str:
        return "INPUT" if self.tensors[name][0] else "OUTPUT"

    def get_tensor_dtype(self, name: str) -> str:
        return self.tensors[name][1]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        batch, *rest = self.tensors[name][2]
        return (getattr(self, "batch", batch), *rest)

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return [(2, 3), (4, 3), (8, 3)]

    def create_execution_context(self, strategy: str) -> StandIn | None:
        assert strategy == "USER_MANAGED"
        return None if "create_execution_context" in self.refused else self

    def infer_shapes(self) -> list[str]:
        return ["more"] if "infer_shapes" in self.refused else []

    def _say(self, *what: object) -> bool:
        self.said.append(what)
        return what[0] not in self.refused

    def set_device_memory(self, address: int, size: int) -> None:
        self._say("set_device_memory", address, size)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.batch = shape[0] if "get_tensor_shape" not in self.refused else -1
        return self._say("set_input_shape", name, shape)

    def set_tensor_address(self, name: str, address: int) -> bool:
        return self._say("set_tensor_address", name, address)

    def execute_async_v3(self, stream: int) -> bool:
        return self._say("execute_async_v3", stream)


X, Y = ("x", (True, "FLOAT", (-1, 3))), ("y", (False, "HALF", (-1, 5, 2)))


@pytest.fixture
def engine_file(tmp_path: Path) -> Path:
    path = tmp_path / "n.engine"
    path.write_bytes(b"good")
    return path


def test_what_an_engine_says_of_itself(engine_file: Path) -> None:
    trt = StandIn(dict([X, Y]))
    engine = TensorRtEngine(trt, EngineFile(engine_file))
    assert (engine.input.name, engine.input.dtype, engine.input.row_shape) == ("x", np.float32, (3,))
    assert [(o.name, o.dtype, o.row_shape, o.row_bytes) for o in engine.outputs] == [
        ("y", np.float16, (5, 2), 20)
    ]
    assert (engine.min_batch, engine.max_batch, engine.scratch_bytes) == (2, 8, 1024)
    context = engine.create_context(4, {"x": 256, "y": 512}, 768)
    context.enqueue(9)
    assert trt.said == [
        ("set_device_memory", 768, 1024),
        ("set_input_shape", "x", (4, 3)),
        ("set_tensor_address", "x", 256),
        ("set_tensor_address", "y", 512),
        ("execute_async_v3", 9),
    ]
    context.close()
    engine.close()


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ([Y], "it has 0 inputs, not one"),
        ([X, ("z", X[1]), Y], "it has 2 inputs, not one"),
        (
            [("x", (True, "FLOAT", (1, 3))), Y],
            r"x of the engine has the shape \(1, 3\), expected a batch that is free",
        ),
        ([X, ("y", (False, "FLOAT", (-1, -1)))], r"y of the engine has the shape \(-1, -1\)"),
        ([("x", (True, "FP8", (-1, 3))), Y], "x of the engine is FP8, which NumPy does not have"),
    ],
)
def test_engines_that_are_not_taken(engine_file: Path, tensors: list[Any], message: str) -> None:
    with pytest.raises(BackendError, match=message):
        TensorRtEngine(StandIn(dict(tensors)), EngineFile(engine_file))


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        ("create_execution_context", "makes no context for the engine: the version is another"),
        ("set_input_shape", "refuses a batch of 4: the version is another"),
        ("infer_shapes", "wants more inputs: more"),
        ("get_tensor_shape", r"the output y has the shape \(-1, 5, 2\), expected \(4, 5, 2\)"),
        ("set_tensor_address", "refuses the address of x: the version is another"),
        ("execute_async_v3", "cannot run the engine: the version is another"),
    ],
)
def test_what_tensorrt_refuses_is_an_error(engine_file: Path, refused: str, message: str) -> None:
    """It raises nothing of its own."""
    trt = StandIn(dict([X, Y]))
    engine = TensorRtEngine(trt, EngineFile(engine_file))
    trt.refused.add(refused)
    with pytest.raises(BackendError, match=message):
        engine.create_context(4, {"x": 256, "y": 512}, 768).enqueue(1)


def test_an_engine_of_a_dla(engine_file: Path) -> None:
    """The core is set before the engine is read: later it counts for nothing."""

    class TwoCores(StandIn):
        num_DLA_cores, DLA_core = 2, -1

        def deserialize_cuda_engine(self, content: bytes) -> StandIn | None:
            self.said.append(("read with", self.DLA_core))
            return super().deserialize_cuda_engine(content)

    for core, expected in ((None, -1), (0, 0), (1, 1)):
        trt = TwoCores(dict([X, Y]))
        TensorRtEngine(trt, EngineFile(engine_file), core)
        assert trt.said == [("read with", expected)]
    with pytest.raises(BackendError, match="there is no DLA 2: tensorrt finds 2 here; leave dla_core out"):
        TensorRtEngine(TwoCores(dict([X, Y])), EngineFile(engine_file), 2)


def test_a_file_of_another_version(engine_file: Path) -> None:
    engine_file.write_bytes(b"old")
    with pytest.raises(
        BackendError, match=r"is no engine of this tensorrt 10\.3\.0 and device: the version is another"
    ):
        TensorRtEngine(StandIn(dict([X, Y])), EngineFile(engine_file))


def test_the_bindings_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    device = object.__new__(CudaDevice)
    device._flavour, device._plugin = cuda_device.FLAVOURS["tensorrt"], None
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(EngineError, match="tensorrt cannot be imported .*JetPack.*--system-site-packages"):
        device.load_engine(EngineFile(Path("x.engine")))

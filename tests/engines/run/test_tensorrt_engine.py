"""TensorRT engine: the real runtime fails without a GPU; a stub provides unsupported engines."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_runtime import runtime_without_gpu

from fer_edge.engines.flavours import FLAVOURS
from fer_edge.engines.run.engine import EngineFile
from fer_edge.engines.run.tensorrt_engine import TensorRtDevice, TensorRtEngine
from fer_edge.errors import BackendError, EngineError, UsageError


def test_an_unknown_flavour() -> None:
    with pytest.raises(UsageError, match="did you mean 'tensorrt'"):
        TensorRtDevice("tensort")


def test_a_real_engine_without_a_gpu_is_an_error(tmp_path: Path) -> None:
    """The real TensorRT-RTX rejects the engine, and the error holds its reason."""
    runtime_without_gpu()
    trt = pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx")
    path = tmp_path / "n.engine"
    path.write_bytes(b"ptrt" * 1000)
    with pytest.raises(
        BackendError, match=r"n\.engine is not an engine of this tensorrt_rtx .*Fix: delete it"
    ):
        TensorRtEngine(trt, EngineFile(path))
    with pytest.raises(BackendError, match=r"missing\.engine cannot be read"):
        TensorRtEngine(trt, EngineFile(tmp_path / "missing.engine"))


class StandIn:
    """Stub of TensorRT with one engine with these tensors: name → (is input, type, shape)."""

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
        ([Y], "expected 1 input, found 0"),
        ([X, ("z", X[1]), Y], "expected 1 input, found 2"),
        (
            [("x", (True, "FLOAT", (1, 3))), Y],
            r"expected a dynamic batch .* for the tensor x, found \(1, 3\)",
        ),
        ([X, ("y", (False, "FLOAT", (-1, -1)))], r"static dimensions for the tensor y, found \(-1, -1\)"),
        ([("x", (True, "FP8", (-1, 3))), Y], "x of the engine has the type FP8, which NumPy lacks"),
    ],
)
def test_engines_that_are_not_taken(engine_file: Path, tensors: list[Any], message: str) -> None:
    with pytest.raises(BackendError, match=message):
        TensorRtEngine(StandIn(dict(tensors)), EngineFile(engine_file))


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        ("create_execution_context", "cannot create a context for the engine: the version is another"),
        ("set_input_shape", "rejects a batch of 4: the version is another"),
        ("infer_shapes", "needs more inputs: more"),
        ("get_tensor_shape", r"the output y must have the shape \(4, 5, 2\), found \(-1, 5, 2\)"),
        ("set_tensor_address", "rejects the address of x: the version is another"),
        ("execute_async_v3", "cannot run the engine: the version is another"),
    ],
)
def test_what_tensorrt_refuses_is_an_error(engine_file: Path, refused: str, message: str) -> None:
    """TensorRT itself raises no exception."""
    trt = StandIn(dict([X, Y]))
    engine = TensorRtEngine(trt, EngineFile(engine_file))
    trt.refused.add(refused)
    with pytest.raises(BackendError, match=message):
        engine.create_context(4, {"x": 256, "y": 512}, 768).enqueue(1)


def test_an_engine_of_a_dla(engine_file: Path) -> None:
    """The core must be set before the engine is deserialised."""

    class TwoCores(StandIn):
        num_DLA_cores, DLA_core = 2, -1

        def deserialize_cuda_engine(self, content: bytes) -> StandIn | None:
            self.said.append(("read with", self.DLA_core))
            return super().deserialize_cuda_engine(content)

    for core, expected in ((None, -1), (0, 0), (1, 1)):
        trt = TwoCores(dict([X, Y]))
        TensorRtEngine(trt, EngineFile(engine_file), core)
        assert trt.said == [("read with", expected)]
    with pytest.raises(BackendError, match="DLA 2 does not exist, tensorrt finds 2 here. Fix: drop dla_core"):
        TensorRtEngine(TwoCores(dict([X, Y])), EngineFile(engine_file), 2)


def test_a_file_of_another_version(engine_file: Path) -> None:
    engine_file.write_bytes(b"old")
    with pytest.raises(
        BackendError, match=r"is not an engine of this tensorrt 10\.3\.0 and device: the version is another"
    ):
        TensorRtEngine(StandIn(dict([X, Y])), EngineFile(engine_file))


def test_the_bindings_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    device = object.__new__(TensorRtDevice)
    device._flavour, device._plugin = FLAVOURS["tensorrt"], None
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(EngineError, match="tensorrt cannot be imported .*JetPack.*--system-site-packages"):
        device.load_engine(EngineFile(Path("x.engine")))

"""Engine in TensorRT or TensorRT-RTX: one implementation for both, and for versions 10.3 to 11.

Features of the installed version are detected on its objects, never by version number.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fer_edge.cuda.cuda_device import CudaDevice
from fer_edge.engines.flavours import FLAVOURS
from fer_edge.engines.plugin import load_plugin
from fer_edge.engines.run.engine import EngineFile, TensorInfo
from fer_edge.errors import BackendError, EngineError, lookup

_WARNING = 2  # severities: internal error 0, error 1, warning 2, info 3, verbose 4
_KEPT_MESSAGES = 5
_REPORT = "Fix: report this with the output of fer-edge doctor"
_REBUILD = "Fix: build the bundle again with fer-edge build"


class TensorRtContext:
    """Execution context of TensorRT."""

    def __init__(self, context: Any, messages: list[str]) -> None:
        self._context, self._messages = context, messages

    def enqueue(self, stream: int) -> None:
        if not self._context.execute_async_v3(stream):
            raise BackendError(f"TensorRT cannot run the engine: {_last(self._messages)}. {_REPORT}")

    def close(self) -> None:
        self._context = None


class TensorRtEngine:
    """Deserialised engine of TensorRT or TensorRT-RTX.

    Parameters
    ----------
    trt : module
        ``tensorrt`` or ``tensorrt_rtx``. A CUDA device must be current: some bindings crash without one.
    file : EngineFile
        The engine.
    dla_core : int or None
        Index of the deep-learning accelerator, for an engine that was built for one.

    Raises
    ------
    EngineError
        If the file was changed after it was checked.
    BackendError
        If there is no such accelerator, TensorRT rejects the file, or the engine does not have exactly one input and a
        dynamic batch.
    """

    def __init__(self, trt: Any, file: EngineFile, dla_core: int | None = None) -> None:
        self._trt = trt
        self._messages: list[str] = []
        self._compiled: Any = None  # kernel cache of TensorRT-RTX, which must outlive the contexts
        self._runtime = trt.Runtime(_make_log(trt, self._messages))
        if dla_core is not None:
            if dla_core >= self._runtime.num_DLA_cores:
                raise BackendError(
                    f"DLA {dla_core} does not exist, {trt.__name__} finds {self._runtime.num_DLA_cores} here. Fix: drop dla_core"
                )
            self._runtime.DLA_core = dla_core  # must be set before the engine is deserialised
        self._engine = self._runtime.deserialize_cuda_engine(file.read())
        if self._engine is None:
            raise BackendError(
                f"{file.path} is not an engine of this {trt.__name__} {trt.__version__} and device: "
                f"{_last(self._messages)}. Fix: delete it, so that it is built again"
            )
        self.scratch_bytes = int(self._engine.device_memory_size_v2)
        self._read_tensors(file.path)

    def _read_tensors(self, path: Path) -> None:
        trt, engine = self._trt, self._engine
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        if len(inputs) != 1:
            raise BackendError(
                f"tensorrt cannot load {path}: expected 1 input, found {len(inputs)}. {_REBUILD}"
            )
        self.input = self._tensor(inputs[0])
        self.outputs = tuple(self._tensor(name) for name in names if name not in inputs)
        least, _, most = engine.get_tensor_profile_shape(inputs[0], 0)
        self.min_batch, self.max_batch = int(least[0]), int(most[0])

    def _tensor(self, name: str) -> TensorInfo:
        types = self._trt.DataType
        known = {
            types.FLOAT: np.float32,
            types.HALF: np.float16,
            types.INT64: np.int64,
            types.INT32: np.int32,
            types.INT8: np.int8,
            types.UINT8: np.uint8,
            types.BOOL: np.bool_,
        }
        found = self._engine.get_tensor_dtype(name)
        if found not in known:
            raise BackendError(
                f"the tensor {name} of the engine has the type {found}, which NumPy lacks. {_REBUILD}"
            )
        batch, *rest = tuple(self._engine.get_tensor_shape(name))
        if batch != -1 or -1 in rest:
            raise BackendError(
                f"expected a dynamic batch (-1) and otherwise static dimensions for the tensor {name}, found {(batch, *rest)}. {_REBUILD}"
            )
        return TensorInfo(name, np.dtype(known[found]), tuple(int(side) for side in rest))

    def create_context(self, batch: int, addresses: Mapping[str, int], scratch: int) -> TensorRtContext:
        context = self._new_context()
        if context is None:
            raise BackendError(
                f"TensorRT cannot create a context for the engine: {_last(self._messages)}. {_REPORT}"
            )
        if self.scratch_bytes:
            context.set_device_memory(scratch, self.scratch_bytes)
        if not context.set_input_shape(self.input.name, (batch, *self.input.row_shape)):
            raise BackendError(f"the engine rejects a batch of {batch}: {_last(self._messages)}. {_REPORT}")
        if missing := context.infer_shapes():
            raise BackendError(f"the engine needs more inputs: {', '.join(missing)}. {_REPORT}")
        for output in self.outputs:
            found = tuple(context.get_tensor_shape(output.name))
            if found != (batch, *output.row_shape):
                raise BackendError(
                    f"the output {output.name} must have the shape {(batch, *output.row_shape)}, found {found}. {_REPORT}"
                )
        for name, address in addresses.items():
            if not context.set_tensor_address(name, address):
                raise BackendError(
                    f"the engine rejects the address of {name}: {_last(self._messages)}. {_REPORT}"
                )
        return TensorRtContext(context, self._messages)

    def _new_context(self) -> Any:
        managed = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if not hasattr(self._trt, "DynamicShapesKernelSpecializationStrategy"):
            return self._engine.create_execution_context(managed)
        config = self._engine.create_runtime_config()
        if self._compiled is None:
            self._compiled = config.create_runtime_cache()
        config.set_runtime_cache(self._compiled)  # contexts share their compiled kernels
        # Kernels for the shape may otherwise be compiled after the first runs, and a graph would keep the generic ones.
        config.set_execution_context_allocation_strategy(managed)
        eager = self._trt.DynamicShapesKernelSpecializationStrategy.EAGER
        config.dynamic_shapes_kernel_specialization_strategy = eager
        return self._engine.create_execution_context(config)

    def close(self) -> None:
        self._engine = self._compiled = self._runtime = None


class TensorRtDevice(CudaDevice):
    """GPU that loads the engines of one compiler.

    Parameters
    ----------
    flavour : str
        Compiler of the engines, a key of :data:`fer_edge.engines.flavours.FLAVOURS`.
    index : int
        CUDA index of the GPU.
    plugin : Path or None
        The plugin library, for engines that need it.
    plugin_sha256 : str or None
        Expected hash of that library, if an engine was built with it.
    dla_core : int or None
        Index of the deep-learning accelerator, for engines that were built for one.

    Raises
    ------
    BackendError
        As :class:`CudaDevice`.
    """

    def __init__(
        self,
        flavour: str = "tensorrt",
        index: int = 0,
        plugin: Path | None = None,
        dla_core: int | None = None,
        plugin_sha256: str | None = None,
    ) -> None:
        self._flavour, self._dla_core = lookup(FLAVOURS, flavour, "flavour"), dla_core
        self._plugin, self._plugin_sha256 = plugin, plugin_sha256
        super().__init__(index)

    def load_engine(self, file: EngineFile) -> TensorRtEngine:
        try:
            trt = importlib.import_module(self._flavour.module)
        except ImportError as error:
            raise EngineError(
                f"{self._flavour.name} cannot be imported ({error}). Fix: {self._flavour.fix}"
            ) from error
        if self._plugin is not None:
            load_plugin(trt, self._plugin, self._plugin_sha256)
        return TensorRtEngine(trt, file, self._dla_core)


def _make_log(trt: Any, messages: list[str]) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]
        """Logger that keeps the last warnings and errors."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            if int(severity) <= _WARNING:
                messages.append(" ".join(msg.split()))
                del messages[:-_KEPT_MESSAGES]

    return Log()


def _last(messages: list[str]) -> str:
    return messages[-1] if messages else "it reports no reason"

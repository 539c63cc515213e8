"""OpenVINO on the CPU: usually the fastest CPU backend."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fer_edge._utils.files import text_path
from fer_edge._utils.guard import Activity, Guard
from fer_edge._utils.privacy import without_openvino_telemetry
from fer_edge.backends.base import (
    DEFAULT_INT8,
    Backend,
    Int8Config,
    SessionOptions,
    check_batch,
    run_in_parts,
)
from fer_edge.backends.int8_probe import with_exact_int8
from fer_edge.bundle import ModelFile
from fer_edge.errors import BackendError
from fer_edge.system.availability import Availability
from fer_edge.system.extras import install_command

_IMPORT = threading.Lock()  # held while the telemetry package is hidden
_ACTIVITY = Activity()
_cores: dict[int, Any] = {}
#: Consumers that run faster on an output that is not quantised: activation functions, which OpenVINO fuses into the
#: preceding convolution, and operators that cannot absorb Q/DQ. Others profit from int8 memory traffic.
_GAIN_UNROUNDED = ({"PRelu"}, {"Sigmoid", "Multiply"}, {"Reshape"})
#: On x86 with AVX2 and without VNNI its integer kernels add two products in 16 bits, which saturates, and it has no
#: exact ones.
FLOAT_INT8 = Int8Config(
    {"LP_TRANSFORMS_MODE": "NO"}, "INT8 values are multiplied in floating point, which is no faster than FP32"
)


class OpenVinoSession:
    """One ONNX file, compiled by OpenVINO."""

    def __init__(self, model: Path | ModelFile, options: SessionOptions) -> None:
        if _ACTIVITY.was_cut:  # compiling would hang
            raise BackendError(
                "openvino cannot be used in a process that was forked while another thread used it. Fix: start processes "
                "with multiprocessing.get_context('spawn'), or fork while no other thread runs a network"
            )
        # Without the precision hint OpenVINO computes FP32 models in bfloat16 on processors that have it.
        settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        settings.update((options.int8_config or DEFAULT_INT8).entries)
        if options.threads is not None:
            settings["INFERENCE_NUM_THREADS"] = options.threads
        try:
            core = _core()
            network = _read(core, model)
            _take_out_idle_rounding(network)
            # A static batch is up to 5 % faster, measured on two cores. Only a batch of 1 is known in advance.
            self.largest_batch = 1 if options.max_batch == 1 else None
            if self.largest_batch is not None:
                _fix_batch(network, self.largest_batch)
            # Read before compilation: a compiled output may also have names of inner values.
            self._outputs = [output.any_name for output in network.outputs]
            compiled = core.compile_model(network, "CPU", settings)
            if len(compiled.inputs) != 1:  # the others would be read from uninitialised memory
                raise BackendError(
                    f"openvino cannot load {model}: expected 1 input, found {len(compiled.inputs)}. "
                    "Fix: build the bundle again with fer-edge build"
                )
            # One request serves all threads: with the hint LATENCY, OpenVINO runs one at a time anyway.
            request = compiled.create_infer_request()
        except RuntimeError as error:
            raise BackendError(
                f"openvino cannot load {model}: {_last_line(error)}. Fix: build the bundle again with fer-edge build"
            ) from error
        self._request = Guard(request, "session", BackendError, remedy="open another")

    def run(self, batch: np.ndarray) -> Mapping[str, np.ndarray]:
        rows = check_batch(batch)
        with self._request as request, _ACTIVITY:
            try:
                return run_in_parts(partial(self._run, request), rows, self.largest_batch)
            except RuntimeError as error:
                raise BackendError(
                    f"openvino failed on a batch {batch.shape}: {_last_line(error)}. "
                    "Fix: give a batch of the model's input shape, or choose another backend (--backend)"
                ) from error

    def _run(self, request: Any, rows: np.ndarray) -> Mapping[str, np.ndarray]:
        request.infer([rows], share_inputs=True)
        return {name: request.get_output_tensor(i).data.copy() for i, name in enumerate(self._outputs)}

    def close(self) -> None:
        self._request.close()


class OpenVinoBackend(Backend):
    """OpenVINO, CPU device."""

    name = "openvino"
    dialect = "cpu"
    int8_configs: Sequence[Int8Config] = (DEFAULT_INT8, FLOAT_INT8)
    int8_dialects: Sequence[str] = ("cpu",)
    compiles_for_batch = True

    def available(self) -> Availability:
        if importlib.util.find_spec("openvino") is None:
            return Availability(False, reason="openvino is not installed", fix=install_command("openvino"))
        return Availability(True, importlib.metadata.version("openvino"))

    def is_ready(self, model: Path | ModelFile, options: SessionOptions) -> bool:
        return True

    def open(self, model: Path | ModelFile, options: SessionOptions) -> OpenVinoSession:
        options = with_exact_int8(self, model, options)
        # Includes imports and locks: a process that is forked meanwhile inherits them half-done.
        with _ACTIVITY:
            return OpenVinoSession(model, options)


def _import_openvino() -> Any:
    try:
        with _IMPORT, without_openvino_telemetry():
            import openvino
    except ImportError as error:
        raise BackendError(f"openvino is not installed. Fix: {install_command('openvino')}") from error
    return openvino


def _core() -> Any:
    """Return the only core of this process, which is never freed.

    On processors with AMX, each core installs a signal stack for the thread that creates it, and restores that of the
    previous core when it is freed, even if that stack is freed already: then the next Ctrl-C would crash. A forked
    process needs its own core, because the threads of its parent's core do not exist there.
    """
    openvino = _import_openvino()
    with _IMPORT:
        if os.getpid() not in _cores:
            _cores[os.getpid()] = openvino.Core()
        return _cores[os.getpid()]


def _read(core: Any, model: Path | ModelFile) -> Any:
    try:
        with nullcontext(model.content) if isinstance(model, ModelFile) else text_path(model) as source:
            return core.read_model(source)
    except RuntimeError as error:
        if "No conversion rule" not in str(error):
            raise
    # OpenVINO 2026.4 does not expand functions of a model, such as our attention.
    import onnx
    import onnx.inliner

    loaded = onnx.load_model_from_string(model.content) if isinstance(model, ModelFile) else onnx.load(model)
    inlined = onnx.inliner.inline_local_functions(loaded)
    return core.read_model(inlined.SerializeToString())


def _take_out_idle_rounding(network: Any) -> None:
    """Remove Q/DQ in front of consumers that run faster without.

    ONNX Runtime needs it, since it has no integer convolution with float output. OpenVINO has one: without this Q/DQ,
    EfficientNet INT8 takes 3.8 ms instead of 4.7, and 24.6 ms instead of 35.8 for batches of 8, on two cores.
    """
    for node in network.get_ordered_ops():
        source, readers = _before_rounding(node.output(0)), node.output(0).get_target_inputs()
        if (
            source is not None
            and {reader.get_node().get_type_name() for reader in readers} in _GAIN_UNROUNDED
        ):
            for reader in readers:
                reader.replace_source_output(source)


def _before_rounding(value: Any) -> Any:
    """Return the input of the Q/DQ that yields ``value``, ``None`` if there is none."""
    for expected in ("Multiply", "Subtract", "Convert", "Convert", "FakeQuantize"):
        node = value.get_node()
        if node.get_type_name() != expected:
            return None
        value = node.input_value(0)
    return value


def _fix_batch(network: Any, size: int) -> None:
    shapes = {entry: entry.partial_shape for entry in network.inputs}
    for shape in shapes.values():
        shape[0] = size
    network.reshape(shapes)


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__

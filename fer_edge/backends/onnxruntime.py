"""ONNX Runtime: the default on the CPU, always installed; on an NVIDIA GPU with the package onnxruntime-gpu."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime

from fer_edge._utils.files import text_path
from fer_edge._utils.guard import Guard
from fer_edge._utils.onnx_files import input_of, precision_of, read_graph
from fer_edge.backends.base import (
    DEFAULT_INT8,
    NO_GPU,
    Backend,
    Int8Config,
    SessionOptions,
    check_batch,
    run_in_parts,
)
from fer_edge.backends.int8_probe import with_exact_int8
from fer_edge.bundle import ModelFile
from fer_edge.cuda.gpus import require_gpu
from fer_edge.engines.build.options import EngineOptions
from fer_edge.errors import BackendError, EngineError
from fer_edge.system.availability import Availability
from fer_edge.system.shell import pip_command

if TYPE_CHECKING:
    import onnx

_LOG = logging.getLogger(__name__)
_ERRORS_ONLY = 3
_CPU = "CPUExecutionProvider"
_CUDA = "CUDAExecutionProvider"
_TENSORRT = "TensorrtExecutionProvider"
_INSTALL_GPU = (
    f"{pip_command('uninstall', 'onnxruntime')}, then {pip_command('install', 'onnxruntime-gpu')} "
    "(on a Jetson, NVIDIA's wheel for its JetPack)"
)
#: On x86 without VNNI the default configuration adds two products in 16 bits, which saturates.
EXACT_INT8 = Int8Config(
    {"session.x64quantprecision": "1"}, "products are accumulated in 32 bits, which takes 5 to 11 % longer"
)
#: By default cuBLAS and cuDNN compute FP32 in TF32 (10-bit mantissa).
CUDA_OPTIONS: Mapping[str, str] = {"use_tf32": "0"}
#: Part of the error of the TensorRT provider for a partitioned graph, whose subgraphs have dynamic batches too.
_LACKS_PROFILES = "provide all the dynamic shape inputs with associated profiles"
_USE_CUDA = "; TensorRT supports only parts of this network. Fix: use --backend onnxruntime-cuda"
_TF32_OVERRIDE = "NVIDIA_TF32_OVERRIDE"
_REBUILD = "Fix: build the bundle again with fer-edge build, or choose another backend (--backend)"


class OnnxRuntimeSession:
    """One ONNX file in ONNX Runtime.

    Parameters
    ----------
    model : Path or ModelFile
        The file, or its bytes.
    options : SessionOptions
        CPU threads and session entries.
    providers : mapping
        Execution provider → its options; each operator runs on the first provider that supports it.
    name : str
        Name of the backend, for messages.
    max_batch : int or None
        Larger batches are split; ``None`` sets no limit.
    """

    def __init__(
        self,
        model: Path | ModelFile,
        options: SessionOptions,
        providers: Mapping[str, Mapping[str, str]] = MappingProxyType({_CPU: {}}),
        name: str = "onnxruntime",
        max_batch: int | None = None,
    ) -> None:
        self._name, self.largest_batch = name, max_batch
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = _ERRORS_ONLY
        # By default its threads spin for some milliseconds after each run and slow down other work on the same
        # cores: an OpenVINO classifier behind this detector took 2 to 4 times as long.
        settings.add_session_config_entry("session.force_spinning_stop", "1")
        for entry, value in (options.int8_config or DEFAULT_INT8).entries.items():
            settings.add_session_config_entry(entry, value)
        if options.threads is not None:
            settings.intra_op_num_threads = options.threads
        if _CPU not in providers:
            # The default runs unsupported operators on the CPU, and the whole network if a provider fails to start.
            settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        try:
            with nullcontext(model.content) if isinstance(model, ModelFile) else text_path(model) as source:
                session = onnxruntime.InferenceSession(
                    source,
                    settings,
                    providers=[(provider, dict(given)) for provider, given in providers.items()],
                    enable_fallback=0,  # the default prints the error and starts other providers
                )
        except Exception as error:  # its exceptions have no common public base class
            hint = _USE_CUDA if _LACKS_PROFILES in str(error) else f". {_REBUILD}"
            raise BackendError(f"{name} cannot load {model}: {_first_line(error)}{hint}") from error
        session.disable_fallback()
        found = session.get_providers()
        if found[: len(providers)] != list(providers):
            raise BackendError(
                f"{name} cannot load {model}: expected the providers {', '.join(providers)}, found {', '.join(found)}. Fix: run fer-edge doctor"
            )
        inputs = session.get_inputs()
        if len(inputs) != 1:
            raise BackendError(
                f"{name} cannot load {model}: expected 1 input, found {len(inputs)}. {_REBUILD}"
            )
        self._input = inputs[0].name
        self._outputs = [output.name for output in session.get_outputs()]
        # InferenceSession.run is thread-safe.
        self._session = Guard(session, "session", BackendError, remedy="open another", parallel=True)

    def run(self, batch: np.ndarray) -> Mapping[str, np.ndarray]:
        rows = check_batch(batch)
        with self._session as session:
            try:
                return run_in_parts(partial(self._run, session), rows, self.largest_batch)
            except Exception as error:
                raise BackendError(
                    f"{self._name} failed on a batch {batch.shape}: {_first_line(error)}. "
                    "Fix: give a batch of the model's input shape, or choose another backend (--backend)"
                ) from error

    def _run(self, session: onnxruntime.InferenceSession, rows: np.ndarray) -> Mapping[str, np.ndarray]:
        return dict(zip(self._outputs, session.run(self._outputs, {self._input: rows}), strict=True))

    def close(self) -> None:
        self._session.close()


class OnnxRuntimeBackend(Backend):
    """ONNX Runtime, CPU execution provider."""

    name = "onnxruntime"
    dialect = "cpu"
    int8_configs: Sequence[Int8Config] = (DEFAULT_INT8, EXACT_INT8)
    int8_dialects: Sequence[str] = ("cpu", "tensorrt")  # tensorrt for comparisons during a build

    def available(self) -> Availability:
        return Availability(True, onnxruntime.__version__)

    def is_ready(self, model: Path | ModelFile, options: SessionOptions) -> bool:
        return True

    def open(self, model: Path | ModelFile, options: SessionOptions) -> OnnxRuntimeSession:
        return OnnxRuntimeSession(model, with_exact_int8(self, model, options))


class OnnxRuntimeGpuBackend(Backend):
    """ONNX Runtime on an NVIDIA GPU, never on the CPU.

    The CUDA provider computes true FP32. The TensorRT provider has no option to disable TF32, only the environment
    variable ``NVIDIA_TF32_OVERRIDE=0`` for the whole process; and in FP16 it may override the types of the file. A
    warning reports either. The provider compiles each file when it is opened, once for all batch sizes. ONNX Runtime's
    engine cache is not used, because it is not invalidated when the model or a version changes.
    The backend ``tensorrt`` has none of these limitations.

    Parameters
    ----------
    name : str
        Name of the backend.
    providers : sequence of str
        Execution providers, the preferred one first.
    """

    dialect = "tensorrt"
    fixed_shapes = True
    on_gpu = True

    def __init__(self, name: str, providers: Sequence[str]) -> None:
        self.name, self._providers = name, tuple(providers)
        self.compiles_for_batch = _TENSORRT in self._providers

    @property
    def computes_tf32(self) -> bool:
        """True if FP32 is computed in TF32 (10-bit mantissa)."""
        return _TENSORRT in self._providers and os.environ.get(_TF32_OVERRIDE) != "0"

    def available(self) -> Availability:
        try:
            require_gpu()
        except EngineError:
            return Availability(False, reason=NO_GPU, fix="check the driver with nvidia-smi")
        listed = onnxruntime.get_available_providers()
        missing = [provider for provider in self._providers if provider not in listed]
        if missing:
            return Availability(False, reason=f"this ONNX Runtime lacks {missing[0]}", fix=_INSTALL_GPU)
        return Availability(True, onnxruntime.__version__)

    def is_ready(self, model: Path | ModelFile, options: SessionOptions) -> bool:
        return _TENSORRT not in self._providers

    def open(self, model: Path | ModelFile, options: SessionOptions) -> OnnxRuntimeSession:
        state = self.available()
        if not state.ok:
            raise BackendError(f"backend {self.name} is not available: {state.reason}. Fix: {state.fix}")
        options = with_exact_int8(self, model, options)
        providers: dict[str, Mapping[str, str]] = dict.fromkeys(self._providers, CUDA_OPTIONS)
        max_batch = None
        if _TENSORRT in providers:
            try:
                graph = read_graph(model.content if isinstance(model, ModelFile) else model)
                precision = options.precision or precision_of(graph)
                providers[_TENSORRT], max_batch = make_tensorrt_options(graph, precision, options.max_batch)
            except EngineError as error:
                raise BackendError(f"{self.name} cannot load {model}: {error}") from error
            _warn_of_tensorrt(Path(str(model)).name, precision)
        return OnnxRuntimeSession(model, options, providers, self.name, max_batch)


def make_tensorrt_options(
    graph: onnx.GraphProto, precision: str, max_batch: int | None = None
) -> tuple[dict[str, str], int]:
    """Return the options of the TensorRT provider and the largest batch of its profile.

    Without a profile the provider recompiles for each batch outside of the sizes seen so far. TensorRT rejects types
    that are not enabled.

    Raises
    ------
    EngineError
        If the graph does not have exactly one input, or has dynamic dimensions other than the batch.
    """
    name, (rows, *sizes) = input_of(graph)
    options = {} if precision == "fp32" else {f"trt_{precision}_enable": "1"}
    if rows is not None:
        return options, rows
    largest = max_batch or EngineOptions.max_batch
    batches = {"min": EngineOptions.min_batch, "opt": min(EngineOptions.opt_batch, largest), "max": largest}
    for end, batch in batches.items():
        options[f"trt_profile_{end}_shapes"] = f"{name}:{'x'.join(map(str, (batch, *sizes)))}"
    return options, largest


def _warn_of_tensorrt(model: str, precision: str) -> None:
    _LOG.warning("compiling %s for this device, which may take minutes and is repeated at each start", model)
    if precision == "fp16":
        _LOG.warning(
            "layers of %s in FP32 may be computed in FP16; the backend tensorrt keeps them in FP32", model
        )
    elif os.environ.get(_TF32_OVERRIDE) != "0":
        _LOG.warning(
            "FP32 in %s is computed in TF32 (10-bit mantissa); set %s=0 or use the backend tensorrt for true FP32",
            model,
            _TF32_OVERRIDE,
        )


def make_gpu_backends() -> tuple[OnnxRuntimeGpuBackend, ...]:
    """Return the backends of NVIDIA's providers; CUDA runs the operators that TensorRT does not support."""
    return (
        OnnxRuntimeGpuBackend("onnxruntime-tensorrt", (_TENSORRT, _CUDA)),
        OnnxRuntimeGpuBackend("onnxruntime-cuda", (_CUDA,)),
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:300]

"""ONNX Runtime: on the CPU the embedded default, always installed; on an NVIDIA GPU where its package can do so."""

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

if TYPE_CHECKING:
    import onnx

_LOG = logging.getLogger(__name__)
_ERRORS_ONLY = 3
_CPU = "CPUExecutionProvider"
_CUDA = "CUDAExecutionProvider"
_TENSORRT = "TensorrtExecutionProvider"
_INSTALL_GPU = "pip uninstall onnxruntime, then pip install onnxruntime-gpu (on a Jetson: NVIDIA's wheel for its JetPack)"
#: On x86 without VNNI the default adds two products in 16 bits, which saturates.
EXACT_INT8 = Int8Config(
    {"session.x64quantprecision": "1"}, "products are added in 32 bits, which takes 5 to 11 % longer"
)
#: FP32 is FP32: unless told, cuBLAS and cuDNN keep ten bits of each factor (TF32).
CUDA_OPTIONS: Mapping[str, str] = {"use_tf32": "0"}
#: What the TensorRT provider says where it takes a graph in parts: the batch of their inputs is open too.
_LACKS_PROFILES = "provide all the dynamic shape inputs with associated profiles"
_USE_CUDA = "; TensorRT takes this network in parts only: use the backend onnxruntime-cuda"
_TF32_OVERRIDE = "NVIDIA_TF32_OVERRIDE"


class OnnxRuntimeSession:
    """One ONNX file in ONNX Runtime.

    Parameters
    ----------
    model : Path or ModelFile
        The file, or its bytes.
    options : SessionOptions
        Threads and session entries.
    providers : mapping
        ONNX Runtime's execution providers → their options; each operator is computed by the first that can.
    name : str
        The backend's, for messages.
    max_batch : int or None
        Larger batches are run in parts; ``None`` runs each as it comes.
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
        # Its threads would spin for some milliseconds after each run, and halve the speed of whatever computes
        # next on the same cores: a classifier in OpenVINO behind this detector took 2 to 4 times as long.
        settings.add_session_config_entry("session.force_spinning_stop", "1")
        for entry, value in (options.int8_config or DEFAULT_INT8).entries.items():
            settings.add_session_config_entry(entry, value)
        if options.threads is not None:
            settings.intra_op_num_threads = options.threads
        if _CPU not in providers:
            # It would compute on the CPU what they cannot, and all of it where they do not start.
            settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        try:
            with nullcontext(model.content) if isinstance(model, ModelFile) else text_path(model) as source:
                session = onnxruntime.InferenceSession(
                    source,
                    settings,
                    providers=[(provider, dict(given)) for provider, given in providers.items()],
                    enable_fallback=0,  # else it prints the error and starts other providers
                )
        except Exception as error:  # its exception classes share no public base
            hint = _USE_CUDA if _LACKS_PROFILES in str(error) else ""
            raise BackendError(f"{name} cannot load {model}: {_first_line(error)}{hint}") from error
        session.disable_fallback()
        found = session.get_providers()
        if found[: len(providers)] != list(providers):
            raise BackendError(
                f"{name} cannot load {model}: ONNX Runtime started {', '.join(found)} instead of {', '.join(providers)}; run: fer-edge doctor"
            )
        inputs = session.get_inputs()
        if len(inputs) != 1:
            raise BackendError(f"{name} cannot load {model}: it has {len(inputs)} inputs, not one")
        self._input = inputs[0].name
        self._outputs = [output.name for output in session.get_outputs()]
        # ONNX Runtime runs the calls of several threads at the same time.
        self._session = Guard(session, "session", BackendError, remedy="open another", parallel=True)

    def run(self, batch: np.ndarray) -> Mapping[str, np.ndarray]:
        """See :class:`fer_edge.backends.base.Session`."""
        rows = check_batch(batch)
        with self._session as session:
            try:
                return run_in_parts(partial(self._run, session), rows, self.largest_batch)
            except Exception as error:
                raise BackendError(f"{self._name} failed on {batch.shape}: {_first_line(error)}") from error

    def _run(self, session: onnxruntime.InferenceSession, rows: np.ndarray) -> Mapping[str, np.ndarray]:
        return dict(zip(self._outputs, session.run(self._outputs, {self._input: rows}), strict=True))

    def close(self) -> None:
        """See :class:`fer_edge.backends.base.Session`."""
        self._session.close()


class OnnxRuntimeBackend(Backend):
    """ONNX Runtime, CPU execution provider."""

    name = "onnxruntime"
    dialect = "cpu"
    int8_configs: Sequence[Int8Config] = (DEFAULT_INT8, EXACT_INT8)
    int8_dialects: Sequence[str] = ("cpu", "tensorrt")  # the latter for comparisons at build

    def available(self) -> Availability:
        """See :class:`fer_edge.backends.base.Backend`."""
        return Availability(True, onnxruntime.__version__)

    def is_ready(self, model: Path | ModelFile, options: SessionOptions) -> bool:
        """See :class:`fer_edge.backends.base.Backend`."""
        return True

    def open(self, model: Path | ModelFile, options: SessionOptions) -> OnnxRuntimeSession:
        """See :class:`fer_edge.backends.base.Backend`."""
        return OnnxRuntimeSession(model, with_exact_int8(self, model, options))


class OnnxRuntimeGpuBackend(Backend):
    """ONNX Runtime on an NVIDIA GPU, never on the CPU.

    The CUDA provider computes FP32 as such. The TensorRT provider cannot be told to: it has no option against TF32,
    only the variable ``NVIDIA_TF32_OVERRIDE=0`` of the whole process; and in FP16 it need not keep to the types of
    the file. A warning says which of these holds. It compiles each file that is opened, once for all batch sizes:
    engines that ONNX Runtime keeps are to be deleted by hand when the model or a version changes, so none are kept.
    The backend ``tensorrt`` does without all of this.

    Parameters
    ----------
    name : str
        Of the backend.
    providers : sequence of str
        ONNX Runtime's execution providers, the first preferred.
    """

    dialect = "tensorrt"
    fixed_shapes = True
    on_gpu = True

    def __init__(self, name: str, providers: Sequence[str]) -> None:
        self.name, self._providers = name, tuple(providers)
        self.compiles_for_batch = _TENSORRT in self._providers

    @property
    def computes_tf32(self) -> bool:
        """Whether FP32 is computed with ten bits of each factor."""
        return _TENSORRT in self._providers and os.environ.get(_TF32_OVERRIDE) != "0"

    def available(self) -> Availability:
        """See :class:`fer_edge.backends.base.Backend`."""
        try:
            require_gpu()
        except EngineError:
            return Availability(False, reason=NO_GPU, fix="nvidia-smi")
        listed = onnxruntime.get_available_providers()
        missing = [provider for provider in self._providers if provider not in listed]
        if missing:
            return Availability(False, reason=f"this ONNX Runtime has no {missing[0]}", fix=_INSTALL_GPU)
        return Availability(True, onnxruntime.__version__)

    def is_ready(self, model: Path | ModelFile, options: SessionOptions) -> bool:
        """See :class:`fer_edge.backends.base.Backend`."""
        return _TENSORRT not in self._providers

    def open(self, model: Path | ModelFile, options: SessionOptions) -> OnnxRuntimeSession:
        """See :class:`fer_edge.backends.base.Backend`."""
        state = self.available()
        if not state.ok:
            raise BackendError(f"backend {self.name} is not available: {state.reason}; run: {state.fix}")
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
    """Return ONNX Runtime's options for its TensorRT provider, and the largest batch that it will take.

    Without a profile it would compile again for each batch that is larger or smaller than all before. TensorRT
    refuses types that are not enabled.

    Raises
    ------
    EngineError
        If the graph has not one input, or one of open sizes beside the batch.
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
    _LOG.warning("compiling %s for this device, as at each start; it may take minutes", model)
    if precision == "fp16":
        _LOG.warning(
            "what %s keeps in FP32 may be computed in FP16; with the backend tensorrt it is not", model
        )
    elif os.environ.get(_TF32_OVERRIDE) != "0":
        _LOG.warning(
            "FP32 in %s is computed in TF32, of ten bits; with %s=0, or the backend tensorrt, it is not",
            model,
            _TF32_OVERRIDE,
        )


def make_gpu_backends() -> tuple[OnnxRuntimeGpuBackend, ...]:
    """Return the backends for NVIDIA's providers; what TensorRT leaves over of a network, CUDA computes."""
    return (
        OnnxRuntimeGpuBackend("onnxruntime-tensorrt", (_TENSORRT, _CUDA)),
        OnnxRuntimeGpuBackend("onnxruntime-cuda", (_CUDA,)),
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:300]

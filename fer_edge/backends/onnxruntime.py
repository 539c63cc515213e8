"""ONNX Runtime: on the CPU the embedded default, always installed; on an NVIDIA GPU where its package can do so."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

# Since 1.29 ONNX Runtime's Linux packages report use and hashes of models over the network, and keep a
# device number in the home folder. A robot or car must not: this opts out before the library starts,
# unless the user has set the variable.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime

from fer_edge.backends.base import NO_GPU, Availability, SessionOptions, check_batch
from fer_edge.engines.devices import require_gpu
from fer_edge.errors import BackendError, EngineError

_ERRORS_ONLY = 3
_CPU = "CPUExecutionProvider"
_CUDA = "CUDAExecutionProvider"
_TENSORRT = "TensorrtExecutionProvider"
_INSTALL_GPU = "pip uninstall onnxruntime, then pip install onnxruntime-gpu (on a Jetson: NVIDIA's wheel for its JetPack)"


class OnnxRuntimeSession:
    """One ONNX file in ONNX Runtime.

    ``providers`` compute it, the first that can each operator; ``name`` is the backend's, for messages.
    """

    def __init__(
        self,
        model: Path,
        options: SessionOptions,
        providers: Sequence[str] = (_CPU,),
        name: str = "onnxruntime",
    ) -> None:
        self._name = name
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = _ERRORS_ONLY
        # Its threads would spin for some milliseconds after each run, and halve the speed of whatever computes
        # next on the same cores: a classifier in OpenVINO behind this detector took 2 to 4 times as long.
        settings.add_session_config_entry("session.force_spinning_stop", "1")
        if options.threads is not None:
            settings.intra_op_num_threads = options.threads
        if _CPU not in providers:
            # It would compute on the CPU what they cannot, and all of it where they do not start.
            settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        try:
            self._session = onnxruntime.InferenceSession(str(model), settings, providers=list(providers))
        except Exception as error:  # its exception classes share no public base
            raise BackendError(f"{name} cannot load {model}: {_first_line(error)}") from error
        self._session.disable_fallback()
        found = self._session.get_providers()
        if found[: len(providers)] != list(providers):
            raise BackendError(
                f"{name} cannot load {model}: ONNX Runtime started {', '.join(found)} instead of {', '.join(providers)}; run: fer-edge doctor"
            )
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            raise BackendError(f"{name} cannot load {model}: it has {len(inputs)} inputs, not one")
        self._input = inputs[0].name
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, batch: np.ndarray) -> Mapping[str, np.ndarray]:
        """See :class:`fer_edge.backends.base.Session`."""
        if self._session is None:
            raise BackendError("this session is closed: open another")
        try:
            values = self._session.run(self._outputs, {self._input: check_batch(batch)})
        except BackendError:
            raise
        except Exception as error:
            raise BackendError(f"{self._name} failed on {batch.shape}: {_first_line(error)}") from error
        return dict(zip(self._outputs, values, strict=True))

    def close(self) -> None:
        """See :class:`fer_edge.backends.base.Session`."""
        self._session = None


class OnnxRuntimeBackend:
    """ONNX Runtime, CPU execution provider."""

    name = "onnxruntime"
    dialect = "cpu"

    def available(self) -> Availability:
        """See :class:`fer_edge.backends.base.Backend`."""
        return Availability(True, onnxruntime.__version__)

    def open(self, model: Path, options: SessionOptions) -> OnnxRuntimeSession:
        """See :class:`fer_edge.backends.base.Backend`."""
        return OnnxRuntimeSession(model, options)


class OnnxRuntimeGpuBackend:
    """ONNX Runtime on an NVIDIA GPU, never on the CPU.

    Parameters
    ----------
    name : str
        Of the backend.
    providers : sequence of str
        ONNX Runtime's execution providers, the first preferred.
    """

    dialect = "tensorrt"

    def __init__(self, name: str, providers: Sequence[str]) -> None:
        self.name, self._providers = name, tuple(providers)

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

    def open(self, model: Path, options: SessionOptions) -> OnnxRuntimeSession:
        """See :class:`fer_edge.backends.base.Backend`."""
        return OnnxRuntimeSession(model, options, self._providers, self.name)


def make_gpu_backends() -> tuple[OnnxRuntimeGpuBackend, ...]:
    """Return the backends for NVIDIA's providers; what TensorRT cannot compute, CUDA does."""
    return (
        OnnxRuntimeGpuBackend("onnxruntime-tensorrt", (_TENSORRT, _CUDA)),
        OnnxRuntimeGpuBackend("onnxruntime-cuda", (_CUDA,)),
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:300]

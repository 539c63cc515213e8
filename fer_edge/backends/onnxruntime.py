"""ONNX Runtime on the CPU: the embedded default, always installed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

# Since 1.29 ONNX Runtime's Linux packages report use and hashes of models over the network, and keep a
# device number in the home folder. A robot or car must not: this opts out before the library starts,
# unless the user has set the variable.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime

from fer_edge.backends.base import Availability, SessionOptions, check_batch
from fer_edge.errors import BackendError

_ERRORS_ONLY = 3


class OnnxRuntimeSession:
    """One ONNX file in ONNX Runtime."""

    def __init__(self, model: Path, options: SessionOptions) -> None:
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = _ERRORS_ONLY
        # Its threads would spin for some milliseconds after each run, and halve the speed of whatever computes
        # next on the same cores: a classifier in OpenVINO behind this detector took 2 to 4 times as long.
        settings.add_session_config_entry("session.force_spinning_stop", "1")
        if options.threads is not None:
            settings.intra_op_num_threads = options.threads
        try:
            self._session = onnxruntime.InferenceSession(
                str(model), settings, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its exception classes share no public base
            raise BackendError(f"onnxruntime cannot load {model}: {_first_line(error)}") from error
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            raise BackendError(f"onnxruntime cannot load {model}: it has {len(inputs)} inputs, not one")
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
            raise BackendError(f"onnxruntime failed on {batch.shape}: {_first_line(error)}") from error
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


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:300]

"""cuda-python as it is without a GPU, and in the place of one that answers."""

from __future__ import annotations

import importlib
import types
from typing import Any

import pytest

from fer_edge.cuda.gpus import require_gpu
from fer_edge.errors import EngineError


def runtime_without_gpu() -> Any:
    """Return the real cuda-python, where there is no GPU."""
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="needs cuda-python")
    try:
        require_gpu()
    except EngineError:
        return runtime
    pytest.skip("this machine has a GPU: tests/gpu covers it")


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

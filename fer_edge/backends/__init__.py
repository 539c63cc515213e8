"""Backends by name, and the choice of one."""

from __future__ import annotations

from collections.abc import Mapping

from fer_edge.backends.base import Availability, Backend, Session, SessionOptions
from fer_edge.backends.onnxruntime import OnnxRuntimeBackend
from fer_edge.backends.openvino import OpenVinoBackend
from fer_edge.bundle import Bundle
from fer_edge.errors import BackendError, lookup

#: In the order in which ``auto`` tries them.
BACKENDS: Mapping[str, Backend] = {
    backend.name: backend for backend in (OpenVinoBackend(), OnnxRuntimeBackend())
}

__all__ = [
    "BACKENDS",
    "Availability",
    "Backend",
    "Session",
    "SessionOptions",
    "choose_backend",
    "load_session",
]


def choose_backend(name: str = "auto") -> Backend:
    """Return backend ``name``; ``auto`` takes the first that is available.

    Raises
    ------
    UsageError
        If there is no such backend.
    BackendError
        If it is not available here; the message names the command that fixes it.
    """
    if name == "auto":
        return next(backend for backend in BACKENDS.values() if backend.available().ok)
    backend = lookup(BACKENDS, name, "backend")
    state = backend.available()
    if not state.ok:
        raise BackendError(f"backend {name} is not available: {state.reason}; run: {state.fix}")
    return backend


def load_session(
    bundle: Bundle,
    backend: Backend,
    precision: str | None = None,
    options: SessionOptions | None = None,
) -> Session:
    """Load a bundle on a backend, at the bundle's own precision unless another is asked for."""
    path = bundle.model_path(precision or bundle.manifest.precision, backend.dialect)
    return backend.open(path, options or SessionOptions())

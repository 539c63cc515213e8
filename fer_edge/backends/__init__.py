"""Backends by name, and the choice of one."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from fer_edge.backends.base import Backend, CropSession, Session, SessionOptions
from fer_edge.backends.onnx_check.check import check_contract, check_model
from fer_edge.backends.onnxruntime import OnnxRuntimeBackend, make_gpu_backends
from fer_edge.backends.openvino import OpenVinoBackend
from fer_edge.backends.self_test import OFF, SelfTestReport, run_self_test
from fer_edge.backends.tensorrt import TensorRtBackend
from fer_edge.bundle import Bundle
from fer_edge.errors import BackendError, BundleError, UsageError, lookup
from fer_edge.system.availability import Availability


def _by_name(*backends: Backend) -> dict[str, Backend]:
    return {backend.name: backend for backend in backends}


#: In the order in which ``auto`` tries them; ONNX Runtime on the CPU always is, so those behind it are for who names them.
#: Add your own: ``BACKENDS[backend.name] = backend``.
BACKENDS: dict[str, Backend] = _by_name(
    TensorRtBackend("tensorrt"),
    TensorRtBackend("tensorrt-rtx"),
    OpenVinoBackend(),
    OnnxRuntimeBackend(),
    *make_gpu_backends(),
)

__all__ = [
    "BACKENDS",
    "Availability",
    "Backend",
    "CropSession",
    "SelfTestReport",
    "Session",
    "SessionOptions",
    "TestedSession",
    "available_backends",
    "choose_backend",
    "load_session",
    "load_tested_session",
]


def available_backends(dialect: str | None = None) -> list[str]:
    """Return the names of those that can be used here, of one Q/DQ dialect if asked for."""
    wanted = (name for name, backend in BACKENDS.items() if dialect in (None, backend.dialect))
    return [name for name in wanted if BACKENDS[name].available().ok]


def choose_backend(name: str = "auto", bundle: Bundle | None = None, precision: str | None = None) -> Backend:
    """Return backend ``name``; ``auto`` takes the first that is available.

    With a bundle, ``auto`` takes the first that is available and whose model the bundle holds, at its own
    precision unless another is asked for.

    Raises
    ------
    UsageError
        If there is no such backend.
    BackendError
        If it is not available here; the message names the command that fixes it.
    """
    if name == "auto":
        fitting = (b for b in BACKENDS.values() if b.available().ok and _fits(b, bundle, precision))
        return next(fitting, BACKENDS["onnxruntime"])  # whose loading says what the bundle lacks
    backend = lookup(BACKENDS, name, "backend")
    state = backend.available()
    if not state.ok:
        raise BackendError(f"backend {name} is not available: {state.reason}; run: {state.fix}")
    return backend


@dataclass(frozen=True)
class TestedSession:
    """A session, and the outcome of its self-test."""

    session: Session
    self_test: SelfTestReport


def load_session(
    bundle: Bundle,
    backend: Backend,
    precision: str | None = None,
    options: SessionOptions | None = None,
) -> Session:
    """Return the session of :func:`load_tested_session`."""
    return load_tested_session(bundle, backend, precision, options).session


def load_tested_session(
    bundle: Bundle,
    backend: Backend,
    precision: str | None = None,
    options: SessionOptions | None = None,
    self_test: bool = True,
    only_ready: bool = False,
) -> TestedSession:
    """Load a bundle on a backend, at the bundle's own precision unless another is asked for, and test it.

    Parameters
    ----------
    self_test : bool
        Compare the session with the bundle's reference outputs. Without it a backend that computes something else
        answers as if nothing were wrong.
    only_ready : bool
        Refuse a model that the backend would have to compile for minutes.

    Raises
    ------
    UsageError
        If a DLA is asked of a backend that has none.
    SelfTestError
        If the session computes something else than the references of the bundle.
    FerEdgeError
        If the bundle lacks the model or disagrees with it, or see :meth:`fer_edge.backends.base.Backend.open`.
    """
    chosen = precision or bundle.manifest.precision
    settings = dataclasses.replace(options or SessionOptions(), precision=chosen)
    dla = settings.dla_core is not None or settings.gpu_fallback
    if dla and not backend.supports_dla:
        raise UsageError(
            f"a DLA needs the backend tensorrt, found {backend.name}: choose that (--backend tensorrt), or leave "
            "dla_core and gpu_fallback (--dla-core, --gpu-fallback) out"
        )
    model = bundle.read_model(chosen, backend.dialect)
    check_contract(check_model(model.content, str(model)), bundle.spec, str(model))
    if only_ready and not backend.is_ready(model, settings):
        raise BackendError(
            f"{backend.name} would have to compile {model} for minutes; to do so once, run: "
            f"fer-edge tune {bundle.path} --backend {backend.name} --precision {chosen}, then fer-edge tune --again"
        )
    session = backend.open(model, settings)
    if not self_test:
        return TestedSession(session, OFF)
    try:
        report = run_self_test(bundle, backend, session, chosen, settings, BACKENDS["onnxruntime"])
    except BaseException:
        session.close()
        raise
    return TestedSession(session, report)


def _fits(backend: Backend, bundle: Bundle | None, precision: str | None) -> bool:
    if bundle is None:
        return True
    try:
        bundle.model_path(precision or bundle.manifest.precision, backend.dialect)
    except BundleError:
        return False
    return True

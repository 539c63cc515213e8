"""Registry of the backends, and the choice of one."""

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


#: Tried by ``auto`` in this order. CPU ONNX Runtime is always available, so later entries are used only when named.
#: Register another: ``BACKENDS[backend.name] = backend``.
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
    """Return the names of the backends available on this machine, of one Q/DQ dialect if given."""
    wanted = (name for name, backend in BACKENDS.items() if dialect in (None, backend.dialect))
    return [name for name in wanted if BACKENDS[name].available().ok]


def choose_backend(name: str = "auto", bundle: Bundle | None = None, precision: str | None = None) -> Backend:
    """Return backend ``name``; ``auto`` takes the first that is available.

    With a bundle, ``auto`` takes the first available backend whose model the bundle holds, at the bundle's default
    precision unless ``precision`` is given.

    Raises
    ------
    UsageError
        If there is no such backend.
    BackendError
        If it is not available on this machine; the message names the command that fixes it.
    """
    if name == "auto":
        fitting = (b for b in BACKENDS.values() if b.available().ok and _fits(b, bundle, precision))
        return next(fitting, BACKENDS["onnxruntime"])  # loading it reports the missing model
    backend = lookup(BACKENDS, name, "backend")
    state = backend.available()
    if not state.ok:
        raise BackendError(f"backend {name} is not available: {state.reason}. Fix: {state.fix}")
    return backend


@dataclass(frozen=True)
class TestedSession:
    """A session and the outcome of its self-test."""

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
    """Load a bundle on a backend, at the bundle's default precision unless ``precision`` is given, and self-test it.

    Parameters
    ----------
    self_test : bool
        Compare the session with the reference outputs of the bundle. Without it, wrong outputs of a backend go
        unnoticed.
    only_ready : bool
        Refuse a model whose compilation takes minutes.

    Raises
    ------
    UsageError
        If the options name a DLA and the backend supports none.
    SelfTestError
        If the outputs of the session differ from the references of the bundle.
    FerEdgeError
        If the bundle lacks the model, the model does not fit the spec of the bundle, or
        :meth:`fer_edge.backends.base.Backend.open` fails.
    """
    chosen = precision or bundle.manifest.precision
    settings = dataclasses.replace(options or SessionOptions(), precision=chosen)
    dla = settings.dla_core is not None or settings.gpu_fallback
    if dla and not backend.supports_dla:
        raise UsageError(
            f"a DLA needs the backend tensorrt, found {backend.name}. Fix: use --backend tensorrt, or drop "
            "dla_core and gpu_fallback (--dla-core, --gpu-fallback)"
        )
    model = bundle.read_model(chosen, backend.dialect)
    check_contract(check_model(model.content, str(model)), bundle.spec, str(model))
    if only_ready and not backend.is_ready(model, settings):
        raise BackendError(
            f"{backend.name} has no compiled engine of {model}, and compiling takes minutes. Fix: run fer-edge tune "
            f"{bundle.path} --backend {backend.name} --precision {chosen}, then fer-edge tune --again"
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

"""Candidates of backend, precision, threads and batch of a runtime, and the choice."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

from fer_edge.backends import BACKENDS, Backend, SessionOptions, choose_backend
from fer_edge.bundle import PRECISIONS, Bundle
from fer_edge.errors import BundleError, UsageError
from fer_edge.runtime.options import RuntimeOptions
from fer_edge.system.processors import Processors

#: Faces per batch without a measurement.
PLAIN_BATCH = 64
#: Environment variable that disables the measurement for all runtimes of a process.
SWITCH = "FER_EDGE_TUNE"


@dataclass(frozen=True)
class Candidate:
    """One configuration to run a network.

    Attributes
    ----------
    backend : str
        A key of :data:`fer_edge.backends.BACKENDS`.
    precision : str
        Precision of the model.
    threads : int or None
        CPU threads; ``None`` leaves the choice to the backend.
    max_batch : int
        Faces per batch.
    """

    backend: str
    precision: str
    threads: int | None = None
    max_batch: int = PLAIN_BATCH

    @property
    def family(self) -> tuple[str, str]:
        """Backend and precision."""
        return self.backend, self.precision

    def session_options(self, asked: SessionOptions | None = None) -> SessionOptions:
        """Return the options of its session, based on the requested ones."""
        # An engine for 64 faces would allocate memory for all of them, so only a batch of 1 is compiled.
        compiled_batch = 1 if self.max_batch == 1 else None
        return replace(asked or SessionOptions(), threads=self.threads, max_batch=compiled_batch)

    def __str__(self) -> str:
        threads = "" if self.threads is None else f", threads {self.threads}"
        batch = "" if self.max_batch == PLAIN_BATCH else f", batch {self.max_batch}"
        return f"{self.precision} on {self.backend}{threads}{batch}"


@dataclass(frozen=True)
class Choice(Candidate):
    """Configuration of a runtime and the reason for it.

    Attributes
    ----------
    by : {"asked", "plain", "measured"}
        ``asked`` if the options fix everything, ``plain`` if nothing was measured, else ``measured``.
    because : str
        Reason for the choice.
    face_ms, plain_face_ms : float or None
        Measured time per face of this and of the plain choice (:mod:`fer_edge.runtime.timing`); ``None`` if not
        measured.
    """

    by: str = "plain"
    because: str = ""
    face_ms: float | None = None
    plain_face_ms: float | None = None

    @property
    def candidate(self) -> Candidate:
        """The configuration without its reason."""
        return Candidate(self.backend, self.precision, self.threads, self.max_batch)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)


def choose_plain(bundle: Bundle, options: RuntimeOptions) -> Candidate:
    """Return the choice without a measurement: the first available backend, at the default precision of the bundle.

    Raises
    ------
    BundleError
        If the bundle holds no model of the precision.
    FerEdgeError
        As :func:`fer_edge.backends.choose_backend`.
    """
    backend = choose_backend(options.backend, bundle, options.session.precision)
    precision = options.session.precision or bundle.manifest.precision
    bundle.model_path(precision, backend.dialect)
    return Candidate(
        backend.name, precision, options.session.threads, options.session.max_batch or PLAIN_BATCH
    )


def list_candidates(bundle: Bundle, options: RuntimeOptions, processors: Processors) -> tuple[Candidate, ...]:
    """Return the candidates: the plain choice, then the first of each backend and precision, then all others.

    Given options are not varied. A bundle offers the precisions that it was built and tested for, those of which it holds
    models; one that was built in FP32 alone never runs in INT8. FP16 is offered only on GPUs, because CPUs compute it as FP32. If the plain choice
    accepts frames in GPU memory, so do all candidates. On a DLA nothing is varied.

    Raises
    ------
    FerEdgeError
        As :func:`choose_plain`.
    """
    plain = choose_plain(bundle, options)
    if options.session.dla_core is not None or options.session.gpu_fallback:
        return (plain,)
    heads: list[Candidate] = []
    others: list[Candidate] = []
    for backend in _list_backends(plain, options):
        for precision in _list_precisions(bundle, options, backend, plain):
            first, *rest = _vary(backend, precision, options, processors)
            heads.append(first)
            others += rest
    return tuple(dict.fromkeys((plain, *heads, *others)))


def switched_off() -> bool:
    """Return whether the environment disables the measurement.

    Raises
    ------
    UsageError
        If the value of the variable is neither 0 nor 1.
    """
    value = os.environ.get(SWITCH, "1")
    if value not in ("0", "1"):
        raise UsageError(f"{SWITCH} must be 0 or 1, found {value!r:.40}. Fix: unset it, or set it to 0")
    return value == "0"


def _list_backends(plain: Candidate, options: RuntimeOptions) -> list[Backend]:
    if options.backend != "auto":
        return [BACKENDS[plain.backend]]
    on_device = BACKENDS[plain.backend].takes_device_frames  # the others reject such frames
    return [
        backend
        for backend in BACKENDS.values()
        if (backend.takes_device_frames or not on_device) and backend.available().ok
    ]


def _list_precisions(
    bundle: Bundle, options: RuntimeOptions, backend: Backend, plain: Candidate
) -> Iterator[str]:
    offered = (options.session.precision,) if options.session.precision else PRECISIONS
    for precision in offered:
        as_fp32 = precision == "fp16" and not backend.on_gpu
        if as_fp32 and (backend.name, precision) != plain.family:
            continue
        try:
            bundle.model_path(precision, backend.dialect)
        except BundleError:
            continue
        yield precision


def _vary(
    backend: Backend, precision: str, options: RuntimeOptions, processors: Processors
) -> Iterator[Candidate]:
    """Yield the candidates of a backend and a precision; the first decides whether the others are tried."""
    threads: list[int | None] = [None]
    if options.session.threads is not None:
        threads = [options.session.threads]
    elif not backend.on_gpu:
        threads = _count_threads(processors)
    batches = [options.session.max_batch or PLAIN_BATCH]
    if options.session.max_batch is None and backend.compiles_for_batch:
        batches.append(1)
    for batch, count in product(batches, threads):
        yield Candidate(backend.name, precision, count, batch)


def _count_threads(processors: Processors) -> list[int | None]:
    """Return thread counts, the most promising first.

    By default backends start one thread per physical core of the machine, which is too many if this process may use
    fewer. For small networks the overhead of many threads exceeds the gain.
    """
    counts = {1, max(1, processors.cores // 2), processors.cores, processors.usable}
    counts = {count for count in counts if count <= processors.usable}
    if processors.limited:
        return [*sorted(counts, reverse=True), None]
    return [None, *sorted(counts - {processors.cores}, reverse=True)]

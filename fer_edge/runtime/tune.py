"""Backend, precision, threads and batch of a runtime, chosen by measurement.

Measured once for a bundle, a machine and what the options leave open, in two seconds or three inferences a candidate,
opening not counted; kept in the cache folder by content. The plain choice, which is made without a measurement, is
left only for a gain above 5 %. Each candidate passes the self-test of the bundle before it is timed. A candidate that
would have to be compiled for minutes is left out, except the plain choice, which runs in any case.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from platform import machine as architecture
from typing import Any

import numpy as np

from fer_edge import __version__
from fer_edge.backends import BACKENDS, Session, load_tested_session
from fer_edge.bundle import Bundle
from fer_edge.errors import FerEdgeError
from fer_edge.runtime.choice import (
    SWITCH,
    Candidate,
    Choice,
    choose_plain,
    list_candidates,
    switched_off,
)
from fer_edge.runtime.choice_cache import ChoiceCache, Tuning
from fer_edge.runtime.measurement import Limits, Measurement
from fer_edge.runtime.options import RuntimeOptions
from fer_edge.runtime.timing import SEVERAL, Timing
from fer_edge.system.machine import LocalMachine, read_driver_version
from fer_edge.system.memory import measure_free_memory
from fer_edge.system.processors import Processors, count_processors
from fer_edge.system.provenance import device_name, processor_features

_LOG = logging.getLogger(__name__)
#: Share of the time by which a choice must beat the plain one.
MIN_GAIN = 0.05
#: From this size of a model on, one session is open at a time.
_LARGE_MODEL_BYTES = 64 << 20
#: Rough memory of an open session: its weights, copied and rearranged, and what a backend needs besides.
_COPIES, _SESSION_BYTES = 4, 32 << 20

#: Takes the candidates, and is called with (done, total); returns what was found of each.
Measure = Callable[[Bundle, Sequence[Candidate], Callable[[int, int], None]], Sequence[Timing]]

_lock = threading.RLock()
_known: dict[Path, Tuning] = {}


def _forget() -> None:
    """A forked process asks again: the lock may be held by a thread that does not live on there."""
    global _lock
    _lock = threading.RLock()
    _known.clear()


os.register_at_fork(after_in_child=_forget)


def choose(bundle: Bundle, options: RuntimeOptions) -> Choice:
    """Return what a runtime computes with: as it was measured, or the plain choice where nothing is to be measured.

    Raises
    ------
    FerEdgeError
        If what the options ask for is unknown or not available.
    """
    plain = choose_plain(bundle, options)
    if options.session.dla_core is not None or options.session.gpu_fallback:
        return _without_measurement(plain, "asked", "a DLA was asked for")
    given = (options.session.threads, options.session.max_batch, options.session.precision)
    if options.backend != "auto" and None not in given:
        return _without_measurement(plain, "asked", "the options leave nothing open")
    if not options.tune:
        return _without_measurement(plain, "plain", "tune=False")
    if switched_off():
        return _without_measurement(plain, "plain", f"{SWITCH}=0")
    if len(list_candidates(bundle, options, count_processors(LocalMachine()))) == 1:
        return _without_measurement(plain, "plain", "there is one candidate")
    return tune(bundle, options).choice


def tune(
    bundle: Bundle,
    options: RuntimeOptions | None = None,
    *,
    again: bool = False,
    measure: Measure | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Tuning:
    """Return what is kept for a bundle and what the options leave open here; measure it where nothing is.

    Parameters
    ----------
    bundle : Bundle
        What is run.
    options : RuntimeOptions, optional
        Its backend and its session's precision, threads and max_batch are not varied where they are given.
    again : bool
        Measure now, whatever is kept.
    measure : callable, optional
        What measures; :func:`measure_candidates` if left out.
    on_progress : callable
        Called with (candidates done, total) while it is measured.

    Raises
    ------
    FerEdgeError
        If what the options ask for is unknown or not available.
    """
    asked = options or RuntimeOptions()
    processors = count_processors(LocalMachine())
    candidates = list_candidates(bundle, asked, processors)
    cache, key = ChoiceCache(), make_key(bundle, asked, processors)
    path = cache.path_of(key)
    with _lock:
        found = None if again else _known.get(path) or cache.read(key, candidates)
        if found is None:
            with cache.locked():
                if not again:  # another process may have measured it; what is wrong was told before
                    found = cache.read(key, candidates, logging.DEBUG)
                if found is None:
                    found = _measure(bundle, candidates, measure or measure_candidates, on_progress)
                    found = dataclasses.replace(found, path=cache.write(key, found))
        _known[path] = dataclasses.replace(found, measured_now=False)
    return found


def measure_candidates(
    bundle: Bundle,
    candidates: Sequence[Candidate],
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    opening_s: float = Limits.opening_s,
) -> Sequence[Timing]:
    """Open, test and time the candidates of a bundle on this machine; ``opening_s`` as in :class:`Limits`."""

    def open_candidate(candidate: Candidate) -> Session:
        return load_tested_session(
            bundle,
            BACKENDS[candidate.backend],
            candidate.precision,
            candidate.session_options(),
            only_ready=candidate != candidates[0],
        ).session

    faces = np.random.default_rng(0).random((SEVERAL, *bundle.spec.input_shape), np.float32)
    limits = Limits(opening_s=opening_s, most_open=_count_open(bundle, candidates))
    return Measurement(candidates, open_candidate, faces, limits, on_candidate=on_progress).run()


def make_choice(timings: Sequence[Timing]) -> Choice:
    """Return the fastest candidate where it beats the plain one, the first, by more than 5 %; else the plain one."""
    plain = timings[0]
    timed = [timing for timing in timings if timing.face_ms is not None]
    if not timed:
        reason = f"no candidate could be timed; of the plain choice: {plain.reason}"
        return _without_measurement(plain.candidate, "measured", reason)
    best = min(timed, key=lambda timing: timing.face_ms or 0.0)
    if plain.face_ms is None:
        reason = f"the plain choice, {plain.candidate}, could not be run: {plain.reason}"
    elif best.face_ms is not None and best.face_ms < (1 - MIN_GAIN) * plain.face_ms:
        gain = 1 - best.face_ms / plain.face_ms
        reason = f"a face takes {100 * gain:.0f} % less time than with the plain choice, {plain.candidate}"
    else:
        best, reason = (
            plain,
            f"no candidate is more than {100 * MIN_GAIN:.0f} % faster than the plain choice",
        )
    fields = dataclasses.asdict(best.candidate)
    return Choice(**fields, by="measured", because=reason, face_ms=best.face_ms, plain_face_ms=plain.face_ms)


def make_key(bundle: Bundle, options: RuntimeOptions, processors: Processors) -> dict[str, Any]:
    """Return all that a measurement depends on, as plain JSON types."""
    states = {name: backend.available() for name, backend in BACKENDS.items()}
    manifest = json.dumps(bundle.manifest.to_dict(), sort_keys=True)
    return {
        "fer_edge": __version__,
        "manifest_sha256": hashlib.sha256(manifest.encode()).hexdigest(),  # with the hashes of all files
        "options": {
            "backend": options.backend,
            "precision": options.session.precision,
            "threads": options.session.threads,
            "max_batch": options.session.max_batch,
        },
        "backends": {name: state.version for name, state in states.items() if state.ok},
        "architecture": architecture(),
        "device": device_name(),
        "processor_features": list(processor_features()),
        "processors": dataclasses.asdict(processors),
        "gpu": _describe_gpu([name for name, state in states.items() if state.ok]),
    }


def _measure(
    bundle: Bundle,
    candidates: Sequence[Candidate],
    measure: Measure,
    on_progress: Callable[[int, int], None],
) -> Tuning:
    # A warning is shown without any logging set up, and this keeps the caller waiting for seconds.
    _LOG.warning(
        "measuring once which of %d choices of backend, precision, threads and batch runs %s the fastest here; "
        "%s=0, tune=False and --no-tune leave it out",
        len(candidates),
        bundle.spec.network,
        SWITCH,
    )
    timings = tuple(measure(bundle, candidates, on_progress))
    choice = make_choice(timings)
    if timings[0].face_ms is None:
        _LOG.warning("%s: %s", choice.candidate, choice.because)
    _LOG.info("chosen: %s: %s", choice.candidate, choice.because)
    return Tuning(choice, timings, _now(), measured_now=True)


def _without_measurement(candidate: Candidate, by: str, because: str) -> Choice:
    return Choice(**dataclasses.asdict(candidate), by=by, because=because)


def _count_open(bundle: Bundle, candidates: Sequence[Candidate]) -> int:
    """Return how many sessions may be open at the same time."""
    names = {bundle.model_path(c.precision, BACKENDS[c.backend].dialect).name for c in candidates}
    size = max(bundle.manifest.files[name].size for name in names)
    if size >= _LARGE_MODEL_BYTES:
        return 1
    free = measure_free_memory(LocalMachine())
    if free is None:
        return Limits.most_open
    return max(1, min(Limits.most_open, free.memory_bytes // 2 // (_COPIES * size + _SESSION_BYTES)))


def _describe_gpu(available: Sequence[str]) -> Mapping[str, Any] | None:
    """Return what tells one GPU from another, ``None`` where no backend of a GPU is available."""
    if not any(BACKENDS[name].on_gpu for name in available):
        return None
    from fer_edge.engines.cache.key import identify_gpu

    try:
        return dataclasses.asdict(identify_gpu())
    except (FerEdgeError, ImportError):  # without cuda-python
        return {"driver": read_driver_version(LocalMachine())}


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")

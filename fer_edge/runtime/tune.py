"""Choice of backend, precision, threads and batch of a runtime by measurement.

Measured once per bundle, machine and options, in two to six seconds or three inferences per candidate plus the time to
open them, and cached by content. A measurement that other processes disturbed is used, and not cached. The plain choice, which needs no measurement, is replaced only for a gain above 5 %. Each
candidate passes the self-test of the bundle before it is timed. A candidate whose compilation takes minutes is skipped,
except the plain choice, which is always measured.
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

from fer_edge._utils.version import __version__
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
from fer_edge.runtime.timing import MIN_GAIN, SEVERAL, Timing
from fer_edge.system.load import LoadMeter, describe_load
from fer_edge.system.machine import LocalMachine, read_driver_version
from fer_edge.system.memory import measure_free_memory
from fer_edge.system.processors import Processors, count_processors
from fer_edge.system.provenance import device_name, processor_features

_LOG = logging.getLogger(__name__)
#: p90 over the median of a candidate's calls from which other processes disturb it, if their load is unknown.
_DISTURBED_SPREAD = 1.5
#: Minimum model size at which only one session is open at a time.
_LARGE_MODEL_BYTES = 64 << 20
#: Rough memory of an open session: copies of its weights, and a constant for the backend.
_COPIES, _SESSION_BYTES = 4, 32 << 20

#: Measures candidates and calls a progress callback with (done, total); returns one timing per candidate.
Measure = Callable[[Bundle, Sequence[Candidate], Callable[[int, int], None]], Sequence[Timing]]

_lock = threading.RLock()
_known: dict[Path, Tuning] = {}


def _forget() -> None:
    """Reset in a forked process: a thread that does not exist there may hold the lock."""
    global _lock
    _lock = threading.RLock()
    _known.clear()


os.register_at_fork(after_in_child=_forget)


def choose(bundle: Bundle, options: RuntimeOptions) -> Choice:
    """Return the configuration of a runtime: the measured one, or the plain choice if there is nothing to measure.

    Raises
    ------
    FerEdgeError
        If a backend or precision in the options is unknown or not available.
    """
    plain = choose_plain(bundle, options)
    if options.session.dla_core is not None or options.session.gpu_fallback:
        return _without_measurement(plain, "asked", "the options name a DLA")
    given = (options.session.threads, options.session.max_batch, options.session.precision)
    if options.backend != "auto" and None not in given:
        return _without_measurement(plain, "asked", "the options fix everything")
    if not options.tune:
        return _without_measurement(plain, "plain", "tune=False")
    if switched_off():
        return _without_measurement(plain, "plain", f"{SWITCH}=0")
    if len(list_candidates(bundle, options, count_processors(LocalMachine()))) == 1:
        return _without_measurement(plain, "plain", "there is only one candidate")
    return tune(bundle, options).choice


def tune(
    bundle: Bundle,
    options: RuntimeOptions | None = None,
    *,
    again: bool = False,
    keep: bool = False,
    measure: Measure | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Tuning:
    """Return the cached measurement for a bundle and options on this machine; measure if there is none.

    Parameters
    ----------
    bundle : Bundle
        Bundle to measure.
    options : RuntimeOptions, optional
        Backend, precision, threads and max_batch that they give are not varied.
    again : bool
        Ignore a cached measurement.
    keep : bool
        Cache the measurement even if other processes disturbed it, as on a machine that is always busy.
    measure : callable, optional
        Measurement function; default :func:`measure_candidates`.
    on_progress : callable
        Called with (candidates done, total) during the measurement.

    Raises
    ------
    FerEdgeError
        If a backend or precision in the options is unknown or not available.
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
                if not again:  # another process may have measured it; errors were logged before
                    found = cache.read(key, candidates, logging.DEBUG)
                if found is None:
                    found = _measure(bundle, candidates, measure or measure_candidates, on_progress)
                    if keep or not found.disturbed_by:
                        found = dataclasses.replace(found, path=cache.write(key, found))
                    else:
                        _warn_not_kept(found.disturbed_by)
        _known[path] = dataclasses.replace(found, measured_now=False)
    return found


def measure_candidates(
    bundle: Bundle,
    candidates: Sequence[Candidate],
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    opening_s: float = Limits.opening_s,
) -> Sequence[Timing]:
    """Open, self-test and time the candidates of a bundle on this machine; ``opening_s`` as in :class:`Limits`."""

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
    """Return the fastest candidate if it beats the plain choice, the first, by more than 5 %; else the plain choice."""
    plain = timings[0]
    timed = [timing for timing in timings if timing.face_ms is not None]
    if not timed:
        reason = f"no candidate could be timed; the plain choice failed: {plain.reason}"
        return _without_measurement(plain.candidate, "measured", reason)
    best = min(timed, key=lambda timing: timing.face_ms or 0.0)
    if plain.face_ms is None:
        reason = f"the plain choice, {plain.candidate}, could not be run: {plain.reason}"
    elif best.face_ms is not None and best.face_ms < (1 - MIN_GAIN) * plain.face_ms:
        gain = 1 - best.face_ms / plain.face_ms
        reason = f"{100 * gain:.0f} % less time per face than the plain choice, {plain.candidate}"
    else:
        best, reason = (
            plain,
            f"no candidate is more than {100 * MIN_GAIN:.0f} % faster than the plain choice",
        )
    fields = dataclasses.asdict(best.candidate)
    return Choice(**fields, by="measured", because=reason, face_ms=best.face_ms, plain_face_ms=plain.face_ms)


def make_key(bundle: Bundle, options: RuntimeOptions, processors: Processors) -> dict[str, Any]:
    """Return everything that a measurement depends on, as plain JSON types."""
    states = {name: backend.available() for name, backend in BACKENDS.items()}
    manifest = json.dumps(bundle.manifest.to_dict(), sort_keys=True)
    return {
        "fer_edge": __version__,
        "manifest_sha256": hashlib.sha256(manifest.encode()).hexdigest(),  # includes the hashes of all files
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
    # A warning, because it is shown without any logging set-up and explains a wait of seconds.
    _LOG.warning(
        "measuring which of %d configurations (backend, precision, threads, batch) runs %s fastest here; "
        "%s=0, tune=False or --no-tune disables this",
        len(candidates),
        bundle.spec.network,
        SWITCH,
    )
    load = LoadMeter()
    timings = tuple(measure(bundle, candidates, on_progress))
    choice = make_choice(timings)
    disturbed_by = _find_disturbance(load.share_of_others(), timings, choice)
    if timings[0].face_ms is None:
        _LOG.warning("%s: %s", choice.candidate, choice.because)
    _LOG.info("chosen: %s, because: %s", choice.candidate, choice.because)
    return Tuning(choice, timings, _now(), measured_now=True, disturbed_by=disturbed_by)


def _find_disturbance(load: float | None, timings: Sequence[Timing], choice: Choice) -> str:
    """Return the cause that disturbed a measurement, as a clause; the spread is used if the load is unknown."""
    if load is not None:
        return describe_load(load)
    compared = (timings[0].candidate, choice.candidate)
    spread = max((t.spread or 1.0 for t in timings if t.candidate in compared), default=1.0)
    if spread < _DISTURBED_SPREAD:
        return ""
    return f"one call in ten took {spread:.1f} times as long as the median, as on a busy machine"


def _warn_not_kept(reason: str) -> None:
    _LOG.warning(
        "this measurement is used, but the next start measures again, because %s. Fix: run "
        "fer-edge tune --again when the machine is idle; if it is always busy, fer-edge tune --again --keep",
        reason,
    )


def _without_measurement(candidate: Candidate, by: str, because: str) -> Choice:
    return Choice(**dataclasses.asdict(candidate), by=by, because=because)


def _count_open(bundle: Bundle, candidates: Sequence[Candidate]) -> int:
    """Return the maximum number of open sessions."""
    names = {bundle.model_path(c.precision, BACKENDS[c.backend].dialect).name for c in candidates}
    size = max(bundle.manifest.files[name].size for name in names)
    if size >= _LARGE_MODEL_BYTES:
        return 1
    free = measure_free_memory(LocalMachine())
    if free is None:
        return Limits.most_open
    return max(1, min(Limits.most_open, free.memory_bytes // 2 // (_COPIES * size + _SESSION_BYTES)))


def _describe_gpu(available: Sequence[str]) -> Mapping[str, Any] | None:
    """Return the identity of the GPU, ``None`` if no GPU backend is available."""
    if not any(BACKENDS[name].on_gpu for name in available):
        return None
    from fer_edge.engines.cache.key import identify_gpu

    try:
        return dataclasses.asdict(identify_gpu())
    except (FerEdgeError, ImportError):  # without cuda-python
        return {"driver": read_driver_version(LocalMachine())}


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")

"""Runs INT8 on the processor that runs this file, and prints the results as JSON: a process of its own, under emulation.

Usage: ``emulated.py BACKEND BUNDLE BATCH.npy CHECK …``, where each check is a function of this file.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy._core._multiarray_umath import __cpu_features__

from fer_edge.backends import BACKENDS, SessionOptions, load_tested_session
from fer_edge.backends.base import DEFAULT_INT8, Backend
from fer_edge.backends.int8_probe import probe_int8
from fer_edge.bundle import Bundle, open_bundle
from fer_edge.errors import FerEdgeError

ONE_THREAD = SessionOptions(threads=1)
#: The default arithmetic, unprobed.
UNCHECKED = SessionOptions(threads=1, int8_config=DEFAULT_INT8)


def features(backend: Backend, bundle: Bundle, batch: np.ndarray) -> dict[str, bool]:
    """Return which extensions the processor has; ``/proc/cpuinfo`` shows those of the host."""
    return {name: bool(__cpu_features__[name]) for name in ("AVX2", "AVX512F", "AVX512VNNI")}


def probe(backend: Backend, bundle: Bundle, batch: np.ndarray) -> dict[str, Any]:
    """Return the entries that make the backend exact, and the levels of its default."""
    found = probe_int8(backend, ONE_THREAD)
    return {"entries": dict(found.config.entries), "levels": dict(found.levels)}


def refusal(backend: Backend, bundle: Bundle, batch: np.ndarray) -> str:
    """Return the error of a backend that has its default arithmetic alone."""
    members = {"name": f"uncured-{backend.name}", "int8_configs": (DEFAULT_INT8,)}
    return _error_of(type("Uncured", (type(backend),), members)(), bundle, ONE_THREAD)


def self_test(backend: Backend, bundle: Bundle, batch: np.ndarray) -> dict[str, Any]:
    """Return the report of the self-test."""
    opened = load_tested_session(bundle, backend, "int8", ONE_THREAD)
    opened.session.close()
    return opened.self_test.to_dict()


def unchecked_self_test(backend: Backend, bundle: Bundle, batch: np.ndarray) -> str:
    """Return the error of the self-test where no probe was run."""
    return _error_of(backend, bundle, UNCHECKED)


def logits(backend: Backend, bundle: Bundle, batch: np.ndarray) -> list[list[float]]:
    """Return the INT8 logits of ``batch``; JSON keeps every bit of them."""
    session = load_tested_session(bundle, backend, "int8", ONE_THREAD, self_test=False).session
    try:
        found: list[list[float]] = np.asarray(session.run(batch)["logits"], np.float64).tolist()
        return found
    finally:
        session.close()


def _error_of(backend: Backend, bundle: Bundle, options: SessionOptions) -> str:
    try:
        load_tested_session(bundle, backend, "int8", options).session.close()
    except FerEdgeError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def main(backend: str, bundle: str, batch: str, *checks: str) -> None:
    """Run the checks in turn and print their results by name."""
    arguments = BACKENDS[backend], open_bundle(Path(bundle)), np.load(batch)
    print(json.dumps({check: globals()[check](*arguments) for check in checks}))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Measure the peak memory of running a model in a worker process, so that nothing else counts."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from fer_edge._utils.progress import Progress
from fer_edge.backends import BACKENDS, Backend, SessionOptions
from fer_edge.errors import BackendError
from fer_edge.spec import ModelSpec
from fer_edge.system.memory import own_peak_bytes
from fer_edge.system.workers import WorkerError, read_tail, run_worker, serve


def peak_memory_bytes(
    model: Path, backend: Backend, spec: ModelSpec, options: SessionOptions | None = None
) -> int | None:
    """Return the peak resident memory of a Python process that opens ``model`` and runs one face.

    The value includes the interpreter, numpy and the backend's library, so the difference between two models is
    more informative than either value.

    Returns
    -------
    int or None
        Bytes; ``None`` on systems without ``/proc`` (other than Linux), or for a backend that is not one of
        :data:`fer_edge.backends.BACKENDS`, where the worker looks it up by name.

    Raises
    ------
    BackendError
        If the worker fails.
    """
    if own_peak_bytes() is None or BACKENDS.get(backend.name) is not backend:
        return None
    question = {
        "backend": backend.name,
        "model": str(model.resolve()),
        "shape": [1, *spec.input_shape],
        "threads": (options or SessionOptions()).threads,
    }
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        try:
            return run_worker(__name__, question, log=log)["peak_bytes"]
        except WorkerError as error:
            found = "".join(read_tail(log, 1)) or f"exit status {error.status}"
            reason = error.message or f"{found}. Fix: report this with the output of fer-edge doctor"
            raise BackendError(
                f"measuring the memory of {model} on {backend.name} failed: {reason}"
            ) from error


def _measure(question: dict[str, Any], on_progress: Progress) -> dict[str, Any]:
    backend = BACKENDS.get(question["backend"])
    if backend is None:  # registered by the program that asks
        return {"peak_bytes": None}
    session = backend.open(Path(question["model"]), SessionOptions(question["threads"]))
    session.run(np.zeros(question["shape"], np.float32))
    return {"peak_bytes": own_peak_bytes()}


if __name__ == "__main__":
    serve(_measure)

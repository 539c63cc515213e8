"""Peak memory of running a model: measured in a process of its own, so that nothing else counts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from fer_edge.backends import BACKENDS, Backend, SessionOptions
from fer_edge.errors import BackendError
from fer_edge.spec import ModelSpec

_STATUS = Path("/proc/self/status")
#: VmHWM is the largest resident set since the process began.
_MEASURE = """
import sys
backend, model, shape, threads, path = sys.argv[1:]
sys.path[:] = path.split("\\n")
from pathlib import Path
import numpy
from fer_edge.backends import BACKENDS, SessionOptions
from fer_edge.errors import FerEdgeError
try:
    session = BACKENDS[backend].open(Path(model), SessionOptions(int(threads) if threads else None))
    session.run(numpy.zeros([1, *map(int, shape.split(","))], numpy.float32))
except FerEdgeError as error:
    sys.exit(str(error))
print("\\n" + Path("/proc/self/status").read_text())
"""


def peak_memory_bytes(
    model: Path, backend: Backend, spec: ModelSpec, options: SessionOptions | None = None
) -> int | None:
    """Return the peak resident memory of a Python process that opens ``model`` and runs one face.

    It holds the interpreter, numpy and the backend's library too, so the difference between two models says
    more than either value.

    Returns
    -------
    int or None
        Bytes; ``None`` where the system has no ``/proc`` (it is Linux's), or the backend is not one of
        :data:`fer_edge.backends.BACKENDS`, by whose name the other process finds it.

    Raises
    ------
    BackendError
        If the other process fails.
    """
    if not _STATUS.is_file() or BACKENDS.get(backend.name) is not backend:
        return None
    threads = (options or SessionOptions()).threads
    arguments = [
        backend.name,
        str(model.resolve()),
        ",".join(map(str, spec.input_shape)),
        "" if threads is None else str(threads),
        "\n".join(sys.path),
    ]
    result = subprocess.run(
        [sys.executable, "-c", _MEASURE, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    peak = [line.split() for line in result.stdout.splitlines() if line.startswith("VmHWM:")]
    if result.returncode != 0 or not peak:
        reason = (result.stderr.strip().splitlines() or [f"exit status {result.returncode}"])[-1]
        raise BackendError(f"measuring the memory of {model} on {backend.name} failed: {reason}")
    return int(peak[-1][1]) * 1024

"""Work in a subprocess, so that a hang, a crash or an OOM kill becomes an error.

A worker is a module that calls :func:`serve` when it is run with ``python -m``. Standard input holds the request as
JSON; standard output gets JSON lines: ``progress`` events, then one ``done`` or ``error``. The output of libraries is
redirected to standard error.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from fer_edge._utils.progress import Progress
from fer_edge.errors import FerEdgeError

_BLOCK_BYTES = 64 << 10
_MAX_LINE_BYTES = 1 << 20
_MAX_POLL_S = 86400.0
_MAX_LOG_LINE_CHARS = 300
_PR_SET_PDEATHSIG = 1
#: Runs a module as ``-m`` does, with the given search path: the worker finds the package wherever this process does.
_START = (
    "import json, runpy, sys; sys.path[:] = json.loads(sys.argv[1]); sys.argv[1:] = []; "
    "runpy.run_module(%r, run_name='__main__', alter_sys=True)"
)


class TimeLimitError(Exception):
    """A process exceeded its time limit."""


class WorkerError(Exception):
    """A worker ended without an answer.

    Attributes
    ----------
    message : str
        Message of its :class:`FerEdgeError`; empty if it ended without one.
    status : int or None
        Exit code, or minus the number of the signal that ended it; ``None`` if it was stopped at the time limit.
    """

    def __init__(self, message: str, status: int | None) -> None:
        super().__init__(message)
        self.message, self.status = message, status


class BoundedProcess:
    """A process in its own session; leaving the ``with`` block kills it and its children.

    A process that hangs in a driver cannot be killed and is left behind.

    Parameters
    ----------
    command : sequence of str
        Command and arguments.
    limit_s : float
        Time after which every method raises :class:`TimeLimitError`.
    **settings
        Arguments of :class:`subprocess.Popen`.
    """

    def __init__(self, command: Sequence[str], limit_s: float, **settings: Any) -> None:
        self._end_s = time.monotonic() + limit_s
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True, **settings)
        assert self._process.stdout is not None
        self._output = self._process.stdout

    def blocks(self) -> Iterator[bytes]:
        """Yield its output until it closes its standard output."""
        poll = select.poll()  # unlike select, poll accepts any file descriptor
        poll.register(self._output, select.POLLIN)
        while True:
            rest_s = self._end_s - time.monotonic()
            if poll.poll(min(max(0.0, rest_s), _MAX_POLL_S) * 1e3):
                block = os.read(self._output.fileno(), _BLOCK_BYTES)
                if not block:
                    return
                yield block
            elif rest_s <= _MAX_POLL_S:
                raise TimeLimitError

    def lines(self) -> Iterator[bytes]:
        """Yield every line of its output, without its end; very long lines are split."""
        rest = b""
        for block in self.blocks():
            *lines, rest = (rest + block).split(b"\n")
            yield from lines
            if len(rest) > _MAX_LINE_BYTES:
                yield rest
                rest = b""
        if rest:
            yield rest

    def wait(self) -> int:
        """Return the exit code, or minus the number of the signal that ended it."""
        try:
            return self._process.wait(max(0.1, self._end_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise TimeLimitError from None

    def __enter__(self) -> BoundedProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.returncode is None:  # not yet waited for, so the pid is not reused
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1.0)
        self._output.close()


def run_worker(
    module: str,
    question: Any,
    limit_s: float = threading.TIMEOUT_MAX,
    on_progress: Progress = lambda stage, done, total: None,
    log: Path | None = None,
    folder: Path = Path("/"),
    environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the answer of a worker.

    Parameters
    ----------
    module : str
        Name of the worker module.
    question : object
        Request, of plain JSON types.
    limit_s : float
        Time after which the worker is stopped.
    on_progress : callable
        Called with (stage, done, total).
    log : Path, optional
        File for its standard error.
    folder : Path
        Its working directory; nothing is imported from there.
    environment : mapping, optional
        Its environment; default: that of this process.

    Raises
    ------
    WorkerError
        If the worker ends without an answer.
    """
    event: dict[str, Any] = {}
    status = None
    with tempfile.TemporaryFile() as stdin, (log or Path(os.devnull)).open("wb") as stderr:
        stdin.write(json.dumps({"parent": os.getpid(), "question": question}).encode())
        stdin.seek(0)
        # Isolated, so that neither its working directory nor the environment adds to the path that it is given.
        command = [sys.executable, "-I", "-c", _START % module, json.dumps(_search_path())]
        with (
            BoundedProcess(
                command, limit_s, stdin=stdin, stderr=stderr, cwd=folder, env=environment
            ) as process,
            contextlib.suppress(TimeLimitError),
        ):
            for line in process.lines():
                event = _parse(line)
                if event.get("event") == "progress":
                    on_progress(event["stage"], event["done"], event["total"])
            status = process.wait()
    if event.get("event") == "done" and status == 0:
        return event["answer"]
    raise WorkerError(event["message"] if event.get("event") == "error" else "", status)


def _search_path() -> list[str]:
    """Return where this process imports from, without its working directory, and with the package's own place."""
    path = [str(Path(place).absolute()) if Path(place).exists() else place for place in sys.path if place]
    package = str(Path(__file__).resolve().parents[2])
    return path if package in path else [*path, package]


def read_tail(log: Path, lines: int) -> tuple[str, ...]:
    """Return the last non-empty lines of a log, each truncated."""
    text = log.read_text(encoding="utf-8", errors="replace")
    kept = [line.strip()[:_MAX_LOG_LINE_CHARS] for line in text.splitlines() if line.strip()]
    return tuple(kept[-lines:])


def _parse(line: bytes) -> dict[str, Any]:
    """Return an event, an empty one for an invalid line."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return event if isinstance(event, dict) else {}


def serve(answer: Callable[[Any, Progress], dict[str, Any]]) -> None:
    """Answer one request as a worker; exit with code 1 after a :class:`FerEdgeError`."""
    # Native code may print to standard output: redirect it to standard error, and keep the original for events.
    events = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end when the parent no longer reads

    events.write("\n")  # ends earlier output

    def send(event: str, **fields: Any) -> None:
        events.write(json.dumps({"event": event, **fields}) + "\n")

    def on_progress(stage: str, done: int, total: int) -> None:
        send("progress", stage=stage, done=done, total=total)

    request = json.load(sys.stdin)
    _end_with(request["parent"])
    try:
        send("done", answer=answer(request["question"], on_progress))
    except FerEdgeError as error:
        send("error", message=str(error))
        sys.exit(1)


def _end_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends for any reason."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the call of prctl
        sys.exit("the parent process has ended")

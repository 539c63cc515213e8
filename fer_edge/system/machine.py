"""How ``fer-edge doctor`` looks at a machine: files, commands and questions, each bounded in size and time."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import select
import signal
import stat
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

_LIMIT_BYTES = 64 << 10
_MAX_PATHS = 64


class Machine(Protocol):
    """The seam between the checks and what they look at. Nothing here raises: what is not there is ``None``."""

    @property
    def architecture(self) -> str:
        """Such as ``x86_64`` or ``aarch64``."""

    def read(self, path: str) -> str | None:
        """Return the beginning of a file."""

    def find(self, pattern: str) -> list[str]:
        """Return the paths that match a shell pattern, sorted."""

    def run(self, *command: str) -> str | None:
        """Return what a command prints, whatever its exit code."""

    def ask(self, question: str) -> dict[str, Any] | None:
        """Return the answer of :mod:`fer_edge.doctor.inventory`, ``None`` where its process hung or crashed."""


class LocalMachine:
    """This machine.

    Parameters
    ----------
    limit_s : float
        Most that one command may take.
    total_s : float
        Most that all of them may take; later ones are not started.
    """

    architecture = platform.machine()

    def __init__(self, limit_s: float = 10.0, total_s: float = 60.0) -> None:
        self._limit_s = limit_s
        self._end_s = time.monotonic() + total_s

    def read(self, path: str) -> str | None:
        """See :class:`Machine`."""
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (OSError, ValueError):
            return None
        try:
            if stat.S_ISREG(os.fstat(handle).st_mode):
                return os.read(handle, _LIMIT_BYTES).decode(errors="replace")
        except OSError:  # a file of the kernel may open and not be read
            pass
        finally:
            os.close(handle)
        return None

    def find(self, pattern: str) -> list[str]:
        """See :class:`Machine`."""
        return sorted(map(str, islice(Path("/").glob(pattern.lstrip("/")), _MAX_PATHS)))

    def run(self, *command: str) -> str | None:
        """See :class:`Machine`."""
        end_s = min(time.monotonic() + self._limit_s, self._end_s)
        if time.monotonic() >= end_s:
            return None
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd="/",  # Python imports from the working directory first: nothing of the user's lies there
                env={**os.environ, "LC_ALL": "C"},
                start_new_session=True,
            )
        except OSError:
            return None
        assert process.stdout is not None
        with process.stdout as output:
            text = _read_until(output.fileno(), end_s)
        return _end(process, end_s, text)

    def ask(self, question: str) -> dict[str, Any] | None:
        """See :class:`Machine`."""
        text = self.run(sys.executable, "-m", "fer_edge.doctor.inventory", question)
        try:
            answer = json.loads(text or "")
        except (ValueError, RecursionError):
            return None
        return answer if isinstance(answer, dict) else None


def read_number(machine: Machine, path: str) -> int | None:
    """Return the whole number that a file of the kernel holds, ``None`` for anything else."""
    text = (machine.read(path) or "").strip()
    return int(text) if re.fullmatch(r"\d{1,18}", text, re.ASCII) else None


def read_driver_version(machine: Machine) -> str | None:
    """Return the version of NVIDIA's kernel module, such as ``540.4.0``."""
    text = machine.read("/proc/driver/nvidia/version") or ""
    found = re.search(r"NVRM version:.*?\s(\d{1,9}(?:\.\d{1,9}){1,4})", text, re.ASCII)
    return found[1] if found else None


def _read_until(handle: int, end_s: float) -> bytes | None:
    """Return what comes before the pipe closes; ``None`` where it is too late or too much."""
    text = b""
    while len(text) <= _LIMIT_BYTES:
        ready, _, _ = select.select([handle], [], [], max(0.0, end_s - time.monotonic()))
        if not ready:
            return None
        block = os.read(handle, _LIMIT_BYTES)
        if not block:
            return text
        text += block
    return None


def _end(process: subprocess.Popen[bytes], end_s: float, text: bytes | None) -> str | None:
    """Wait for the process, or kill it with all that it started; one that hangs in a driver is left behind."""
    try:
        if text is not None:
            process.wait(max(0.1, end_s - time.monotonic()))
            return text.decode(errors="replace")
    except subprocess.TimeoutExpired:
        pass
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(1.0)
    return None

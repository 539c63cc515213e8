"""Access to a machine for ``fer-edge doctor``: files, commands and library probes, bounded in size and time."""

from __future__ import annotations

import os
import platform
import re
import stat
import subprocess
import time
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from fer_edge.system.workers import BoundedProcess, TimeLimitError, WorkerError, run_worker

_MAX_BYTES = 64 << 10
_MAX_PATHS = 64


class Machine(Protocol):
    """Files, commands and libraries of a machine. No method raises: missing ones return ``None``."""

    @property
    def architecture(self) -> str:
        """Architecture, such as ``x86_64`` or ``aarch64``."""

    def read(self, path: str) -> str | None:
        """Return the first 64 KiB of a file."""

    def find(self, pattern: str) -> list[str]:
        """Return the paths that match a shell pattern, sorted."""

    def run(self, *command: str) -> str | None:
        """Return the output of a command, also if it fails."""

    def ask(self, question: str) -> dict[str, Any] | None:
        """Return the answer of :mod:`fer_edge.doctor.inventory`, ``None`` if its process hung or crashed."""


class LocalMachine:
    """This machine.

    Parameters
    ----------
    limit_s : float
        Time limit of one command.
    total_s : float
        Time limit of all commands; later ones are not started.
    """

    architecture = platform.machine()

    def __init__(self, limit_s: float = 10.0, total_s: float = 60.0) -> None:
        self._limit_s = limit_s
        self._end_s = time.monotonic() + total_s

    def read(self, path: str) -> str | None:
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (OSError, ValueError):
            return None
        try:
            if stat.S_ISREG(os.fstat(handle).st_mode):
                return os.read(handle, _MAX_BYTES).decode(errors="replace")
        except OSError:  # a file of the kernel may open but not be readable
            pass
        finally:
            os.close(handle)
        return None

    def find(self, pattern: str) -> list[str]:
        return sorted(map(str, islice(Path("/").glob(pattern.lstrip("/")), _MAX_PATHS)))

    def run(self, *command: str) -> str | None:
        text, environment = b"", {**os.environ, "LC_ALL": "C"}
        try:
            with BoundedProcess(
                command,
                self._remaining_s(),
                stdin=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env=environment,
            ) as process:
                for block in process.blocks():
                    text += block
                    if len(text) > _MAX_BYTES:
                        return None
                process.wait()
        except (OSError, TimeLimitError):
            return None
        return text.decode(errors="replace")

    def ask(self, question: str) -> dict[str, Any] | None:
        try:
            return run_worker("fer_edge.doctor.inventory", question, self._remaining_s())
        except (OSError, TimeLimitError, WorkerError):
            return None

    def _remaining_s(self) -> float:
        if (rest_s := self._end_s - time.monotonic()) <= 0:
            raise TimeLimitError
        return min(self._limit_s, rest_s)


def read_number(machine: Machine, path: str) -> int | None:
    """Return the integer in a file of the kernel, ``None`` if there is none."""
    text = (machine.read(path) or "").strip()
    return int(text) if re.fullmatch(r"\d{1,18}", text, re.ASCII) else None


def read_driver_version(machine: Machine) -> str | None:
    """Return the version of NVIDIA's kernel module, such as ``540.4.0``."""
    text = machine.read("/proc/driver/nvidia/version") or ""
    found = re.search(r"NVRM version:.*?\s(\d{1,9}(?:\.\d{1,9}){1,4})", text, re.ASCII)
    return found[1] if found else None

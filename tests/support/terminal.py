"""Commands as a person sees them: on a terminal of some width, or in a pipe."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path


def shown(columns: int | None, *arguments: str, cwd: Path | None = None) -> str:
    """Return what ``fer-edge`` prints on a terminal of ``columns``, or to a pipe for ``None``, without styles."""
    command = [sys.executable, "-m", "fer_edge.cli", *arguments]
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "TERM")}
    if columns is None:
        return subprocess.run(
            command, cwd=cwd, env=environment, stdout=subprocess.PIPE, text=True, check=True
        ).stdout
    ours, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with subprocess.Popen(
        command,
        cwd=cwd,
        env={**environment, "TERM": "xterm"},
        stdin=terminal,
        stdout=terminal,
        stderr=subprocess.DEVNULL,
    ) as process:
        os.close(terminal)
        text = b""
        try:
            while part := os.read(ours, 1 << 16):
                text += part
        except OSError:  # the terminal is closed
            pass
        finally:
            os.close(ours)
    assert process.returncode == 0, text
    return re.sub(r"\x1b\[[0-9;]*m", "", text.decode()).replace("\r\n", "\n")

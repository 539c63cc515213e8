"""Commands for messages, as they work in the user's shell: with the Python that runs this process."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path


def python_command() -> str:
    """Return ``python`` or ``python3`` if the shell finds this process's Python by that name, else its path.

    Another Python on ``PATH`` would install packages into another environment. In a program that embeds Python, the
    interpreter is unknown, and the name is ``python3``.
    """
    executable = Path(sys.executable or "")
    if not executable.name.startswith("python"):
        return "python3"
    for name in ("python", "python3"):
        found = shutil.which(name)
        # Not by the file: the Python of a virtual environment is a link to that of the system.
        if found is not None and Path(found).parent == executable.parent:
            return name
    return shlex.quote(str(executable))


def pip_command(*words: str) -> str:
    """Return a command of pip for the environment of this process, such as ``pip_command("install", "openvino")``."""
    return f"{python_command()} -m pip {shlex.join(words)}"

"""Device, versions, commit and date of a measurement."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = (
    "fer-edge",
    "numpy",
    "opencv-python-headless",
    "onnx",
    "onnxruntime",
    "openvino",
    "torch",
    "tensorrt",
    "tensorrt-rtx-cu13",
    "nncf",
)
#: Kernel names of the features that determine arithmetic and speed of integer products.
_PROCESSOR_FEATURES = (
    "avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8",
    "asimd", "asimddp", "i8mm", "sve", "sve2",
)  # fmt: skip


def tool_versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that compute."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def measurement_record() -> dict[str, Any]:
    """Return device, versions, commit and date, without which a measurement cannot be interpreted."""
    return {
        "device": device_name(),
        "processor_features": list(processor_features()),
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "versions": tool_versions(),
        "commit": _commit(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    }


def device_name() -> str:
    """Return the name of the board or of the processor."""
    board = Path("/proc/device-tree/model")
    if board.is_file():
        return board.read_text(errors="replace").strip("\0\n ")
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def processor_features(cpuinfo: str | None = None) -> tuple[str, ...]:
    """Return the processor features that matter for integer networks, such as ``avx512_vnni``.

    Parameters
    ----------
    cpuinfo : str, optional
        Text of ``/proc/cpuinfo``; default: that of this machine.

    Returns
    -------
    tuple of str
        Names of the Linux kernel, in a fixed order; empty if it reports none.
    """
    if cpuinfo is None:
        try:
            cpuinfo = Path("/proc/cpuinfo").read_text(errors="replace")
        except OSError:
            return ()
    rows = re.findall(r"^(?:flags|Features)[ \t]*:(.*)$", cpuinfo, re.MULTILINE)
    # Cores may differ; a thread may run on any of them.
    found = set.intersection(*(set(row.split()) for row in rows)) if rows else set()
    return tuple(name for name in _PROCESSOR_FEATURES if name in found)


def _commit() -> str | None:
    """Return the commit of a source checkout, ``None`` for an installed package."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        result = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "--short=12", "HEAD"],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:  # no git
        return None
    return result.stdout.strip() or None

"""Percentiles of latencies, and the record that every published figure carries."""

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
#: As the kernel names them: what decides how integers are multiplied, and how fast.
_PROCESSOR_FEATURES = (
    "avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8",
    "asimd", "asimddp", "i8mm", "sve", "sve2",
)  # fmt: skip


def tool_versions() -> dict[str, str]:
    """Return the versions of what computes here, for those packages that are installed."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def measurement_record() -> dict[str, Any]:
    """Return device, versions, commit and date: what a figure needs beside it to mean something."""
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
    """Return the board's or the processor's name."""
    board = Path("/proc/device-tree/model")
    if board.is_file():
        return board.read_text(errors="replace").strip("\0\n ")
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def processor_features(cpuinfo: str | None = None) -> tuple[str, ...]:
    """Return the extensions of this processor that integer networks compute with, such as ``avx512_vnni``.

    Parameters
    ----------
    cpuinfo : str, optional
        Text of ``/proc/cpuinfo``; that of this machine if left out.

    Returns
    -------
    tuple of str
        Names as the Linux kernel gives them, in a fixed order; empty where it gives none.
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

"""Telemetry opt-out: that of ONNX Runtime and OpenVINO is disabled before either is imported.

A robot or a car must not report its software. ``import fer_edge`` precedes FER-Edge's own imports of both, so that
telemetry is sent only if a host program imports them earlier; a warning then says how to prevent it.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

#: Read once by ONNX Runtime, on import; empty counts as not set.
VARIABLE = "ORT_DISABLE_TELEMETRY"
_FIRST_VERSION_THAT_REPORTS = (1, 29)
#: OpenVINO sends telemetry through this package, and none if it cannot be imported.
_OPENVINO_TELEMETRY = "openvino_telemetry"


def opt_out() -> None:
    """Disable both for this process and its children; warn if it is too late.

    A value of ``ORT_DISABLE_TELEMETRY`` set by the user is kept, also ``0``.
    """
    _opt_out_of_onnxruntime()
    _opt_out_of_openvino()


def _opt_out_of_onnxruntime() -> None:
    """Disable the telemetry of ONNX Runtime, which reports usage and model hashes from version 1.29 on, also on Linux.

    It also stores a device identifier in the home folder. ``disable_telemetry_events`` stops the reports about models;
    that of the import is already queued, and sent about ten seconds later.
    """
    if os.environ.get(VARIABLE):
        return
    os.environ[VARIABLE] = "1"
    loaded = sys.modules.get("onnxruntime")
    version = tuple(map(int, re.findall(r"\d+", getattr(loaded, "__version__", ""))[:2]))
    if loaded is None or version < _FIRST_VERSION_THAT_REPORTS:
        return
    loaded.disable_telemetry_events()
    _warn(
        f"onnxruntime was imported before fer_edge without {VARIABLE}=1, so it reports the import over the network and "
        f"stores a device identifier in the home folder. Fix: set {VARIABLE}=1, or import fer_edge first"
    )


def _opt_out_of_openvino() -> None:
    """Disable the telemetry of OpenVINO, which reports its import and stores a client identifier in the home folder."""
    if "openvino" not in sys.modules:
        sys.modules.setdefault(_OPENVINO_TELEMETRY, None)  # type: ignore[arg-type]  # None marks a module as not importable
        return
    telemetry = getattr(sys.modules.get(_OPENVINO_TELEMETRY), "Telemetry", None)
    if telemetry is not None and getattr(telemetry(), "consent", True):
        _warn(
            "openvino was imported before fer_edge, so it reports the import over the network and stores a client identifier "
            "in the home folder. Fix: import fer_edge first, or run opt_in_out --opt_out"
        )


@contextmanager
def without_openvino_telemetry() -> Iterator[None]:
    """Hide OpenVINO's telemetry package while OpenVINO is imported, and restore it for the host program."""
    hidden = {
        name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == _OPENVINO_TELEMETRY
    }
    sys.modules[_OPENVINO_TELEMETRY] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[_OPENVINO_TELEMETRY]
        sys.modules.update(hidden)


def _warn(text: str) -> None:
    warnings.warn(text, RuntimeWarning, stacklevel=5)  # attributed to the importer of fer_edge

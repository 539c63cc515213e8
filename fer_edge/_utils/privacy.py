"""No report leaves the process: ONNX Runtime's and OpenVINO's are switched off before either is imported.

A robot or a car must not report its software to anybody. ``import fer_edge`` comes before our own imports of both, so
that only a host program which imports them earlier can be reported on; a warning then says how to prevent it.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

#: Read by ONNX Runtime once, when it is imported; empty counts as not set there.
VARIABLE = "ORT_DISABLE_TELEMETRY"
_FIRST_VERSION_THAT_REPORTS = (1, 29)
#: OpenVINO reports through this package, and does without where it cannot be imported.
_OPENVINO_TELEMETRY = "openvino_telemetry"


def opt_out() -> None:
    """Switch both reports off for this process and those that it starts; warn where it is too late.

    A value of ``ORT_DISABLE_TELEMETRY`` that the user has set is kept, also ``0``.
    """
    _opt_out_of_onnxruntime()
    _opt_out_of_openvino()


def _opt_out_of_onnxruntime() -> None:
    """ONNX Runtime reports use and hashes of models from version 1.29 on, on Linux too.

    It also keeps a device number in the home folder. ``disable_telemetry_events`` stops the reports about models;
    the one about the import itself is queued by then, and sent some ten seconds later.
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
        f"onnxruntime was imported before fer_edge, without {VARIABLE}=1: it reports the import over the network and "
        f"keeps a device number in the home folder. Set {VARIABLE}=1 in the environment, or import fer_edge first"
    )


def _opt_out_of_openvino() -> None:
    """OpenVINO's Python package reports its import, and keeps a client number in the home folder."""
    if "openvino" not in sys.modules:
        sys.modules.setdefault(_OPENVINO_TELEMETRY, None)  # type: ignore[arg-type]  # how Python marks a module as not importable
        return
    telemetry = getattr(sys.modules.get(_OPENVINO_TELEMETRY), "Telemetry", None)
    if telemetry is not None and getattr(telemetry(), "consent", True):
        _warn(
            "openvino was imported before fer_edge: it reports the import over the network and keeps a client number in "
            "the home folder. Import fer_edge first, or run: opt_in_out --opt_out"
        )


@contextmanager
def without_openvino_telemetry() -> Iterator[None]:
    """Hide OpenVINO's telemetry, for the time in which OpenVINO is imported, where the host program uses it itself."""
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
    warnings.warn(text, RuntimeWarning, stacklevel=5)  # whoever imports fer_edge

"""TensorRT plugin of self-attention: find its library and load it into TensorRT."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

import fer_edge
from fer_edge._utils.files import sha256_of
from fer_edge._utils.ownership import require_private
from fer_edge.errors import EngineError, PluginMissingError
from fer_edge.system.shell import pip_command

#: Name of the registered plugin, equal to the ONNX operator.
NAMESPACE, NAME, VERSION = "fer_edge", "SelfAttention", "1"
LIBRARY = "libfer_edge_plugin.so"
VARIABLE = "FER_EDGE_PLUGIN"
#: Prefix of the messages of the plugin.
REPORT_PREFIX = f"{NAMESPACE}::{NAME}: "
#: ``auto`` uses the plugin if it is installed; ``none`` uses standard operators.
PLUGIN_CHOICES = ("auto", "required", "none")

_BUILD = (
    f"FER_EDGE_KERNELS=1 {pip_command('install', '.')} in the source folder, with nvcc and TensorRT's headers "
    "(libnvinfer-headers-dev, or their folder in TENSORRT_INCLUDE_DIR)"
)


def find_plugin() -> Path | None:
    """Return the library of ``FER_EDGE_PLUGIN``, else the installed one, else that of ``build/``.

    Raises
    ------
    PluginMissingError
        If ``FER_EDGE_PLUGIN`` names a file that does not exist.
    """
    paths = _candidates()
    found = next((path for path in paths if path.is_file()), None)
    if found is None and os.environ.get(VARIABLE):
        raise PluginMissingError(
            f"{paths[0]} does not exist. Fix: set {VARIABLE} to the file {LIBRARY}, or unset it"
        )
    return found


def require_plugin() -> Path:
    """Return the library; raise :class:`PluginMissingError` with every path tried if there is none."""
    found = find_plugin()
    if found is None:
        raise PluginMissingError(
            f"the TensorRT plugin is not installed: tried {', '.join(map(str, _candidates()))}. Fix: run {_BUILD}, or set {VARIABLE} to the file, or build without the plugin"
        )
    return found


def load_plugin(trt: Any, path: Path, sha256: str | None = None) -> None:
    """Load the library into TensorRT, which must happen before a model or an engine that needs it is read.

    The dynamic loader opens the file by name after it was checked, so no other user may be able to change it.

    Parameters
    ----------
    trt : module
        ``tensorrt`` or ``tensorrt_rtx``.
    path : Path
        From :func:`find_plugin`.
    sha256 : str or None
        Expected hash of the library, if an engine was built with it.

    Raises
    ------
    EngineError
        If the library cannot be loaded, does not register the plugin, can be changed by another user, or has another
        sha256.
    """
    _check(path, sha256)
    try:  # TensorRT itself reports no error
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise EngineError(
            f"the plugin cannot be loaded ({error}). Fix: build it for this machine, {_BUILD}"
        ) from None
    if not hasattr(library, "getCreators"):
        raise EngineError(
            f"{path} is not a TensorRT plugin (it lacks getCreators). Fix: set {VARIABLE} to the file {LIBRARY}"
        )
    registry = trt.get_plugin_registry()
    registry.load_library(str(path))
    known = {(c.plugin_namespace, c.name, c.plugin_version) for c in registry.all_creators}
    if (NAMESPACE, NAME, VERSION) not in known:
        raise EngineError(
            f"{path} does not register the plugin {NAMESPACE}::{NAME}, version {VERSION}, with {trt.__name__}. Fix: build it again, {_BUILD}"
        )


def _check(path: Path, sha256: str | None) -> None:
    try:
        require_private(path, f"name another file in {VARIABLE}")
        found = sha256_of(path)
    except OSError as error:
        raise EngineError(
            f"the plugin {path} cannot be read ({error.strerror}). Fix: set {VARIABLE} to the file {LIBRARY}, or unset it"
        ) from error
    if sha256 not in (None, found):
        raise EngineError(f"{path} was changed after the engine was built for it. Fix: open the model again")


def _candidates() -> list[Path]:
    named = os.environ.get(VARIABLE)
    if named:
        return [Path(named).resolve()]
    build = Path(fer_edge.__file__).resolve().parents[1] / "build"
    # An editable installation has two paths, and the library is in the one without source files.
    return [*(Path(place) / LIBRARY for place in fer_edge.__path__), build / LIBRARY]

"""The TensorRT plugin of self-attention: where its library is, and that TensorRT has taken it."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

import fer_edge
from fer_edge._utils.files import sha256_of
from fer_edge._utils.ownership import require_private
from fer_edge.errors import EngineError, PluginMissingError

#: What the library registers; the same as the operator in ONNX.
NAMESPACE, NAME, VERSION = "fer_edge", "SelfAttention", "1"
LIBRARY = "libfer_edge_plugin.so"
VARIABLE = "FER_EDGE_PLUGIN"
#: How the plugin itself begins what it has to say.
REPORT_PREFIX = f"{NAMESPACE}::{NAME}: "
#: ``auto`` uses the plugin where it is installed and says so; ``none`` computes with standard operators.
PLUGIN_CHOICES = ("auto", "required", "none")

_BUILD = (
    "FER_EDGE_KERNELS=1 pip install . in the source folder, where nvcc and TensorRT's headers are "
    "(libnvinfer-headers-dev, or their folder in TENSORRT_INCLUDE_DIR)"
)


def find_plugin() -> Path | None:
    """Return the library: the one that ``FER_EDGE_PLUGIN`` names, else the installed one, else ``build/``.

    Raises
    ------
    PluginMissingError
        If ``FER_EDGE_PLUGIN`` names a file that does not exist.
    """
    paths = _candidates()
    found = next((path for path in paths if path.is_file()), None)
    if found is None and os.environ.get(VARIABLE):
        raise PluginMissingError(
            f"{paths[0]} does not exist: set {VARIABLE} to the file {LIBRARY}, or unset it"
        )
    return found


def require_plugin() -> Path:
    """Return the library, or raise :class:`PluginMissingError` with every path tried and what builds it."""
    found = find_plugin()
    if found is None:
        raise PluginMissingError(
            f"the TensorRT plugin is not installed: tried {', '.join(map(str, _candidates()))}; run {_BUILD}, or set {VARIABLE} to the file, or build without the plugin"
        )
    return found


def load_plugin(trt: Any, path: Path, sha256: str | None = None) -> None:
    """Load the library into TensorRT, before a file that needs it is parsed or an engine is read.

    The system's loader reads the file by its name, after it was checked: so nobody else may be able to change it.

    Parameters
    ----------
    trt : module
        ``tensorrt`` or ``tensorrt_rtx``.
    path : Path
        From :func:`find_plugin`.
    sha256 : str or None
        Of the library, where an engine was built with it.

    Raises
    ------
    EngineError
        If the library cannot be loaded or does not register the plugin, another user could have changed it, or it
        has another sha256.
    """
    _check(path, sha256)
    try:  # TensorRT says neither that it failed nor why
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise EngineError(
            f"the plugin cannot be loaded ({error}): build it for this machine, {_BUILD}"
        ) from None
    if not hasattr(library, "getCreators"):
        raise EngineError(f"{path} is no TensorRT plugin (it has no getCreators): give {LIBRARY}")
    registry = trt.get_plugin_registry()
    registry.load_library(str(path))
    known = {(c.plugin_namespace, c.name, c.plugin_version) for c in registry.all_creators}
    if (NAMESPACE, NAME, VERSION) not in known:
        raise EngineError(
            f"{path} does not give {trt.__name__} the plugin {NAMESPACE}::{NAME}, version {VERSION}: build it again, {_BUILD}"
        )


def _check(path: Path, sha256: str | None) -> None:
    try:
        require_private(path, f"name another file in {VARIABLE}")
        found = sha256_of(path)
    except OSError as error:
        raise EngineError(f"the plugin {path} cannot be read ({error.strerror})") from error
    if sha256 not in (None, found):
        raise EngineError(f"{path} was changed after the engine was built for it: open the model again")


def _candidates() -> list[Path]:
    named = os.environ.get(VARIABLE)
    if named:
        return [Path(named).resolve()]
    build = Path(fer_edge.__file__).resolve().parents[1] / "build"
    # An editable installation has two places, and the library lies in the one without source files.
    return [*(Path(place) / LIBRARY for place in fer_edge.__path__), build / LIBRARY]

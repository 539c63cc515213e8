"""The optional packages: which are missing here, and the command that installs exactly those."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shlex
from collections.abc import Mapping

from fer_edge.errors import MissingExtraError

#: Extra → module that is imported → distribution that brings it. The versions stand in the package's metadata.
#: Modules are looked for, not distributions: on a Jetson PyTorch and TensorRT come from NVIDIA.
EXTRAS: Mapping[str, Mapping[str, str]] = {
    "plots": {"matplotlib": "matplotlib"},
    "export": {
        "torch": "torch",
        "onnxscript": "onnxscript",
        "safetensors": "safetensors",
        "tensorboard": "tensorboard",
        "matplotlib": "matplotlib",
    },
    "tensorflow": {"google.protobuf": "protobuf", "google_crc32c": "google-crc32c"},
    "openvino": {"openvino": "openvino"},
    "tensorrt": {"tensorrt": "tensorrt", "cuda": "cuda-python"},
    "rtx": {"tensorrt_rtx": "tensorrt-rtx-cu13", "cuda": "cuda-python"},
    "demo": {"skimage": "scikit-image"},
    "completion": {"argcomplete": "argcomplete"},
}
_REQUIREMENT = re.compile(r"\s*(?P<name>[A-Za-z0-9._-]+)\s*(?P<version>[^;\s]*)")


def missing_modules(extra: str) -> tuple[str, ...]:
    """Return the modules of an extra, a key of :data:`EXTRAS`, that cannot be imported here."""
    return tuple(module for module in EXTRAS[extra] if not _is_installed(module))


def install_command(extra: str) -> str:
    """Return the command that installs what is missing of an extra, all of it where nothing is."""
    versions = _versions()
    names = [EXTRAS[extra][module] for module in missing_modules(extra) or EXTRAS[extra]]
    return shlex.join(["python", "-m", "pip", "install", *(name + versions.get(name, "") for name in names)])


def require_extra(extra: str, purpose: str) -> None:
    """Refuse work whose packages are not installed, before it begins.

    Parameters
    ----------
    extra : str
        A key of :data:`EXTRAS`.
    purpose : str
        What needs it, as the subject of a sentence, such as ``exporting weights``.

    Raises
    ------
    MissingExtraError
        If a package is missing; the message names it and the command that installs it.
    """
    if missing := missing_modules(extra):
        raise MissingExtraError(
            f"{purpose} needs {', '.join(EXTRAS[extra][module] for module in missing)}, not installed here "
            f"(extra {extra}): run {install_command(extra)}"
        )


def explain_missing_module(error: ModuleNotFoundError) -> MissingExtraError | None:
    """Return the error with the command that installs a module which was not found; ``None`` for one of ours.

    A module may be missing although :func:`require_extra` found all: a broken installation, or a dependency of one
    of ours that its package does not bring.
    """
    name = error.name or ""
    extra = next((e for e, modules in EXTRAS.items() if name in modules), None)
    if extra is not None:
        return MissingExtraError(f"{name} is not installed (extra {extra}): run {install_command(extra)}")
    if name.partition(".")[0] == "fer_edge" or not name:
        return None
    return MissingExtraError(f"{name} is not installed: run python -m pip install {name.partition('.')[0]}")


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ModuleNotFoundError, ValueError):  # no parent package; or a stand-in without a spec
        return False


def _versions() -> dict[str, str]:
    """Distribution → the versions that this package accepts; empty where it runs without being installed."""
    try:
        requirements = importlib.metadata.requires("fer-edge") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    found = (_REQUIREMENT.match(text) for text in requirements)
    return {match["name"]: match["version"] for match in found if match and "[" not in match["version"]}

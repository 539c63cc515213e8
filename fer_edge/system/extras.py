"""Optional packages: those that are missing here, and the command that installs them."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from collections.abc import Mapping

from fer_edge.errors import MissingExtraError
from fer_edge.system.shell import pip_command

#: Extra → imported module → its distribution. The versions are in the metadata of the package.
#: Modules are searched, not distributions: on a Jetson PyTorch and TensorRT come from NVIDIA.
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
    "mtcnn": {"mtcnn": "mtcnn"},
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
    """Return the command that installs the missing packages of an extra, or all of them if none is missing."""
    versions = _versions()
    names = [EXTRAS[extra][module] for module in missing_modules(extra) or EXTRAS[extra]]
    return pip_command("install", *(name + versions.get(name, "") for name in names))


def require_extra(extra: str, purpose: str) -> None:
    """Raise an error if packages of an extra are not installed.

    Parameters
    ----------
    extra : str
        A key of :data:`EXTRAS`.
    purpose : str
        Subject of the message, such as ``exporting weights``.

    Raises
    ------
    MissingExtraError
        If a package is missing; the message names it and the command that installs it.
    """
    if missing := missing_modules(extra):
        raise MissingExtraError(
            f"{purpose} needs {', '.join(EXTRAS[extra][module] for module in missing)} (extra {extra}), "
            f"which must be installed. Fix: {install_command(extra)}"
        )


def explain_missing_module(error: ModuleNotFoundError) -> MissingExtraError | None:
    """Return the error with the command that installs a missing module; ``None`` for modules of FER-Edge.

    A module may be missing although :func:`require_extra` passed: in a broken installation, or if a package does not
    declare a dependency.
    """
    name = error.name or ""
    extra = next((e for e, modules in EXTRAS.items() if name in modules), None)
    if extra is not None:
        return MissingExtraError(f"{name} is not installed (extra {extra}). Fix: {install_command(extra)}")
    if name.partition(".")[0] == "fer_edge" or not name:
        return None
    return MissingExtraError(
        f"{name} is not installed. Fix: {pip_command('install', name.partition('.')[0])}"
    )


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ModuleNotFoundError, ValueError):  # no parent package, or a stub module without a spec
        return False


def _versions() -> dict[str, str]:
    """Return distribution → version specifier of FER-Edge; empty if FER-Edge is not installed."""
    try:
        requirements = importlib.metadata.requires("fer-edge") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    found = (_REQUIREMENT.match(text) for text in requirements)
    return {match["name"]: match["version"] for match in found if match and "[" not in match["version"]}

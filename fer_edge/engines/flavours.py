"""The compilers that one builder serves, and what they ask of the machine."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fer_edge.cuda.gpus import ComputeCapability, dotted
from fer_edge.errors import EngineError
from fer_edge.system.extras import install_command


@dataclass(frozen=True)
class Flavour:
    """One compiler.

    Attributes
    ----------
    name : str
        Key of :data:`FLAVOURS`.
    module : str
        The Python module that holds its bindings.
    ahead_of_time : bool
        Whether it compiles for a compute capability, on a machine without a GPU; else only for this device.
    timing_cache : bool
        Whether it measures kernels, and keeps what it measured.
    dla : bool
        Whether it compiles for the deep-learning accelerators of a Jetson.
    fix : str
        What to do where ``module`` is missing.
    unversioned_libraries : mapping
        File names that it opens and its package lacks → the package with the file of the versioned name.
    """

    name: str
    module: str
    ahead_of_time: bool
    timing_cache: bool
    dla: bool
    fix: str
    unversioned_libraries: Mapping[str, str]


FLAVOURS: Mapping[str, Flavour] = {
    "tensorrt": Flavour(
        name="tensorrt",
        module="tensorrt",
        ahead_of_time=False,
        timing_cache=True,
        dla=True,
        fix="on a Jetson it comes with JetPack (sudo apt install python3-libnvinfer, and an environment made with "
        "python3 -m venv --system-site-packages; never pip install tensorrt there); elsewhere "
        + install_command("tensorrt"),
        unversioned_libraries={},
    ),
    "tensorrt-rtx": Flavour(
        name="tensorrt-rtx",
        module="tensorrt_rtx",
        ahead_of_time=True,
        timing_cache=False,
        dla=False,  # its module has the names, and no RTX card has one
        fix=f"{install_command('rtx')} (x86-64; a Jetson builds with the TensorRT of its JetPack, never pip "
        "install tensorrt there)",
        # Its ONNX parser opens this name when it meets a plugin, and aborts the process where it is missing.
        unversioned_libraries={"libtensorrt_rtx.so": "tensorrt_rtx_libs"},
    ),
}


#: What TensorRT-RTX refuses; TensorRT builds for these on the device itself.
_BUILT_ON_DEVICE: Mapping[ComputeCapability, str] = {
    (8, 7): "Jetson Orin",
    (9, 0): "H100 and GH200",
    (10, 0): "B200",
    (10, 1): "Jetson Thor before CUDA 13",
    (10, 3): "B300",
    (11, 0): "Jetson Thor",
}


def require_capability(wanted: ComputeCapability, accepted: Iterable[ComputeCapability]) -> None:
    """Raise :class:`EngineError` unless ``wanted`` is in ``accepted``; the message says what to do instead."""
    choices = sorted(accepted)
    if wanted in choices:
        return
    names = ", ".join(map(dotted, choices))
    device = _BUILT_ON_DEVICE.get(wanted)
    if device is not None:
        raise EngineError(
            f"compute capability {dotted(wanted)} ({device}) cannot be compiled for elsewhere: build on the device itself with TensorRT; accepted here: {names}"
        )
    raise EngineError(f"unknown compute capability {dotted(wanted)}: accepted are {names}")


def require_module(flavour: Flavour) -> None:
    """Raise :class:`EngineError` with the fix where the compiler is not installed."""
    if importlib.util.find_spec(flavour.module) is None:
        raise EngineError(f"{flavour.name} is not installed: {flavour.fix}")


def worker_environment(flavour: Flavour, folder: Path) -> dict[str, str]:
    """Return the environment for a process that uses ``flavour``.

    ``folder`` gets a link under each name that the compiler opens and its package lacks; the dynamic
    loader, which reads its path once at the start of a process, finds the library that is loaded already.
    """
    environment = dict(os.environ)
    for name, package in flavour.unversioned_libraries.items():
        spec = importlib.util.find_spec(package)
        places = spec.submodule_search_locations if spec is not None else None
        versioned = [path for place in places or [] for path in Path(place).glob(f"{name}.*")]
        if versioned:  # a package that brings the plain name, or a system library, needs no link
            (folder / name).symlink_to(max(versioned))
            old = environment.get("LD_LIBRARY_PATH")
            environment["LD_LIBRARY_PATH"] = f"{folder}:{old}" if old else str(folder)
    return environment

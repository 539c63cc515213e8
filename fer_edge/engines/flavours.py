"""Supported compilers and their requirements."""

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
        Python module of its bindings.
    ahead_of_time : bool
        Whether it compiles for any compute capability without a GPU, instead of only for this device.
    timing_cache : bool
        Whether it measures kernels and has a cache of these timings.
    dla : bool
        Whether it supports the deep-learning accelerators of a Jetson.
    fix : str
        Instructions to install ``module``.
    unversioned_libraries : mapping
        File name that it opens but its package lacks → package with the versioned file.
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
        fix="on a Jetson, use JetPack's (sudo apt install python3-libnvinfer, in an environment made with "
        "python3 -m venv --system-site-packages; never pip install tensorrt there); elsewhere, "
        + install_command("tensorrt"),
        unversioned_libraries={},
    ),
    "tensorrt-rtx": Flavour(
        name="tensorrt-rtx",
        module="tensorrt_rtx",
        ahead_of_time=True,
        timing_cache=False,
        dla=False,  # its module has the API, but no RTX card has a DLA
        fix=f"{install_command('rtx')} (x86-64; on a Jetson, use JetPack's TensorRT, never pip "
        "install tensorrt)",
        # Its ONNX parser opens this name for a plugin, and aborts the process if it is missing.
        unversioned_libraries={"libtensorrt_rtx.so": "tensorrt_rtx_libs"},
    ),
}


#: Not supported by TensorRT-RTX; TensorRT builds for these on the device itself.
_BUILT_ON_DEVICE: Mapping[ComputeCapability, str] = {
    (8, 7): "Jetson Orin",
    (9, 0): "H100 and GH200",
    (10, 0): "B200",
    (10, 1): "Jetson Thor before CUDA 13",
    (10, 3): "B300",
    (11, 0): "Jetson Thor",
}


def require_capability(wanted: ComputeCapability, accepted: Iterable[ComputeCapability]) -> None:
    """Raise :class:`EngineError` unless ``wanted`` is in ``accepted``."""
    choices = sorted(accepted)
    if wanted in choices:
        return
    names = ", ".join(map(dotted, choices))
    device = _BUILT_ON_DEVICE.get(wanted)
    if device is not None:
        raise EngineError(
            f"compute capability {dotted(wanted)} ({device}) is not supported by the ahead-of-time compiler, expected one of {names}. Fix: build on the device itself with TensorRT"
        )
    raise EngineError(f"unknown compute capability {dotted(wanted)}. Fix: give one of {names}")


def require_module(flavour: Flavour) -> None:
    """Raise :class:`EngineError` if the compiler is not installed."""
    if importlib.util.find_spec(flavour.module) is None:
        raise EngineError(f"{flavour.name} is not installed. Fix: {flavour.fix}")


def worker_environment(flavour: Flavour, folder: Path) -> dict[str, str]:
    """Return the environment for a process that uses ``flavour``.

    In ``folder`` a link is made for each unversioned name that the compiler opens and its package lacks. The dynamic
    loader reads its path once at process start and finds the library that is loaded already.
    """
    environment = dict(os.environ)
    for name, package in flavour.unversioned_libraries.items():
        spec = importlib.util.find_spec(package)
        places = spec.submodule_search_locations if spec is not None else None
        versioned = [path for place in places or [] for path in Path(place).glob(f"{name}.*")]
        if versioned:  # otherwise the package has the unversioned name, or it is a system library
            (folder / name).symlink_to(max(versioned))
            old = environment.get("LD_LIBRARY_PATH")
            environment["LD_LIBRARY_PATH"] = f"{folder}:{old}" if old else str(folder)
    return environment

"""Devices: compute capabilities that can be compiled for elsewhere, and whether there is a GPU here."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from fer_edge.errors import EngineError, UsageError

#: (major, minor), such as (8, 6).
ComputeCapability: TypeAlias = tuple[int, int]

#: What TensorRT-RTX refuses; TensorRT builds for these on the device itself.
_BUILT_ON_DEVICE: Mapping[ComputeCapability, str] = {
    (8, 7): "Jetson Orin",
    (9, 0): "H100 and GH200",
    (10, 0): "B200",
    (10, 1): "Jetson Thor before CUDA 13",
    (10, 3): "B300",
    (11, 0): "Jetson Thor",
}


@dataclass(frozen=True)
class Gpu:
    """What an engine is for.

    Attributes
    ----------
    compute_capability : (int, int)
        Such as (8, 7).
    name : str or None
        Its name and size, such as ``Orin, 8 multiprocessors, 7 GiB``; ``None`` for any of the capability.
    driver : str or None
        Version of the driver and newest CUDA that it serves, such as ``540.4.0, CUDA 12.6``; ``None`` for any.
    """

    compute_capability: ComputeCapability
    name: str | None = None
    driver: str | None = None


def dotted(capability: ComputeCapability) -> str:
    """Return ``8.6`` for (8, 6)."""
    return f"{capability[0]}.{capability[1]}"


def parse_capability(text: str) -> ComputeCapability:
    """Return (8, 6) for ``8.6``."""
    found = re.fullmatch(r"(\d{1,2})\.(\d)", text, re.ASCII)
    if found is None:
        raise UsageError(f"expected a compute capability such as 8.6, found {text!r}")
    return int(found[1]), int(found[2])


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


def require_gpu() -> None:
    """Raise :class:`EngineError` where no GPU can be used.

    Asked of the driver, before TensorRT is: some of its bindings return an object from a failed start
    and crash at its first use.
    """
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise EngineError(
            "building for this device needs an NVIDIA GPU, and its driver (libcuda.so.1) is not installed: build on the device, or give a compute capability to tensorrt-rtx"
        ) from None
    count = ctypes.c_int()
    status = cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count))
    if status or not count.value:
        raise EngineError(
            f"building for this device needs an NVIDIA GPU, and the driver finds none (status {status}, {count.value} devices): run nvidia-smi"
        )

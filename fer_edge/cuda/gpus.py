"""GPUs of this machine as reported by the CUDA driver, and compute capabilities."""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass
from typing import TypeAlias

from fer_edge.errors import EngineError, UsageError

#: (major, minor), such as (8, 6).
ComputeCapability: TypeAlias = tuple[int, int]

_MAX_DEVICES = 16
_MAJOR, _MINOR = 75, 76  # attributes of cuDeviceGetAttribute: compute capability


@dataclass(frozen=True)
class Gpu:
    """One device of the CUDA driver."""

    name: str
    compute_capability: ComputeCapability
    memory_bytes: int


@dataclass(frozen=True)
class Driver:
    """State of the CUDA driver.

    Attributes
    ----------
    status : int
        CUresult of ``cuInit`` or ``cuDeviceGetCount``; 0 is success.
    version : int
        Newest CUDA version that it supports, such as 12060 for 12.6.
    devices : tuple of Gpu
        Usable devices, at most 16.
    """

    status: int
    version: int
    devices: tuple[Gpu, ...]


def dotted(capability: ComputeCapability) -> str:
    """Return ``8.6`` for (8, 6)."""
    return f"{capability[0]}.{capability[1]}"


def parse_capability(text: str) -> ComputeCapability:
    """Return (8, 6) for ``8.6``."""
    found = re.fullmatch(r"(\d{1,2})\.(\d)", text, re.ASCII)
    if found is None:
        raise UsageError(f"expected a compute capability such as 8.6, found {text!r}. Fix: give MAJOR.MINOR")
    return int(found[1]), int(found[2])


def query_driver() -> Driver:
    """Query the driver library; a broken driver may hang or crash the process.

    Raises
    ------
    OSError
        If ``libcuda.so.1`` is not installed.
    """
    cuda = ctypes.CDLL("libcuda.so.1")
    version, count = ctypes.c_int(), ctypes.c_int()
    cuda.cuDriverGetVersion(ctypes.byref(version))
    status = cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count))
    devices = tuple(_describe(cuda, index) for index in range(min(count.value, _MAX_DEVICES)))
    return Driver(status, version.value, devices)


def _describe(cuda: ctypes.CDLL, index: int) -> Gpu:
    device, memory_bytes = ctypes.c_int(), ctypes.c_size_t()
    name = ctypes.create_string_buffer(128)
    major, minor = ctypes.c_int(), ctypes.c_int()
    cuda.cuDeviceGet(ctypes.byref(device), index)
    cuda.cuDeviceGetName(name, len(name), device)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(memory_bytes), device)
    for number, attribute in ((major, _MAJOR), (minor, _MINOR)):
        cuda.cuDeviceGetAttribute(ctypes.byref(number), attribute, device)
    return Gpu(name.value.decode(errors="replace"), (major.value, minor.value), memory_bytes.value)


def require_gpu() -> None:
    """Raise :class:`EngineError` if no GPU can be used.

    Queries the driver instead of TensorRT: some bindings return an object after failed initialisation and crash at
    its first use.
    """
    try:
        driver = query_driver()
    except OSError:
        raise EngineError(
            "building for this device needs an NVIDIA GPU, but its driver (libcuda.so.1) is not installed. Fix: build on the device, or give a compute capability to tensorrt-rtx"
        ) from None
    if driver.status or not driver.devices:
        raise EngineError(
            f"building for this device needs an NVIDIA GPU, but the driver finds none (status {driver.status}, {len(driver.devices)} devices). Fix: check it with nvidia-smi"
        )

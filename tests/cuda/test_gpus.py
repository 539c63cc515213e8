"""Compute capabilities as text, and the messages for unsupported ones."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from fer_edge.cuda.gpus import Driver, Gpu, dotted, parse_capability, query_driver, require_gpu
from fer_edge.errors import EngineError, UsageError


def test_text_and_back() -> None:
    assert parse_capability("8.6") == (8, 6)
    assert dotted(parse_capability("12.1")) == "12.1"


@pytest.mark.parametrize("text", ["", "86", "8.", ".6", "8.66", "sm_86", "8.6 ", "-8.6", "８.6", "8,6"])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"expected a compute capability such as 8\.6"):
        parse_capability(text)


class Library:
    """Stub of the driver library, for a machine with GPUs named ``GPU 0`` and so on."""

    def __init__(self, status: int, gpus: int) -> None:
        self.status, self.gpus = status, gpus

    def cuDriverGetVersion(self, version: Any) -> int:
        version._obj.value = 12060
        return 0

    def cuInit(self, flags: int) -> int:
        return self.status

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = self.gpus
        return 0

    def cuDeviceGet(self, device: Any, index: int) -> int:
        device._obj.value = index
        return 0

    def cuDeviceGetName(self, name: Any, size: int, device: Any) -> int:
        name.value = f"GPU {device.value}".encode()
        return 0

    def cuDeviceTotalMem_v2(self, size: Any, device: Any) -> int:
        size._obj.value = 8 << 30
        return 0

    def cuDeviceGetAttribute(self, number: Any, attribute: int, device: Any) -> int:
        number._obj.value = {75: 8, 76: 7}[attribute]  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
        return 0


@pytest.mark.parametrize("status", [0, 100])  # none counted; CUDA_ERROR_NO_DEVICE
def test_a_driver_without_a_gpu(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library(status, 0))
    assert query_driver() == Driver(status, 12060, ())
    with pytest.raises(EngineError, match=f"finds none \\(status {status}, 0 devices\\). Fix: .*nvidia-smi"):
        require_gpu()


def test_the_gpus_of_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library(0, 2))
    require_gpu()
    found = tuple(Gpu(name, (8, 7), 8 << 30) for name in ("GPU 0", "GPU 1"))
    assert query_driver() == Driver(0, 12060, found)

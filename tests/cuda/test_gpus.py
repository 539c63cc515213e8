"""Compute capabilities as text, and the messages for those that cannot be compiled for."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from fer_edge.cuda.gpus import dotted, parse_capability, require_capability, require_gpu
from fer_edge.errors import EngineError, UsageError

ACCEPTED = [(8, 9), (8, 6), (12, 0)]


def test_text_and_back() -> None:
    assert parse_capability("8.6") == (8, 6)
    assert dotted(parse_capability("12.1")) == "12.1"


@pytest.mark.parametrize("text", ["", "86", "8.", ".6", "8.66", "sm_86", "8.6 ", "-8.6", "８.6", "8,6"])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"expected a compute capability such as 8\.6"):
        parse_capability(text)


def test_what_is_accepted_is_listed() -> None:
    require_capability((8, 6), ACCEPTED)
    with pytest.raises(
        EngineError, match=r"^unknown compute capability 6\.8: accepted are 8\.6, 8\.9, 12\.0$"
    ):
        require_capability((6, 8), ACCEPTED)
    with pytest.raises(
        EngineError, match=r"8\.7 \(Jetson Orin\) .* on the device itself .* 8\.6, 8\.9, 12\.0"
    ):
        require_capability((8, 7), ACCEPTED)


class Driver:
    """A driver that answers as one without a usable GPU does."""

    def __init__(self, status: int) -> None:
        self.status = status

    def cuInit(self, flags: int) -> int:
        return self.status

    def cuDeviceGetCount(self, count: Any) -> int:
        return 0


@pytest.mark.parametrize("status", [0, 100])  # none counted; CUDA_ERROR_NO_DEVICE
def test_a_driver_without_a_gpu(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver(status))
    with pytest.raises(EngineError, match=f"finds none \\(status {status}, 0 devices\\): run nvidia-smi"):
        require_gpu()

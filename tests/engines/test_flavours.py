"""Compute capabilities of a compiler, and the messages for unsupported ones."""

from __future__ import annotations

import pytest

from fer_edge.engines.flavours import require_capability
from fer_edge.errors import EngineError

ACCEPTED = [(8, 9), (8, 6), (12, 0)]


def test_what_is_accepted_is_listed() -> None:
    require_capability((8, 6), ACCEPTED)
    with pytest.raises(
        EngineError, match=r"^unknown compute capability 6\.8\. Fix: give one of 8\.6, 8\.9, 12\.0$"
    ):
        require_capability((6, 8), ACCEPTED)
    with pytest.raises(
        EngineError, match=r"8\.7 \(Jetson Orin\) .* 8\.6, 8\.9, 12\.0\. Fix: build on the device itself"
    ):
        require_capability((8, 7), ACCEPTED)

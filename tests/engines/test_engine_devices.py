"""Compute capabilities as text, and the messages for those that cannot be compiled for."""

from __future__ import annotations

import pytest

from fer_edge.engines.devices import dotted, parse_capability, require_capability
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

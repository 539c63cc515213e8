"""The cyclic rate of EmotionalDAN."""

from __future__ import annotations

import math

import pytest

from fer_edge.errors import UsageError
from fer_edge.export.training.schedules import triangular_rate


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        (0, 0.0001),
        (1, 0.00010499),  # 1e-4 + 0.0499 / 10,000
        (5_000, 0.02505),
        (10_000, 0.05),
        (15_000, 0.02505),
        (20_000, 0.0001),
        (27_500, 0.037525),  # three quarters of the way up
        (30_000, 0.05),
        (40_000, 0.0001),
        (2_010_000, 0.05),
    ],
)
def test_the_rate_rises_and_falls_as_in_the_paper(step: int, rate: float) -> None:
    assert triangular_rate(step) == pytest.approx(rate, rel=1e-9)


def test_the_triangle_can_be_set() -> None:
    assert [triangular_rate(s, 0.0, 1.0, 2) for s in range(6)] == [0.0, 0.5, 1.0, 0.5, 0.0, 0.5]
    assert [triangular_rate(s, 0.25, 1.25, 1) for s in range(4)] == [0.25, 1.25, 0.25, 1.25]


@pytest.mark.parametrize(
    "arguments", [(-1,), (0, -0.1), (0, 0.1, 0.01), (0, 1e-4, 0.05, 0), (0, 1e-4, math.inf), (0, math.nan)]
)
def test_what_makes_no_triangle_is_refused(arguments: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match="triangular rate needs"):
        triangular_rate(*arguments)

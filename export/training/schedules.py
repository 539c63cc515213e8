"""Learning rates that PyTorch lacks."""

from __future__ import annotations

import math

from fer_edge.errors import UsageError


def triangular_rate(step: int, low: float = 1e-4, high: float = 0.05, half_cycle: int = 10_000) -> float:
    """Return the cyclic rate of EmotionalDAN's second stage: a triangle wave from ``low`` to ``high``.

    c = ⌊1 + s / 2h⌋, r = |s / h − 2c + 1|, rate = low + (high − low) · max(0, 1 − r).

    Parameters
    ----------
    step : int
        Optimiser steps done, s ≥ 0.
    low, high : float
        Rates at step 0 and after half a cycle.
    half_cycle : int
        h, steps from ``low`` to ``high``.

    Raises
    ------
    UsageError
        If the step is negative, or the rates or the cycle are out of range.
    """
    if step < 0 or half_cycle < 1 or not 0 <= low <= high < math.inf:
        raise UsageError(
            f"a triangular rate needs step ≥ 0, 0 ≤ low ≤ high and half_cycle ≥ 1, found step {step}, low {low}, high {high}, half_cycle {half_cycle}. Fix: give values in these ranges."
        )
    cycle = math.floor(1 + step / (2 * half_cycle))
    distance = abs(step / half_cycle - 2 * cycle + 1)
    return low + (high - low) * max(0.0, 1 - distance)

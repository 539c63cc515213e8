"""Interleaved timing: a change of the machine's speed affects all compared calls alike.

The order changes with every turn, because the previous call matters: its threads may still spin, and the caches
hold its weights.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)
WARM_UP_TURNS = 3
MIN_TURNS = 10


def take_turns(
    work: Mapping[Key, Callable[[], object]], turns: int, budget_s: float = float("inf")
) -> dict[Key, list[float]]:
    """Call everything once per turn and return the latencies of each in milliseconds.

    Parameters
    ----------
    work : mapping
        Timed calls by name.
    turns : int
        Number of timed calls of each, after the warm-up.
    budget_s : float
        No turn begins after this number of seconds, except the first :data:`MIN_TURNS`.
    """
    taken: dict[Key, list[float]] = {key: [] for key in work}
    order = list(work.items())
    shuffle = random.Random(0).shuffle
    begun = time.perf_counter()
    for turn in range(-WARM_UP_TURNS, turns):
        if turn >= MIN_TURNS and time.perf_counter() - begun > budget_s:
            break
        shuffle(order)
        for key, call in order:
            started = time.perf_counter()
            call()
            if turn >= 0:
                taken[key].append((time.perf_counter() - started) * 1e3)
    return taken

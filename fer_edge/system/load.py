"""CPU time that other processes take during a measurement, from the counters of the kernel."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Collection

from fer_edge.system.machine import LocalMachine, Machine

#: Share of the processors from which other processes disturb a timing.
BUSY_SHARE = 0.2
#: The kernel counts in steps of 10 ms, so that a shorter measurement has no meaningful share.
_MIN_ELAPSED_S = 0.25
#: Columns of ``/proc/stat``, in its order; ``user`` includes guests, and ``idle`` and ``iowait`` are not work.
_WORK = (0, 1, 2, 5, 6, 7)  # user, nice, system, irq, softirq, steal
_COLUMNS = 8


class LoadMeter:
    """Measures from its creation on the share of the usable processors that other processes take.

    Parameters
    ----------
    machine : Machine, optional
        Machine to read from; default: this one.
    usable : collection of int, optional
        Indices of the usable processors; default: the affinity of this process.
    """

    def __init__(self, machine: Machine | None = None, usable: Collection[int] | None = None) -> None:
        self._machine = LocalMachine() if machine is None else machine
        self._usable = set(os.sched_getaffinity(0) if usable is None else usable)
        self._begun = self._read()

    def share_of_others(self) -> float | None:
        """Return the share from 0 to 1; ``None`` if the kernel does not tell, or too little time has passed."""
        before, now = self._begun, self._read()
        elapsed_s = now[0] - before[0]
        if before[1] is None or now[1] is None or elapsed_s < _MIN_ELAPSED_S:
            return None
        others_s = (now[1] - before[1]) - (now[2] - before[2])
        return min(1.0, max(0.0, others_s / (elapsed_s * len(self._usable))))

    def _read(self) -> tuple[float, float | None, float]:
        """Return the time, the CPU time of all processes on the usable processors, and that of this process."""
        taken = os.times()
        own_s = taken.user + taken.system + taken.children_user + taken.children_system
        return time.monotonic(), self._busy_s(), own_s

    def _busy_s(self) -> float | None:
        text = self._machine.read("/proc/stat") or ""
        rows = {int(n): row.split() for n, row in re.findall(r"^cpu(\d{1,6}) ([\d ]+)$", text, re.MULTILINE)}
        if not self._usable <= rows.keys() or any(len(rows[n]) < _COLUMNS for n in self._usable):
            return None
        ticks = sum(int(rows[n][column]) for n in self._usable for column in _WORK)
        return ticks / os.sysconf("SC_CLK_TCK")


def describe_load(share_of_others: float | None) -> str:
    """Return a clause about other processes that disturb a timing; empty if they do not, or it is unknown."""
    if share_of_others is None or share_of_others < BUSY_SHARE:
        return ""
    return f"other processes took {100 * share_of_others:.0f} % of the processors meanwhile"

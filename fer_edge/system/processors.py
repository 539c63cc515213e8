"""Processors available to this process, within its affinity and the limits of its container."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Collection
from dataclasses import dataclass

from fer_edge.system.control_groups import find_control_groups
from fer_edge.system.machine import Machine, read_number


@dataclass(frozen=True)
class Processors:
    """Processors of the machine and those available to this process.

    Attributes
    ----------
    machine : int
        Logical processors of the machine.
    logical : int
        Logical processors in the affinity mask.
    cores : int
        Physical cores of these processors.
    quota : int or None
        CPU quota of the control group in processors, rounded up; ``None`` without a limit.
    """

    machine: int
    logical: int
    cores: int
    quota: int | None = None

    @property
    def usable(self) -> int:
        """Number of threads that can run concurrently."""
        return min(self.logical, self.quota or self.logical)

    @property
    def limited(self) -> bool:
        """True if this process may use fewer processors than the machine has, which libraries may overlook."""
        return self.usable < self.machine


def count_processors(machine: Machine, usable: Collection[int] | None = None) -> Processors:
    """Return the processors as reported by the kernel.

    Parameters
    ----------
    machine : Machine
        Machine to read from.
    usable : collection of int, optional
        Indices of the usable processors; default: the affinity of this process.
    """
    numbers = os.sched_getaffinity(0) if usable is None else set(usable)
    cores = {_core(machine, number) for number in numbers}
    quotas = [_quota(machine, folder, version) for folder, version in find_control_groups(machine, "cpu")]
    quota = min((quota for quota in quotas if quota is not None), default=None)
    return Processors(max(os.cpu_count() or 1, len(numbers)), len(numbers), len(cores), quota)


def _core(machine: Machine, number: int) -> tuple[int, int]:
    """Return package and core of a logical processor; without a description it counts as its own core."""
    folder = f"/sys/devices/system/cpu/cpu{number}/topology"
    package, core = (read_number(machine, f"{folder}/{name}") for name in ("physical_package_id", "core_id"))
    return (-1, number) if core is None else (package or 0, core)


def _quota(machine: Machine, folder: str, version: int) -> int | None:
    if version == 2:
        found = re.fullmatch(r"(\d{1,15}) (\d{1,15})", (machine.read(f"{folder}/cpu.max") or "").strip())
        quota, period = (int(found[1]), int(found[2])) if found else (None, None)
    else:  # -1 means no limit and is not a number for read_number
        quota, period = (read_number(machine, f"{folder}/cpu.cfs_{name}_us") for name in ("quota", "period"))
    return max(1, math.ceil(quota / period)) if quota and period else None

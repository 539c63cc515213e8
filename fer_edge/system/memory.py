"""Memory available to this process, within the limits of its container, and commands that add swap."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fer_edge.system.control_groups import find_control_groups
from fer_edge.system.machine import LocalMachine, Machine, read_number

#: Files of control groups of version 1 and 2 with the limit and the usage, and the row of ``memory.stat`` that the
#: kernel reclaims before it kills: inactive file pages.
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = ("memory.max", "memory.current", "inactive_file")
_V2_SWAP = ("memory.swap.max", "memory.swap.current")


@dataclass(frozen=True)
class FreeMemory:
    """Free memory of this process.

    Attributes
    ----------
    memory_bytes, swap_bytes : int
        Free main memory and free swap.
    limited : bool
        Whether a control group, such as that of a container, allows less than the machine has free.
    """

    memory_bytes: int
    swap_bytes: int
    limited: bool

    @property
    def total_bytes(self) -> int:
        """Main memory and swap together."""
        return self.memory_bytes + self.swap_bytes


def measure_free_memory(machine: Machine) -> FreeMemory | None:
    """Return the free memory of this process, ``None`` if the kernel does not report it."""
    text = machine.read("/proc/meminfo") or ""
    rows = re.findall(r"^(MemAvailable|SwapFree):\s+(\d{1,15}) kB$", text, re.MULTILINE | re.ASCII)
    sizes = {name: int(kib) << 10 for name, kib in rows}
    if "MemAvailable" not in sizes:
        return None
    memory, swap = sizes["MemAvailable"], sizes.get("SwapFree", 0)
    limits: list[int | None] = []
    for folder, number in find_control_groups(machine, "memory"):
        version = _V2 if number == 2 else _V1
        limits.append(_room(machine, folder, *version))
        if version is _V2 and (room := _room(machine, folder, *_V2_SWAP)) is not None:
            swap = min(swap, room)
    least = min((limit for limit in limits if limit is not None), default=memory)
    return FreeMemory(min(memory, least), swap, least < memory)


def own_peak_bytes() -> int | None:
    """Return the peak resident memory of this process, ``None`` without the ``/proc`` of Linux.

    ``getrusage`` would include that of the parent process.
    """
    found = re.search(r"^VmHWM:\s+(\d+) kB$", LocalMachine().read("/proc/self/status") or "", re.MULTILINE)
    return int(found[1]) << 10 if found else None


def add_swap(lacking_bytes: int) -> tuple[str, ...]:
    """Return the commands that add at least this much swap until the next reboot."""
    return (
        f"sudo fallocate -l {lacking_bytes // 1_000_000_000 + 2}G /swapfile",
        "sudo chmod 600 /swapfile",
        "sudo mkswap /swapfile",
        "sudo swapon /swapfile",
    )


def _room(machine: Machine, folder: str, limit: str, used: str, cache: str | None = None) -> int | None:
    """Return the memory that a group may still use, ``None`` if it has no limit."""
    most = read_number(machine, f"{folder}/{limit}")
    if most is None:
        return None
    taken = read_number(machine, f"{folder}/{used}") or 0
    if cache is not None:
        text = machine.read(f"{folder}/memory.stat") or ""
        row = re.search(rf"^{cache} (\d{{1,18}})$", text, re.MULTILINE | re.ASCII)
        taken -= int(row[1]) if row else 0
    return max(0, most - max(0, taken))

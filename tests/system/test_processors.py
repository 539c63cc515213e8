"""Count of usable processors: topology, affinity and quotas of version 1 and 2 of control groups."""

from __future__ import annotations

import os

import pytest

from fer_edge.system.machine import LocalMachine
from fer_edge.system.processors import count_processors


class Files:
    """A machine that has files only."""

    architecture = "x86_64"

    def __init__(self, files: dict[str, str]) -> None:
        self._files = files

    def read(self, path: str) -> str | None:
        return self._files.get(path)


def topology(*cores: tuple[int, int]) -> dict[str, str]:
    return {
        f"/sys/devices/system/cpu/cpu{i}/topology/{name}": f"{number}\n"
        for i, numbers in enumerate(cores)
        for name, number in zip(("physical_package_id", "core_id"), numbers, strict=True)
    }


def test_two_threads_share_a_core() -> None:
    machine = Files(topology((0, 0), (0, 1), (0, 0), (0, 1), (1, 0), (1, 0)))
    found = count_processors(machine, range(6))
    assert (found.logical, found.cores, found.quota, found.usable) == (6, 3, None, 6)
    assert count_processors(machine, {0, 2}).cores == 1
    assert count_processors(Files({}), range(3)).cores == 3


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"/sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
        ({"/sys/fs/cgroup/cpu.max": "150000 100000\n"}, 2),
        ({"/sys/fs/cgroup/cpu.max": "1000 100000\n"}, 1),
        ({"/sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ({"/sys/fs/cgroup/cpu.max": "100000 0\n"}, None),
        ({"/sys/fs/cgroup/cpu.max": "garbage"}, None),
        (
            {
                "/proc/self/cgroup": "0::/a/b\n",
                "/sys/fs/cgroup/a/b/cpu.max": "800000 100000\n",
                "/sys/fs/cgroup/a/cpu.max": "300000 100000\n",
            },
            3,
        ),
        (
            {
                "/proc/self/cgroup": "4:cpu,cpuacct:/a\n2:cpuset:/b\n",
                "/sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "400000\n",
                "/sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000\n",
                "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            4,
        ),
    ],
)
def test_a_control_group_limits_the_time(files: dict[str, str], quota: int | None) -> None:
    found = count_processors(Files(files), range(16))
    assert found.quota == quota
    assert found.usable == (quota or 16)
    assert found.limited == (found.usable < found.machine)


def test_this_machine() -> None:
    found = count_processors(LocalMachine())
    assert found.logical == len(os.sched_getaffinity(0))
    assert 1 <= found.cores <= found.logical
    assert 1 <= found.usable <= found.logical

"""Free memory within control groups of both versions, of this machine, and with invalid files."""

from __future__ import annotations

from pathlib import Path

import pytest

from fer_edge.system.machine import LocalMachine
from fer_edge.system.memory import FreeMemory, add_swap, measure_free_memory

GIB = 1 << 30
#: 8 GiB of memory and 4 of swap are free.
MEMINFO = {"/proc/meminfo": "MemTotal:  16777216 kB\nMemAvailable:  8388608 kB\nSwapFree:  4194304 kB\n"}
UNLIMITED_V1 = "9223372036854771712\n"


class Files:
    """A machine that has only files."""

    architecture = "aarch64"

    def __init__(self, *files: dict[str, str]) -> None:
        self.files = {path: text for some in files for path, text in some.items()}

    def read(self, path: str) -> str | None:
        return self.files.get(path)

    def find(self, pattern: str) -> list[str]:
        return []

    def run(self, *command: str) -> None:
        return None

    def ask(self, question: str) -> None:
        return None


def version_2(folder: str, limit: object, used: int, cache: int = 0) -> dict[str, str]:
    return {
        f"{folder}/memory.max": f"{limit}\n",
        f"{folder}/memory.current": f"{used}\n",
        f"{folder}/memory.stat": f"anon {used - cache}\nfile {cache}\ninactive_file {cache}\n",
    }


def version_1(folder: str, limit: object, used: int, cache: int = 0) -> dict[str, str]:
    return {
        f"{folder}/memory.limit_in_bytes": f"{limit}\n",
        f"{folder}/memory.usage_in_bytes": f"{used}\n",
        f"{folder}/memory.stat": f"cache 0\ninactive_file 0\ntotal_inactive_file {cache}\n",
    }


CASES: dict[str, tuple[dict[str, str], FreeMemory]] = {
    "no groups": ({}, FreeMemory(8 * GIB, 4 * GIB, False)),
    "no limit": (version_2("/sys/fs/cgroup", "max", GIB), FreeMemory(8 * GIB, 4 * GIB, False)),
    "a container": (version_2("/sys/fs/cgroup", 3 * GIB, GIB), FreeMemory(2 * GIB, 4 * GIB, True)),
    "a container above what is free": (
        version_2("/sys/fs/cgroup", 12 * GIB, GIB),
        FreeMemory(8 * GIB, 4 * GIB, False),
    ),
    "file pages are given back": (
        version_2("/sys/fs/cgroup", 3 * GIB, 2 * GIB, cache=GIB),
        FreeMemory(2 * GIB, 4 * GIB, True),
    ),
    "more is used than allowed": (
        version_2("/sys/fs/cgroup", GIB, 2 * GIB),
        FreeMemory(0, 4 * GIB, True),
    ),
    "a container without swap": (
        {
            **version_2("/sys/fs/cgroup", 3 * GIB, GIB),
            "/sys/fs/cgroup/memory.swap.max": "0\n",
            "/sys/fs/cgroup/memory.swap.current": "0\n",
        },
        FreeMemory(2 * GIB, 0, True),
    ),
    "a service below a slice that is narrower": (
        {
            "/proc/self/cgroup": "0::/system.slice/fer.service\n",
            **version_2("/sys/fs/cgroup/system.slice/fer.service", "max", GIB),
            **version_2("/sys/fs/cgroup/system.slice", 4 * GIB, GIB),
        },
        FreeMemory(3 * GIB, 4 * GIB, True),
    ),
    "version 1, a container": (
        {
            "/proc/self/cgroup": "9:cpuset:/\n4:memory:/docker/abc\n0::/\n",
            **version_1("/sys/fs/cgroup/memory", 2 * GIB, GIB, cache=GIB // 2),
        },
        FreeMemory(3 * GIB // 2, 4 * GIB, True),
    ),
    "version 1, a group by its path": (
        {
            "/proc/self/cgroup": "4:cpu,memory:/jobs/one\n",
            **version_1("/sys/fs/cgroup/memory/jobs/one", 2 * GIB, GIB),
            **version_1("/sys/fs/cgroup/memory", UNLIMITED_V1, 9 * GIB),
        },
        FreeMemory(GIB, 4 * GIB, True),
    ),
    "a path that leads out": (
        {
            "/proc/self/cgroup": "0::/../../etc\n",
            "/sys/fs/cgroup/../../etc/memory.max": "1\n",
            **version_2("/sys/fs/cgroup", 3 * GIB, GIB),
        },
        FreeMemory(2 * GIB, 4 * GIB, True),
    ),
    "files of nonsense": (
        {"/proc/self/cgroup": "0::" + "/a" * 20_000, "/sys/fs/cgroup/memory.max": "-1e9"},
        FreeMemory(8 * GIB, 4 * GIB, False),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_free(name: str) -> None:
    files, expected = CASES[name]
    assert measure_free_memory(Files(MEMINFO, files)) == expected
    assert expected.total_bytes == expected.memory_bytes + expected.swap_bytes


@pytest.mark.parametrize("text", ["", "MemAvailable: lots\n", "SwapFree:  4194304 kB\n"])
def test_a_kernel_that_does_not_say(text: str) -> None:
    assert measure_free_memory(Files({"/proc/meminfo": text})) is None


def test_this_machine() -> None:
    free = measure_free_memory(LocalMachine())
    assert free is not None
    rows = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    assert 0 <= free.memory_bytes <= int(rows["MemTotal"].split()[0]) << 10
    assert 0 <= free.swap_bytes <= int(rows["SwapTotal"].split()[0]) << 10


def test_swap_is_a_little_more_than_what_lacks() -> None:
    assert add_swap(0)[0] == "sudo fallocate -l 2G /swapfile"
    assert add_swap(2_400_000_000)[0] == "sudo fallocate -l 4G /swapfile"

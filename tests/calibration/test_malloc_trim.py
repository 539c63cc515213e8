"""Freed memory is returned to the system."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from fer_edge.calibration.malloc_trim import return_free_memory


def resident_mib() -> float:
    (line,) = (v for v in Path("/proc/self/status").read_text().splitlines() if v.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep nothing to give back")
def test_what_was_freed_below_what_is_held_is_given_back() -> None:
    blocks = [bytearray(b"x" * (64 << 10)) for _ in range(2000)]
    held = blocks[::100]  # between the freed ones, so that the heap cannot shrink from its end
    del blocks
    before = resident_mib()
    return_free_memory()
    assert before - resident_mib() > 60
    assert len(held) == 20

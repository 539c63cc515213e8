"""Memory of large networks: what is freed goes back to the system before the next phase takes its own.

glibc keeps freed blocks of up to 32 MiB for later. Between the phases of a calibration that was 1 to 2 GiB for
Residual Masking Network, whose weights are 0.5 GiB: each phase came on top of what the last had freed.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any


def return_free_memory() -> None:
    """Give freed memory back to the system, where the C library is one that keeps it."""
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Any:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return None

"""Whether something can be used on this machine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Availability:
    """Whether it can be used here; if not, why, and the command that fixes it."""

    ok: bool
    version: str = ""
    reason: str = ""
    fix: str = ""

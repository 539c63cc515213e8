"""Availability of optional software on this machine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Availability:
    """Availability on this machine; if ``ok`` is False, the reason and the command that fixes it."""

    ok: bool
    version: str = ""
    reason: str = ""
    fix: str = ""

"""One check of a machine: its state, and what to do."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from fer_edge.doctor.facts import printable_line

OK, WARN, MISSING = "ok", "warn", "missing"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes
    ----------
    name : str
        What it is.
    state : {"ok", "warn", "missing"}
        Whether it serves.
    found : str
        What is there.
    advice : str
        What to do, in words.
    commands : tuple of str
        What to type for it, in this order.
    """

    name: str
    state: str
    found: str
    advice: str = ""
    commands: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {**asdict(self), "commands": list(self.commands)}


def answer_line(value: object) -> str:
    """Return the answer of a library in one line that is not empty."""
    return printable_line(value) or "it does not say"

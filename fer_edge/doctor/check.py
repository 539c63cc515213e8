"""Result of one check of a machine."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from fer_edge.doctor.facts import printable_line

OK, WARN, MISSING = "ok", "warn", "missing"


@dataclass(frozen=True)
class Check:
    """Result of one check.

    Attributes
    ----------
    name : str
        Name of the checked component.
    state : {"ok", "warn", "missing"}
        State of the component.
    found : str
        State that was found.
    advice : str
        Recommended action.
    commands : tuple of str
        Shell commands of that action, in order.
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
    """Return the answer of a library as one non-empty line."""
    return printable_line(value) or "unknown"

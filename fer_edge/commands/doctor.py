"""``fer-edge doctor``."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from fer_edge.backends import BACKENDS
from fer_edge.commands.base import make_table, print_result
from fer_edge.detection import DETECTORS, DetectorOptions, create_detector
from fer_edge.doctor import Check, diagnose
from fer_edge.errors import FerEdgeError
from fer_edge.statistics import measurement_record

name = "doctor"
help = "say what this machine can run, and the command for what is missing"

_STYLES = {"ok": "green", "warn": "yellow", "missing": "dim"}


def configure(parser: argparse.ArgumentParser) -> None:
    """No arguments."""


def execute(args: argparse.Namespace) -> int:
    """Look at the machine, and try every backend and detector."""
    checks = diagnose()
    backends = {name: backend.available() for name, backend in BACKENDS.items()}
    detectors = {name: _detector_state(name) for name in DETECTORS}
    rows = [
        (name, "yes" if state.ok else "no", escape(state.version or state.reason), escape(state.fix))
        for name, state in backends.items()
    ]
    advice = (make_advice_table(checks), "") if any(check.advice for check in checks) else ()
    print_result(
        args,
        {
            "machine": measurement_record(),
            "checks": [check.to_dict() for check in checks],
            "backends": {name: dataclasses.asdict(state) for name, state in backends.items()},
            "detectors": detectors,
        },
        make_check_table(checks),
        "",
        *advice,
        make_table("Backends", ("name", "available", "version", "command that fixes it"), rows),
        make_table("Detectors", ("name", "state"), [(n, escape(state)) for n, state in detectors.items()]),
    )
    return 0


def make_check_table(checks: Sequence[Check]) -> Table:
    """Return what was found, one line a check."""
    table = Table.grid(padding=(0, 2))
    for check in checks:
        table.add_row(Text(check.state, _STYLES[check.state]), check.name, Text(check.found))
    return table


def make_advice_table(checks: Sequence[Check]) -> Table:
    """Return what to do: words, then commands as they are typed."""
    table = Table("What to do", box=None, title_justify="left", padding=0)
    for check in checks:
        if check.advice:
            table.add_row(Text(f"{check.name}: {check.advice}"))
        for command in check.commands:
            table.add_row(Text(f"  {command}", "bold"))
    return table


def _detector_state(detector: str) -> str:
    try:
        create_detector(detector, DetectorOptions()).close()
    except FerEdgeError as error:
        return str(error)
    return "ready"

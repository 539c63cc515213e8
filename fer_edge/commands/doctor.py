"""``fer-edge doctor``."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence

from rich.table import Column, Table
from rich.text import Text

from fer_edge.backends import BACKENDS, Availability, Backend
from fer_edge.backends.int8_probe import describe_int8
from fer_edge.commands.base import print_result
from fer_edge.detection import DETECTORS, create_detector
from fer_edge.detection.base import DetectorOptions
from fer_edge.doctor.check import MISSING, OK, WARN, Check
from fer_edge.doctor.checks import diagnose
from fer_edge.errors import FerEdgeError
from fer_edge.system.provenance import measurement_record

_STYLES = {OK: "green", WARN: "yellow", MISSING: "dim"}
_READY = "ready"
_EXACT = "exact"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add no arguments."""


def execute(args: argparse.Namespace) -> int:
    """Inspect the machine, and try every backend and detector."""
    checks = diagnose()
    backends = {name: backend.available() for name, backend in BACKENDS.items()}
    int8 = {name: _int8_state(BACKENDS[name]) for name, state in backends.items() if state.ok}
    detectors = {name: _detector_state(name) for name in DETECTORS}
    advice = (make_advice_table(checks), "") if any(check.advice for check in checks) else ()
    print_result(
        args,
        {
            "machine": measurement_record(),
            "checks": [check.to_dict() for check in checks],
            "backends": {name: dataclasses.asdict(state) for name, state in backends.items()},
            "int8": int8,
            "detectors": detectors,
        },
        make_check_table(checks),
        "",
        *advice,
        "Backends",
        make_check_table(
            [_describe_backend(name, state, int8.get(name, "")) for name, state in backends.items()]
        ),
        "",
        "Detectors",
        make_check_table([_describe_detector(name, state) for name, state in detectors.items()]),
    )
    return 0


def make_check_table(checks: Sequence[Check]) -> Table:
    """Return a table of the findings, one row per check."""
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        table.add_row(Text(check.state, _STYLES[check.state]), check.name, Text(check.found))
    return table


def make_advice_table(checks: Sequence[Check]) -> Table:
    """Return a table of remedies: text, then shell commands."""
    table = Table(Column("Remedy", overflow="fold"), box=None, padding=0)
    for check in checks:
        if check.advice:
            table.add_row(Text(f"{check.name}: {check.advice}"))
        for command in check.commands:
            table.add_row(Text(f"  {command}", "bold"))
    return table


def _describe_backend(name: str, state: Availability, int8: str) -> Check:
    if state.ok:
        return Check(name, OK if int8 == _EXACT else WARN, f"{state.version}, INT8: {int8}")
    return Check(name, MISSING, f"{state.reason}: {state.fix}" if state.fix else state.reason)


def _int8_state(backend: Backend) -> str:
    try:
        return describe_int8(backend)
    except FerEdgeError as error:
        return str(error)


def _describe_detector(name: str, state: str) -> Check:
    return Check(name, OK if state == _READY else MISSING, state)


def _detector_state(detector: str) -> str:
    try:
        create_detector(detector, DetectorOptions()).close()
    except FerEdgeError as error:
        return str(error)
    return _READY

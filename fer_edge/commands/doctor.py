"""``fer-edge doctor``."""

from __future__ import annotations

import argparse
import dataclasses

from fer_edge.backends import BACKENDS
from fer_edge.commands.base import make_table, print_result
from fer_edge.detection import DETECTORS, DetectorOptions, create_detector
from fer_edge.errors import FerEdgeError
from fer_edge.statistics import measurement_record

name = "doctor"
help = "say what this machine can run, and the command for what is missing"


def configure(parser: argparse.ArgumentParser) -> None:
    """No arguments."""


def execute(args: argparse.Namespace) -> int:
    """Try every backend and detector."""
    backends = {name: backend.available() for name, backend in BACKENDS.items()}
    detectors = {name: _detector_state(name) for name in DETECTORS}
    record = measurement_record()
    rows = [
        (name, "yes" if state.ok else "no", state.version or state.reason, state.fix)
        for name, state in backends.items()
    ]
    print_result(
        args,
        {
            "machine": record,
            "backends": {name: dataclasses.asdict(state) for name, state in backends.items()},
            "detectors": detectors,
        },
        f"{record['device']}, {record['cores']} cores, {record['system']}",
        make_table("Backends", ("name", "available", "version", "command that fixes it"), rows),
        make_table("Detectors", ("name", "state"), list(detectors.items())),
    )
    return 0


def _detector_state(detector: str) -> str:
    try:
        create_detector(detector, DetectorOptions()).close()
    except FerEdgeError as error:
        return str(error)
    return "ready"

"""``fer-edge models``."""

from __future__ import annotations

import argparse
import dataclasses

from fer_edge.catalogue import CATALOGUE
from fer_edge.commands.base import make_table, print_result

name = "models"
help = "list the networks, their papers and where weights come from"


def configure(parser: argparse.ArgumentParser) -> None:
    """No arguments."""


def execute(args: argparse.Namespace) -> int:
    """Show the catalogue."""
    value = {name: dataclasses.asdict(entry) for name, entry in CATALOGUE.items()}
    rows = [
        (name, entry.paper, f"{entry.parameters:,}", f"{entry.macs / 1e9:.2f} G", entry.weights)
        for name, entry in CATALOGUE.items()
    ]
    columns = ("name", "paper", "parameters", "multiply-adds", "weights")
    print_result(args, value, make_table("Networks", columns, rows))
    return 0

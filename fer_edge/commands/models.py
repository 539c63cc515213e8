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
    rows = [(name, entry.paper, entry.parameters, entry.weights) for name, entry in CATALOGUE.items()]
    print_result(args, value, make_table("Networks", ("name", "paper", "parameters", "weights"), rows))
    return 0

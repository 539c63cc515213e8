"""``fer-edge models``."""

from __future__ import annotations

import argparse
import dataclasses

from fer_edge.commands.base import make_table, percent, print_result
from fer_edge.models.catalogue import CATALOGUE, SHIPPED, shipped_figures


def configure(parser: argparse.ArgumentParser) -> None:
    """No arguments."""


def execute(args: argparse.Namespace) -> int:
    """Show the catalogue."""
    rows = [
        (name, entry.paper, f"{entry.parameters:,}", f"{entry.macs / 1e9:.2f} G", entry.weights)
        for name, entry in CATALOGUE.items()
    ]
    figures = {name: shipped_figures(name) for name in SHIPPED}
    shipped = [
        (
            name,
            model.network,
            figures[name]["data"],
            *(percent(figures[name]["accuracy"][precision]) for precision in ("fp32", "int8")),
            model.summary,
        )
        for name, model in SHIPPED.items()
    ]
    value = {
        "networks": {name: dataclasses.asdict(entry) for name, entry in CATALOGUE.items()},
        "shipped": {n: {**dataclasses.asdict(m), "figures": figures[n]} for n, m in SHIPPED.items()},
    }
    print_result(
        args,
        value,
        make_table("Networks", ("name", "paper", "parameters", "multiply-adds", "weights"), rows),
        make_table(
            "Weights that ship (Apache-2.0)",
            ("name", "network", "measured on", "FP32", "INT8", "what it is"),
            shipped,
        ),
    )
    return 0

"""``fer-edge export``."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
from pathlib import Path

from fer_edge.catalogue import CATALOGUE, DEFAULT_MODEL
from fer_edge.commands.base import print_result
from fer_edge.datasets import load_dataset
from fer_edge.errors import UsageError

name = "export"
help = "write a network as ONNX, checked against PyTorch"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add arguments."""
    parser.add_argument(
        "--model", default=DEFAULT_MODEL, metavar="NAME", help=f"one of {', '.join(CATALOGUE)}"
    )
    parser.add_argument("--weights", required=True, metavar="random|FILE")
    parser.add_argument(
        "--check-data", type=Path, metavar="PATH", help="faces for the check; generated ones if left out"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.onnx")


def execute(args: argparse.Namespace) -> int:
    """Export and show the difference to PyTorch."""
    if importlib.util.find_spec("torch") is None:
        raise UsageError("exporting weights needs PyTorch: run pip install 'fer-edge[export]'")
    from fer_edge.export.checkpoints import load_any, random_network
    from fer_edge.export.onnx_model import export_onnx

    trained = (
        random_network(args.model) if args.weights == "random" else load_any(Path(args.weights), args.model)
    )
    faces = list(load_dataset(args.check_data).sample(16)) if args.check_data else None
    report = export_onnx(trained, args.output, faces)
    value = {"output": str(args.output), "provenance": dict(trained.provenance), **dataclasses.asdict(report)}
    layout = trained.provenance.get("layout")
    print_result(
        args,
        value,
        *([f"Recognised: {layout}."] if layout else []),
        f"Wrote {args.output}: largest difference to PyTorch {report.max_abs_difference:.1e} "
        f"on {report.faces} {'real' if report.real_faces else 'generated'} faces.",
    )
    return 0

"""``fer-edge build``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.table import Table

from fer_edge.commands.base import (
    add_backend,
    add_model,
    add_reading,
    print_result,
)
from fer_edge.commands.build_summary import make_tables
from fer_edge.commands.export import add_author_inputs, add_weights_sha256
from fer_edge.commands.parser import number, whole
from fer_edge.commands.progress import show_progress
from fer_edge.models.catalogue import DEFAULT_MODEL
from fer_edge.synthetic import DEFAULT_GENERATOR, GENERATORS

_PRECISIONS = {
    "fp32": "floating point only",
    "fp16": "half precision beside FP32, for GPUs",
    "int8": "INT8 beside FP32 (default)",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add arguments."""
    add_model(parser, default=DEFAULT_MODEL)
    parser.add_argument(
        "--weights",
        default="auto",
        metavar="auto|NAME|random|FILE",
        help="auto (shipped weights, else weights published by the authors, downloaded once), a file, or random (for timing only)",
    )
    add_weights_sha256(parser)
    add_author_inputs(parser)
    precision = parser.add_mutually_exclusive_group()
    for name, text in _PRECISIONS.items():
        precision.add_argument(f"--{name}", dest="precision", action="store_const", const=name, help=text)
    parser.set_defaults(precision="int8")
    add_backend(parser, "backend for the comparison of FP32 and INT8")
    parser.add_argument("--calibration-data", type=Path, metavar="PATH", help="faces: a CSV or a folder")
    parser.add_argument("--calibration-split", metavar="NAME", help="Usage of FER2013, such as Training")
    parser.add_argument(
        "--calibration-images",
        type=whole(1),
        metavar="N",
        help="faces to calibrate on; default: 512, or 128 for networks above 15 G multiply-adds",
    )
    parser.add_argument(
        "--comparison-images",
        type=whole(1),
        metavar="N",
        help="faces to compare on without --eval-data; default: 128, or 64 for networks above 15 G multiply-adds",
    )
    parser.add_argument(
        "--method",
        default="auto",
        help="entropy, minmax, mse, percentile, or auto (default), which measures them all and the corrections",
    )
    parser.add_argument(
        "--generator",
        metavar="NAME",
        help=f"generator of images without --calibration-data: {', '.join(GENERATORS)}; default: {DEFAULT_GENERATOR}",
    )
    parser.add_argument(
        "--max-drop",
        type=number(0, 100),
        metavar="PP",
        help="largest loss by INT8 in percentage points: layers stay in floating point until it is met, or the build fails",
    )
    parser.add_argument(
        "--min-cosine",
        type=number(-1, 1),
        metavar="X",
        help="likewise the smallest cosine of the logits with those of FP32",
    )
    parser.add_argument(
        "--min-agreement",
        type=number(0, 1),
        metavar="X",
        help="likewise the smallest share of faces that keep their class",
    )
    parser.add_argument(
        "--sensitivity", action="store_true", help="measure the effect of quantising each layer alone"
    )
    parser.add_argument("--sensitivity-images", type=whole(1), default=64, metavar="N")
    parser.add_argument("--eval-data", type=Path, metavar="PATH", help="labelled faces for the comparison")
    parser.add_argument("--eval-split", metavar="NAME", help="Usage of FER2013, such as PublicTest")
    parser.add_argument("--eval-labels", default="auto", choices=("auto", "ferplus", "fer2013"))
    add_reading(parser)
    parser.add_argument(
        "--attention", action="store_true", help="export the network's built-in attention as an output"
    )
    parser.add_argument(
        "--compute-capability",
        dest="compute_capabilities",
        nargs="+",
        default=(),
        metavar="X.Y",
        help="compute capabilities to compile engines for, with TensorRT-RTX and without a GPU, such as 8.6 8.9 12.0",
    )
    plugin = parser.add_mutually_exclusive_group()
    plugin.add_argument(
        "--plugin",
        dest="plugin",
        action="store_const",
        const="required",
        help="compute self-attention in engines by our plugin, or fail",
    )
    plugin.add_argument(
        "--no-plugin",
        dest="plugin",
        action="store_const",
        const="none",
        help="compute self-attention in engines by standard operators",
    )
    parser.set_defaults(plugin="auto")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder of the bundle")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a bundle that is in --output already"
    )


def execute(args: argparse.Namespace) -> int:
    """Build, and print the comparison of FP32 and INT8."""
    value, tables = perform(args)
    print_result(args, value, *tables)
    return 0


def perform(args: argparse.Namespace) -> tuple[dict[str, Any], list[Table | str]]:
    """Build; return the result, and the tables and lines to print."""
    from fer_edge.builder import BuildOptions, build

    values = {field: getattr(args, field) for field in BuildOptions.__dataclass_fields__}
    options = BuildOptions(**{**values, "compute_capabilities": tuple(args.compute_capabilities)})
    with show_progress(args.quiet) as show:
        report = build(options, show)
    return report.to_dict(), make_tables(report)

"""``fer-edge build``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from fer_edge.commands.base import (
    add_backend,
    add_model,
    add_reading,
    make_table,
    megabytes,
    percent,
    print_result,
)
from fer_edge.commands.export import add_author_inputs, add_weights_sha256
from fer_edge.commands.parser import number, whole
from fer_edge.commands.progress import show_progress
from fer_edge.cuda.gpus import dotted
from fer_edge.manifest import REPORT_PAGE
from fer_edge.models.catalogue import DEFAULT_MODEL
from fer_edge.probabilities import GIVEN, TRAINING
from fer_edge.synthetic import DEFAULT_GENERATOR, GENERATORS

if TYPE_CHECKING:
    from fer_edge.builder import BuildReport
    from fer_edge.calibration.comparison.compare import Comparison


_LAYERS_SHOWN = 12
_PRECISIONS = {
    "fp32": "floating point only",
    "fp16": "half precision beside FP32, for GPUs",
    "int8": "INT8 beside FP32 (default)",
}
_PARTS = {"calibrating": "calibrate", "held_out": "choose a calibration", "comparing": "compare"}

#: Key in the provenance of published weights → title.
_ORIGIN = {
    "remark": "Which weights these are",
    "address": "Where they come from",
    "weights_sha256": "sha256 of the weights",
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
    return report.to_dict(), _tables(report)


def _tables(report: BuildReport) -> list[Table | str]:
    comparison = report.comparison
    lines: list[Table | str] = []
    if comparison is not None:
        lines += _comparison_lines(comparison)
        lines += _prior_lines(report)
    lines += _choices(report)
    lines += _faces(report.report)
    if half := report.bundle.manifest.metrics.get("fp16"):
        kept = [*half["float_rules"], *half["overflowing"]]
        lines.append(
            f"FP16: same class on {percent(half['fidelity']['agreement'])} of {half['faces']} faces, signal to noise "
            f"{_decibels(half['fidelity']['snr_db'])}; computed in FP32: {', '.join(kept)}."
        )
    if report.engines:
        rows = [
            (
                dotted(engine.options.compute_capability or (0, 0)),
                engine.options.precision,
                megabytes(engine.size_bytes),
                megabytes(engine.weights_memory_bytes or 0),
                f"{engine.seconds:.1f} s",
                "plugin" if engine.plugin_layers else "standard operators",
            )
            for engine in report.engines
        ]
        columns = ("device", "precision", "engine", "weights", "built in", "self-attention")
        lines.append(make_table("Engines, not run here", columns, rows))
    fitted = report.bundle.manifest.metrics.get("temperature")
    if fitted is not None:
        lines.append(
            f"Temperature {fitted['value']:.3f}: calibration error {percent(fitted['ece_before'])} before, "
            f"{percent(fitted['ece_after'])} after, on faces it was not fitted on."
        )
    if report.calibration != "none":
        lines.append(f"Ranges: {report.calibration}.")
    if report.bundle.manifest.timing_only:
        lines.append("Random weights: this bundle is for timing only.")
    origin = report.bundle.manifest.provenance
    lines.append(f"Licence of the weights: {origin.get('licence', 'not stated')}.")
    lines += [f"{title}: {_in_words(origin[key])}." for key, title in _ORIGIN.items() if key in origin]
    lines.append(f"Bundle: {report.bundle.path}")
    if report.int8 is not None:
        lines.append(f"Report: {report.bundle.path / REPORT_PAGE}")
    return lines


def _comparison_lines(comparison: Comparison) -> list[Table | str]:
    rows: list[tuple[str, ...]] = [
        ("size", megabytes(comparison.fp32_bytes), megabytes(comparison.int8_bytes)),
        (
            "latency p50, batch 1",
            f"{comparison.fp32_latency.p50_ms:.2f} ms",
            f"{comparison.int8_latency.p50_ms:.2f} ms",
        ),
        (
            "latency p99, batch 1",
            f"{comparison.fp32_latency.p99_ms:.2f} ms",
            f"{comparison.int8_latency.p99_ms:.2f} ms",
        ),
    ]
    if comparison.fp32_peak_bytes is not None and comparison.int8_peak_bytes is not None:
        rows.append(
            ("peak memory", megabytes(comparison.fp32_peak_bytes), megabytes(comparison.int8_peak_bytes))
        )
    pair = [m for m in (comparison.fp32_metrics, comparison.int8_metrics) if m is not None]
    if pair:
        rows[:0] = [
            ("accuracy", *(percent(m.accuracy) for m in pair)),
            ("macro-F1", *(percent(m.macro_f1) for m in pair)),
            ("calibration error", *(percent(m.ece) for m in pair)),
        ]
    lines: list[Table | str] = [
        make_table(f"FP32 against INT8 on {comparison.backend}", ("", "FP32", "INT8"), rows)
    ]
    if comparison.paired is not None:
        paired = comparison.paired
        lines.append(
            f"INT8 changes accuracy by {paired.change_pp:+.2f} points on {paired.faces} faces "
            f"(95 % interval {paired.low_pp:+.2f} to {paired.high_pp:+.2f})."
        )
    lines.append(
        f"Same class on {percent(comparison.agreement)} of {comparison.faces} faces, mean logit cosine "
        f"{comparison.logit_cosine:.5f}."
    )
    verdict = comparison.latency.verdict
    lines.append(f"Latency on {comparison.backend}: {verdict}.")
    return lines


def _prior_lines(report: BuildReport) -> list[Table | str]:
    """Return the prior under which the accuracy holds, and the one that runtimes use."""
    if report.comparison is None or report.comparison.paired is None:
        return []
    usual = report.bundle.manifest.default_prior or TRAINING
    return [
        f"Accuracy under the prior {report.report['model']['accuracy_prior']}. Runtimes of this bundle use the prior "
        f"{usual if isinstance(usual, str) else GIVEN} unless --prior is given; fer-edge eval measures under it."
    ]


def _choices(report: BuildReport) -> list[Table | str]:
    """Return tables of the measured calibrations and of the layers in floating point."""
    lines: list[Table | str] = []
    if candidates := report.report.get("candidates"):
        rows = [
            (c["name"], _decibels(c["snr_db"]), f"{c['logit_cosine']:.5f}", "chosen" if c["chosen"] else "")
            for c in candidates
        ]
        lines.append(make_table("Calibrations measured", ("", "signal to noise", "logit cosine", ""), rows))
    if layers := report.report.get("sensitivity"):
        rows = [(s["layer"], s["op"], _decibels(s["snr_db"]), s["precision"]) for s in layers[:_LAYERS_SHOWN]]
        title = f"Most harmful of {len(layers)} layers, each alone in INT8"
        lines.append(make_table(title, ("layer", "", "signal to noise", "left in"), rows))
    if mixed := report.report.get("mixed_precision"):
        lines.append(
            f"Mixed precision: {len(mixed['float_layers'])} layers stay in floating point "
            f"({', '.join(mixed['float_layers'])}); {mixed['int8_p50_ms']:.2f} ms become {mixed['mixed_p50_ms']:.2f} ms."
        )
    return lines


def _faces(report: Mapping[str, Any]) -> list[Table | str]:
    """Return the faces of the figures, and warnings about limitations."""
    data = report["data"]
    rows = [
        (purpose, data[key]["data"], data[key]["distinct"], data[key]["generated"])
        for key, purpose in _PARTS.items()
        if key in data
    ]
    lines: list[Table | str] = []
    if rows:
        columns = ("to", "data", "distinct", "generated")
        lines.append(make_table("Faces, split before anything was measured", columns, rows))
        overlap = "unknown" if data["overlap"] is None else data["overlap"]
        lines.append(f"Faces with a copy in another part: {overlap}.")
    for name, pictures in data["pictures"].items():
        copies, compared = pictures["repeated"], pictures["in_comparison"]
        if copies or compared:
            lines.append(
                f"Left out of {pictures['read']} pictures of {name}: {copies} copies of another face, "
                f"{compared} copies of faces that are compared."
            )
        if pictures["photographs"]:
            lines.append(f"{name} holds photographs: the largest face of each was cut out.")
    for name, reasons in data["left_out"].items():
        lines += [f"Left out of {name}: {count}, {reason}." for reason, count in reasons.items()]
    for name, skipped in data["skipped"].items():
        lines += [f"Bad row of {name}: {problem}." for problem in skipped["first"]]
    if gate := report.get("gate"):
        place = gate["holds_for"]
        features = ", ".join(place["processor_features"]) or "no known extension"
        lines.append(
            f"Passed on {place['processor']} ({features}), {place['backend']}, with {place['faces']}."
        )
    return [*lines, *(f"Warning: {text}." for text in report["warnings"])]


def _in_words(value: object) -> object:
    """Return one address, or the joined addresses of an ensemble's members."""
    return ", ".join(map(str, value.values())) if isinstance(value, Mapping) else value


def _decibels(value: float | None) -> str:
    return "no noise" if value is None else f"{value:.1f} dB"

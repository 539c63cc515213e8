"""Result of a build as tables: the comparison of FP32 and INT8, the choices, the faces and their limitations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table

from fer_edge.commands.base import make_table, megabytes, percent
from fer_edge.cuda.gpus import dotted
from fer_edge.manifest import REPORT_PAGE
from fer_edge.probabilities import GIVEN, TRAINING

if TYPE_CHECKING:
    from fer_edge.builder import BuildReport
    from fer_edge.calibration.comparison.compare import Comparison

_LAYERS_SHOWN = 12
_PARTS = {"calibrating": "calibrate", "held_out": "choose a calibration", "comparing": "compare"}

#: Key in the provenance of published weights → title.
_ORIGIN = {
    "remark": "Which weights these are",
    "address": "Where they come from",
    "weights_sha256": "sha256 of the weights",
}


def make_tables(report: BuildReport) -> list[Table | str]:
    """Return the comparison of FP32 and INT8, the choices, the faces, and lines on origin and outputs."""
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

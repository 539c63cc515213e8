"""Compile the engines of a build ahead of time for named devices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fer_edge._utils.progress import Progress
from fer_edge.builder.plan import BuildPlan
from fer_edge.engines.build.ahead_of_time import compile_ahead
from fer_edge.engines.build.options import EngineReport
from fer_edge.manifest import ENGINES, FP16_MODEL, FP32_MODEL, int8_model

_MODELS = {"fp32": FP32_MODEL, "fp16": FP16_MODEL, "int8": int8_model("tensorrt")}


@dataclass(frozen=True)
class CompiledEngines:
    """Engines with their headers (name in the bundle → file), and a report of each."""

    files: Mapping[str, Path]
    reports: tuple[EngineReport, ...]


def compile_engines(
    plan: BuildPlan, models: Mapping[str, Path], work: Path, on_progress: Progress
) -> CompiledEngines:
    """Compile the model of the build's precision from ``models`` for every device of the plan."""
    precision = plan.options.precision
    reports = compile_ahead(
        models[_MODELS[precision]],
        work / ENGINES,
        precision,
        plan.capabilities,
        plan.options.plugin,
        on_progress,
    )
    paths = [path for report in reports for path in (report.path, report.path.with_suffix(".json"))]
    return CompiledEngines({f"{ENGINES}/{path.name}": path for path in paths}, reports)

"""Make the INT8 models of a build, with ranges that ship with the model or are measured on its faces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from fer_edge._utils.files import write_json
from fer_edge._utils.progress import Progress
from fer_edge.builder.fp32 import Fp32Model, PrecisionResult
from fer_edge.builder.plan import BuildPlan
from fer_edge.builder.report import int8_report
from fer_edge.builder.splits import Split
from fer_edge.calibration.algorithms.search import Candidate
from fer_edge.calibration.calibrate import calibrate
from fer_edge.calibration.int8 import make_int8
from fer_edge.calibration.qdq.dialects import DIALECTS
from fer_edge.calibration.qdq.trt_calibration_cache import write_calibration_cache
from fer_edge.calibration.ranges.ranges import Ranges
from fer_edge.calibration.report.page import write_report_page
from fer_edge.manifest import CALIBRATION_CACHE, RANGES, REPORT, REPORT_PAGE, int8_model


@dataclass(frozen=True)
class Calibration:
    """Ranges of a build.

    Attributes
    ----------
    ranges : Ranges or None
        ``None`` if the build needs none.
    origin : str
        Description of the method and the faces.
    candidates : tuple of Candidate
        Measured calibrations.
    files : mapping
        Name in the bundle → file.
    """

    ranges: Ranges | None = None
    origin: str = "none"
    candidates: tuple[Candidate, ...] = ()
    files: Mapping[str, Path] = field(default_factory=dict)


def make_ranges(
    plan: BuildPlan, fp32: Fp32Model, split: Split, work: Path, on_progress: Progress
) -> Calibration:
    """Use the shipped ranges, or measure ranges on the calibration faces and write ``ranges.json`` into ``work``.

    The FP32 model may be replaced by its equalised form.
    """
    if plan.shipped_ranges is not None:
        return Calibration(
            plan.shipped_ranges, f"those that ship with the model ({_origin(plan.shipped_ranges)})"
        )
    faces = split.calibrating
    if faces is None:
        return Calibration()
    choice = calibrate(
        fp32.path,
        fp32.spec,
        plan.backend,
        faces,
        split.held_out or faces.first(0),
        plan.method,
        {"name": faces.name, "fingerprint": faces.fingerprint()},
        on_progress,
    )
    path = work / RANGES
    choice.ranges.save(path)
    return Calibration(choice.ranges, _origin(choice.ranges), choice.candidates, {RANGES: path})


def quantise_int8(
    plan: BuildPlan,
    fp32: Fp32Model,
    calibration: Calibration,
    split: Split,
    work: Path,
    on_progress: Progress,
) -> PrecisionResult:
    """Write the INT8 models, their ranges and the report into ``work``.

    Raises
    ------
    GateError
        If the bounds are missed.
    """
    assert calibration.ranges is not None
    assert split.comparing is not None
    int8 = make_int8(
        work,
        fp32.path,
        fp32.spec,
        plan.backend,
        calibration.ranges,
        split.comparing,
        plan.int8,
        on_progress,
    )
    report = int8_report(plan, fp32.manifest, split, int8, calibration.candidates)
    names = (RANGES, CALIBRATION_CACHE, REPORT, REPORT_PAGE, *map(int8_model, DIALECTS))
    files = {name: work / name for name in names}
    int8.ranges.save(files[RANGES])
    cache = write_calibration_cache(int8.ranges, onnx.load(fp32.path))
    files[CALIBRATION_CACHE].write_text(cache, encoding="utf-8")
    write_json(files[REPORT], report)
    write_report_page(files[REPORT_PAGE], report)
    comparison = int8.comparison.to_dict()
    del comparison["temperature"]  # stored at the top level, as in bundles of other precisions
    metrics = {"gate": report["gate"], "comparison": comparison}
    return PrecisionResult(files, metrics, int8.comparison.temperature, report, int8)


def _origin(ranges: Ranges) -> str:
    return f"{ranges.method} on {ranges.images} faces of {ranges.data['name']}"

"""Make the FP16 model of a build."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from fer_edge._utils.progress import Progress
from fer_edge.builder.fp32 import Fp32Model, PrecisionResult, measure_fp32
from fer_edge.builder.plan import BuildPlan
from fer_edge.builder.splits import Split
from fer_edge.calibration.fp16 import MIN_COSINE, make_half
from fer_edge.manifest import FP16_MODEL


def make_fp16(
    plan: BuildPlan, fp32: Fp32Model, split: Split, work: Path, on_progress: Progress
) -> PrecisionResult:
    """Write the FP16 model into ``work``, and compare it with FP32.

    Raises
    ------
    GateError
        If the FP16 model is too far from FP32.
    """
    assert split.comparing is not None
    measured = measure_fp32(plan, fp32, split, on_progress)
    path = work / FP16_MODEL
    report = make_half(
        fp32.path,
        path,
        fp32.spec,
        split.comparing.first(plan.fp16_faces),
        -1.0 if plan.timing_only else MIN_COSINE,
        lambda attempts: on_progress("converting to FP16", attempts, 0),
    )
    return dataclasses.replace(measured, files={FP16_MODEL: path}, metrics={"fp16": report.to_dict()})

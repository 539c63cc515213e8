"""Build pipeline: plan, FP32, ranges, precision, engines, self-test, bundle. Each step returns the files that it made."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fer_edge._utils.progress import Progress
from fer_edge.builder.engines import compile_engines
from fer_edge.builder.fp16 import make_fp16
from fer_edge.builder.fp32 import make_fp32, measure_fp32
from fer_edge.builder.int8 import make_ranges, quantise_int8
from fer_edge.builder.options import BuildOptions
from fer_edge.builder.plan import make_plan
from fer_edge.builder.report import forget_refusal, refuse, refused_report
from fer_edge.builder.self_test import make_self_test
from fer_edge.builder.splits import split_faces
from fer_edge.bundle import Bundle, write_bundle
from fer_edge.calibration.comparison.compare import Comparison
from fer_edge.calibration.int8 import Int8Result
from fer_edge.engines.build.options import EngineReport
from fer_edge.errors import GateError
from fer_edge.system.provenance import tool_versions

#: Entries of the provenance that the report repeats.
_WEIGHTS = ("licence", "remark", "address", "weights_sha256")


@dataclass(frozen=True)
class BuildReport:
    """Result of :func:`build`; for FP32 and FP16 ``int8`` is ``None``, and ``report`` holds faces and warnings."""

    bundle: Bundle
    calibration: str
    int8: Int8Result | None
    report: Mapping[str, Any]
    engines: tuple[EngineReport, ...] = ()

    @property
    def comparison(self) -> Comparison | None:
        """Comparison of FP32 and INT8."""
        return None if self.int8 is None else self.int8.comparison

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "bundle": str(self.bundle.path),
            "precision": self.bundle.manifest.precision,
            "timing_only": self.bundle.manifest.timing_only,
            "weights": {name: self.bundle.manifest.provenance.get(name) for name in _WEIGHTS},
            "calibration": self.calibration,
            "comparison": None,
            **self.report,
            "engines": [engine.to_dict() for engine in self.engines],
        }


def build(options: BuildOptions, on_progress: Progress = lambda stage, done, total: None) -> BuildReport:
    """Build a bundle.

    Parameters
    ----------
    options : BuildOptions
        Options of the build.
    on_progress : callable
        Called with (stage, done, total).

    Raises
    ------
    FerEdgeError
        If weights, data or backend are missing or invalid. Nothing is written then.
    GateError
        If INT8 or FP16 misses its bounds. The report is written to ``OUTPUT.refused``, and no bundle is written.
    """
    plan = make_plan(options)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        fp32 = make_fp32(plan, work, on_progress)
        split = split_faces(plan.sources, plan.counts, fp32.spec.crop, on_progress, plan.shipped_ranges_data)
        calibration = make_ranges(plan, fp32, split, work, on_progress)
        try:
            if options.precision == "int8":
                made = quantise_int8(plan, fp32, calibration, split, work, on_progress)
            elif options.precision == "fp16":
                made = make_fp16(plan, fp32, split, work, on_progress)
            else:
                made = measure_fp32(plan, fp32, split, on_progress)
        except GateError as error:
            report = refused_report(plan, fp32.manifest, split, error, calibration.candidates)
            raise refuse(options, plan.output, error, report) from None
        models = {**fp32.files, **calibration.files, **made.files}
        engines = compile_engines(plan, models, work, on_progress)
        self_test = make_self_test(models, fp32.spec, work, plan.timing_only, on_progress)
        metrics = {**fp32.manifest.metrics, **made.metrics}
        temperature = fp32.manifest.temperature
        if made.temperature is not None:
            metrics["temperature"] = made.temperature.to_dict()
            temperature = made.temperature.value
        manifest = dataclasses.replace(
            fp32.manifest,
            self_test=self_test.record,
            precision=options.precision,
            tools=tool_versions(),
            metrics=metrics,
            temperature=temperature,
        )
        files = {**models, **engines.files, **self_test.files}
        on_progress("writing the bundle", 0, 1)
        bundle = write_bundle(plan.output, manifest, dict(sorted(files.items())))
        on_progress("writing the bundle", 1, 1)
    forget_refusal(plan.output)
    return BuildReport(bundle, calibration.origin, made.int8, made.report, engines.reports)

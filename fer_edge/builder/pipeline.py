"""Weights → bundle: export, calibrate, quantise, compare, write. The only module that calls all of these."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fer_edge._utils.files import write_json
from fer_edge._utils.progress import Progress, face_counter
from fer_edge.backends import BACKENDS, Backend, SessionOptions, choose_backend
from fer_edge.builder.calibration import Calibration, calibrate_on, faces_needed, shipped_calibration
from fer_edge.builder.faces import effort_for, load_sources
from fer_edge.builder.fp32_model import fp32_model
from fer_edge.builder.options import BuildOptions, check_options, default_output
from fer_edge.builder.refusal import REPORT, REPORT_PAGE, forget_refusal, refuse
from fer_edge.builder.report import bounds_of, faces_report, int8_report, refused_report
from fer_edge.builder.self_test import add_self_test
from fer_edge.builder.splits import Split, split_faces
from fer_edge.bundle import (
    ENGINES,
    FP16_MODEL,
    FP32_MODEL,
    RANGES,
    Bundle,
    Manifest,
    int8_model,
    write_bundle,
)
from fer_edge.cuda.gpus import parse_capability
from fer_edge.datasets import FaceDataset
from fer_edge.errors import GateError, UsageError
from fer_edge.evaluation.evaluate import labelled_logits
from fer_edge.spec import ModelSpec
from fer_edge.system.provenance import tool_versions

if TYPE_CHECKING:
    from fer_edge.calibration.comparison.compare import Comparison
    from fer_edge.calibration.int8 import Int8Result
    from fer_edge.engines.build.options import EngineReport
    from fer_edge.evaluation.temperature import Temperature

__all__ = ["BuildOptions", "BuildReport", "build"]

#: For TensorRT 10's users of DLA, who cannot take a Q/DQ model.
CALIBRATION_CACHE = "calibration.tensorrt10.cache"

#: What a report repeats of the provenance.
_WEIGHTS = ("licence", "remark", "address", "weights_sha256")


@dataclass(frozen=True)
class BuildReport:
    """What :func:`build` made; ``int8`` is ``None`` for FP32 and FP16, and ``report`` then holds faces and warnings."""

    bundle: Bundle
    calibration: str
    int8: Int8Result | None
    report: Mapping[str, Any]
    engines: tuple[EngineReport, ...] = ()

    @property
    def comparison(self) -> Comparison | None:
        """FP32 against INT8."""
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
        What to build.
    on_progress : callable
        Called with (stage, done, total).

    Raises
    ------
    FerEdgeError
        If weights, data or backend are not what was asked for. Nothing is written then.
    GateError
        If INT8 or FP16 misses its bounds. Its report then lies at ``OUTPUT.refused``, and no bundle is written.
    """
    check_options(options)
    backend = _compared_on(options)
    output = default_output(options)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        sources = load_sources(options)
        manifest = fp32_model(options, work, on_progress, sources.calibration)
        shipped = shipped_calibration(options, work)
        split = split_faces(
            sources,
            faces_needed(options, manifest, shipped),
            manifest.spec.crop,
            on_progress,
            None if shipped is None else shipped.ranges.data["name"],
        )
        found = calibrate_on(split, options, manifest, backend, work, on_progress) or shipped
        int8: Int8Result | None = None
        report: dict[str, Any] = faces_report(split)
        metrics = dict(manifest.metrics)
        temperature = None
        try:
            if options.precision == "int8" and found is not None:
                int8, report = _int8(options, manifest, backend, work, found, split, on_progress)
                temperature = int8.comparison.temperature
                metrics["gate"] = report["gate"]
                metrics["comparison"] = int8.comparison.to_dict()
                del metrics["comparison"][
                    "temperature"
                ]  # it stands beside, as in bundles of other precisions
            elif split.comparing is not None:
                if options.eval_data is not None:
                    # FP16 differs from FP32 by less than a temperature can be fitted to.
                    temperature = _fp32_temperature(
                        split.comparing, manifest.spec, backend, work, on_progress
                    )
                if options.precision == "fp16":
                    metrics["fp16"] = _half(options, manifest, split.comparing, work, on_progress)
        except GateError as error:
            tried = refused_report(error, found, options, manifest, backend, split)
            raise refuse(options, output, error, tried) from None
        engines: tuple[EngineReport, ...] = ()
        if options.compute_capabilities:
            capabilities = [parse_capability(text) for text in options.compute_capabilities]
            engines = _engines(options, capabilities, work, on_progress)
        if temperature is not None:
            metrics["temperature"] = temperature.to_dict()
        self_test = add_self_test(work, manifest.spec, manifest.timing_only, on_progress)
        whole = dataclasses.replace(
            manifest,
            self_test=self_test,
            precision=options.precision,
            tools=tool_versions(),
            metrics=metrics,
            temperature=manifest.temperature if temperature is None else temperature.value,
        )
        files = {str(path.relative_to(work)): path for path in sorted(work.rglob("*")) if path.is_file()}
        on_progress("writing the bundle", 0, 1)
        bundle = write_bundle(output, whole, files)
        on_progress("writing the bundle", 1, 1)
        forget_refusal(output)
        return BuildReport(bundle, "none" if found is None else found.origin, int8, report, engines)


def _compared_on(options: BuildOptions) -> Backend:
    """Return the backend that FP32 and INT8 are compared on: engines for other devices do not run here."""
    from fer_edge.engines.build.ahead_of_time import FLAVOUR

    if options.compute_capabilities:
        if options.backend not in ("auto", FLAVOUR):
            raise UsageError(
                f"engines for other devices are compiled by {FLAVOUR}: give --backend {FLAVOUR} with --compute-capability, found {options.backend}"
            )
        return choose_backend()
    if options.backend == FLAVOUR and not BACKENDS[FLAVOUR].available().ok:
        raise UsageError(
            f"{FLAVOUR} finds no GPU here: name the devices to compile for, such as --compute-capability 8.6"
        )
    return choose_backend(options.backend)


def _engines(
    options: BuildOptions, capabilities: Sequence[tuple[int, int]], work: Path, on_progress: Progress
) -> tuple[EngineReport, ...]:
    """Leave an engine for every device in ``work``."""
    from fer_edge.engines.build.ahead_of_time import compile_ahead

    names = {"fp32": FP32_MODEL, "fp16": FP16_MODEL, "int8": int8_model("tensorrt")}
    return compile_ahead(
        work / names[options.precision],
        work / ENGINES,
        options.precision,
        capabilities,
        options.plugin,
        on_progress,
    )


def _int8(
    options: BuildOptions,
    manifest: Manifest,
    backend: Backend,
    work: Path,
    calibration: Calibration,
    split: Split,
    on_progress: Progress,
) -> tuple[Int8Result, dict[str, Any]]:
    """Leave the INT8 models, their calibration and the report in ``work``."""
    import onnx

    from fer_edge.calibration.int8 import Int8Options, make_int8
    from fer_edge.calibration.qdq.trt_calibration_cache import write_calibration_cache
    from fer_edge.calibration.report.page import write_report_page

    assert split.comparing is not None
    model = work / FP32_MODEL
    int8 = make_int8(
        work,
        model,
        manifest.spec,
        backend,
        calibration.ranges,
        split.comparing,
        Int8Options(bounds_of(options, manifest), options.sensitivity, options.sensitivity_images),
        on_progress,
    )
    int8.ranges.save(work / RANGES)
    (work / CALIBRATION_CACHE).write_text(
        write_calibration_cache(int8.ranges, onnx.load(model)), encoding="utf-8"
    )
    report = int8_report(int8, calibration, options, manifest, backend, split)
    write_json(work / REPORT, report)
    write_report_page(work / REPORT_PAGE, report)
    return int8, report


def _half(
    options: BuildOptions, manifest: Manifest, faces: FaceDataset, work: Path, on_progress: Progress
) -> dict[str, Any]:
    """Leave the FP16 model in ``work``; return what was measured of it."""
    from fer_edge.calibration.fp16 import MIN_COSINE, make_half

    report = make_half(
        work / FP32_MODEL,
        work / FP16_MODEL,
        manifest.spec,
        faces.first(effort_for(options).held_out),
        -1.0 if manifest.timing_only else MIN_COSINE,
        lambda attempts: on_progress("converting to FP16", attempts, 0),
    )
    return report.to_dict()


def _fp32_temperature(
    faces: FaceDataset, spec: ModelSpec, backend: Backend, work: Path, on_progress: Progress
) -> Temperature | None:
    from fer_edge.evaluation.temperature import measure_temperature

    session = backend.open(work / FP32_MODEL, SessionOptions())
    count = face_counter(on_progress, f"fitting a temperature on {faces.name}", len(faces))
    logits, targets = labelled_logits(session, faces, spec, on_faces=count)
    session.close()
    return measure_temperature(logits, targets)

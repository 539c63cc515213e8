"""Make the FP32 model of a build by copying a shipped bundle or exporting weights, and fit its temperature."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fer_edge._utils.progress import Progress, face_counter
from fer_edge.backends import SessionOptions
from fer_edge.builder.plan import BuildPlan
from fer_edge.builder.report import faces_report
from fer_edge.builder.splits import Split
from fer_edge.bundle import Bundle
from fer_edge.calibration.int8 import Int8Result
from fer_edge.evaluation.evaluate import labelled_logits
from fer_edge.evaluation.temperature import Temperature, measure_temperature
from fer_edge.manifest import FP32_MODEL, RANGES, SELF_TEST, Manifest
from fer_edge.spec import ModelSpec
from fer_edge.system.extras import require_extra
from fer_edge.weights.cache import find_weights


@dataclass(frozen=True)
class Fp32Model:
    """The FP32 model.

    Attributes
    ----------
    manifest : Manifest
        The manifest, as far as it is known before the later steps.
    files : mapping
        Name in the bundle → file: ``model.onnx``, and the ranges and self-test of a shipped bundle.
    """

    manifest: Manifest
    files: Mapping[str, Path]

    @property
    def path(self) -> Path:
        """Path of the ONNX file."""
        return self.files[FP32_MODEL]

    @property
    def spec(self) -> ModelSpec:
        """Input and output specification."""
        return self.manifest.spec


@dataclass(frozen=True)
class PrecisionResult:
    """Files and figures that the precision of a build adds to the FP32 model.

    Attributes
    ----------
    files : mapping
        Name in the bundle → file.
    metrics : mapping
        Metrics for the manifest.
    temperature : Temperature or None
        ``None`` without labelled faces, or with too few.
    report : mapping
        Part of the report, in plain JSON types.
    int8 : Int8Result or None
        Figures of INT8, if it was built.
    """

    files: Mapping[str, Path]
    metrics: Mapping[str, Any]
    temperature: Temperature | None
    report: Mapping[str, Any]
    int8: Int8Result | None = None


def make_fp32(plan: BuildPlan, work: Path, on_progress: Progress) -> Fp32Model:
    """Write the FP32 model into ``work``, checking an exported network on the calibration data or generated faces.

    Raises
    ------
    MissingExtraError
        If PyTorch is needed and missing; nothing is downloaded then.
    DownloadError
        If published weights cannot be downloaded.
    WeightsError, ExportError
        If weights cannot be loaded, or the outputs of the exported network differ from PyTorch.
    """
    if plan.shipped is not None:
        return _copied(plan.shipped, work)
    pictures = plan.sources.calibration
    require_extra("export", "exporting weights")
    found = None if plan.timing_only else find_weights(plan.weights, on_progress)
    from fer_edge.export.checkpoints import AuthorInputs, load_found, random_network
    from fer_edge.export.onnx.export import FACES_TO_CHECK, export_onnx

    options = plan.options
    on_progress("loading weights", 0, 1)
    if found is None:
        trained = random_network(options.model)
    else:
        inputs = AuthorInputs(options.canonical_shape, options.image_statistics)
        trained = load_found(found, plan.weights, inputs)
    on_progress("loading weights", 1, 1)
    if options.attention:
        from fer_edge.export.explanation.attention import with_attention

        trained = with_attention(trained)
    path = work / FP32_MODEL
    report = export_onnx(
        trained, path, None if pictures is None else pictures.sample(FACES_TO_CHECK), on_progress
    )
    # PyTorch's exporter keeps the exported module until the process ends, so its parameters are freed here.
    for tensor in (*trained.module.parameters(), *trained.module.buffers()):
        tensor.data = tensor.data.new_empty(0)
    manifest = Manifest(
        spec=trained.spec,
        precision="fp32",
        provenance={"options": dict(trained.options), **trained.provenance},
        metrics={"export": dataclasses.asdict(report)},
        temperature=trained.temperature,
        class_frequencies=trained.class_frequencies,
        logit_prior=trained.logit_prior,
    )
    return Fp32Model(manifest, {FP32_MODEL: path})


def _copied(bundle: Bundle, work: Path) -> Fp32Model:
    """Copy a shipped bundle, since calibration may replace the model by its equalised form."""
    names = [name for name in (FP32_MODEL, RANGES, SELF_TEST) if name in bundle.manifest.files]
    return Fp32Model(
        bundle.manifest, {name: shutil.copyfile(bundle.path / name, work / name) for name in names}
    )


def measure_fp32(plan: BuildPlan, fp32: Fp32Model, split: Split, on_progress: Progress) -> PrecisionResult:
    """Fit a temperature if labelled faces are given.

    FP16 uses it too: its difference from FP32 is below the precision of the fit.
    """
    temperature = None
    faces = split.comparing
    if faces is not None and plan.options.eval_data is not None:
        session = plan.backend.open(fp32.path, SessionOptions())
        count = face_counter(on_progress, f"fitting a temperature on {faces.name}", len(faces))
        logits, targets = labelled_logits(session, faces, fp32.spec, on_faces=count)
        session.close()
        temperature = measure_temperature(logits, targets)
    return PrecisionResult({}, {}, temperature, faces_report(split))

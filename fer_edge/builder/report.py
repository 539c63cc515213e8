"""Report of a build, in the bundle; for a refused build, beside its output and with commands to try next."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fer_edge._utils.files import whole_folder, write_json
from fer_edge.builder.options import BuildOptions, build_command
from fer_edge.builder.plan import BuildPlan
from fer_edge.builder.splits import Split
from fer_edge.calibration.algorithms.mixed_precision import Step
from fer_edge.calibration.algorithms.search import Candidate
from fer_edge.calibration.fp16 import HalfAttempt
from fer_edge.calibration.int8 import COLLAPSED_COSINE, Int8Attempt, Int8Result
from fer_edge.calibration.report.page import write_report_page
from fer_edge.calibration.report.report import report_of, report_of_refused
from fer_edge.errors import GateError, without_fix
from fer_edge.manifest import REPORT, REPORT_PAGE, Manifest
from fer_edge.system.provenance import device_name, measurement_record, processor_features

#: Resets the options that only INT8 has.
_NO_BOUNDS: Mapping[str, Any] = {
    "max_drop": None,
    "min_cosine": None,
    "min_agreement": None,
    "sensitivity": False,
}


def faces_report(split: Split) -> dict[str, Any]:
    """Return the summary and warnings of a split."""
    return {"data": dict(split.summary), "warnings": list(split.warnings)}


def int8_report(
    plan: BuildPlan, manifest: Manifest, split: Split, int8: Int8Result, candidates: tuple[Candidate, ...]
) -> dict[str, Any]:
    """Return the report of an INT8 bundle, as plain JSON types."""
    report = _whole(plan, manifest, split, report_of(int8, candidates, plan.int8))
    if disturbed := int8.comparison.latency.warning:
        report["warnings"].append(disturbed)
    return report


def refused_report(
    plan: BuildPlan,
    manifest: Manifest,
    split: Split,
    error: GateError,
    candidates: tuple[Candidate, ...],
) -> dict[str, Any]:
    """Return the report of a refused build: all measurements until then, and the reason."""
    measured: dict[str, Any] = {"gate": {"passed": False, "bounds": [], "reason": str(error)}}
    if isinstance(error.tried, Int8Attempt):
        measured = report_of_refused(error.tried, candidates, plan.int8, str(error))
    elif error.tried and all(isinstance(attempt, HalfAttempt) for attempt in error.tried):
        measured["candidates"] = [attempt.to_dict() for attempt in error.tried]
    return _whole(plan, manifest, split, measured)


def _whole(plan: BuildPlan, manifest: Manifest, split: Split, measured: dict[str, Any]) -> dict[str, Any]:
    faces = split.comparing
    assert faces is not None
    holds_for = {
        "processor": device_name(),
        "processor_features": list(processor_features()),
        "backend": plan.backend.name,
        "faces": faces.name
        if split.summary["comparing"]["completed"]
        else f"{len(faces)} faces of {faces.name}",
    }
    return {
        "model": {
            "network": manifest.spec.network,
            "precision": plan.options.precision,
            "weights": str(manifest.provenance.get("weights", plan.options.weights)),
            "licence": str(manifest.provenance.get("licence", "not stated")),
            "data": faces.name,
            "accuracy_prior": accuracy_prior(manifest),
        },
        "record": measurement_record(),
        **faces_report(split),
        **measured,
        "gate": {**measured["gate"], "holds_for": holds_for},
    }


def accuracy_prior(manifest: Manifest) -> str:
    """Return the prior under which a build measures accuracy: the one that the logits imply.

    A runtime applies the default prior of the bundle instead, so that its accuracy may differ.
    """
    return manifest.logit_prior or "that of the logits, not recorded"


def refused_folder(output: Path) -> Path:
    """Return the folder beside a bundle that holds the report of a refused build."""
    return output.with_name(f"{output.name}.refused")


def forget_refusal(output: Path) -> None:
    """Remove the report of an earlier refused build; keep a folder that holds anything else."""
    folder = refused_folder(output)
    if folder.is_dir() and not folder.is_symlink() and _is_report(folder):
        shutil.rmtree(folder)


def refuse(options: BuildOptions, output: Path, error: GateError, report: Mapping[str, Any]) -> GateError:
    """Write the report of a refused build beside its output.

    Returns
    -------
    GateError
        With the figures, the path of the report or the reason why there is none, and the next commands.
    """
    refused = error.tried if isinstance(error.tried, Int8Attempt) else None
    steps = next_steps(options, refused.steps if refused is not None else ())
    # The commands replace the remedies of the error and of the warnings.
    texts = (error, *report.get("warnings", ()))
    found = ". ".join(without_fix(text).rstrip(".") for text in texts)
    fix = "Fix: run " + ", or ".join(f"{command} ({why})" for command, why in steps)
    whole = {**report, "next_steps": [{"command": command, "purpose": why} for command, why in steps]}
    folder = refused_folder(output)
    if folder.exists() and not (folder.is_dir() and _is_report(folder)):
        return GateError(
            f"{found}. {folder} holds something else, so no report was written there. {fix}", error.tried
        )
    try:
        with whole_folder(folder) as part:
            write_json(part / REPORT, whole)
            write_report_page(part / REPORT_PAGE, whole)
    except OSError as problem:
        return GateError(f"{found}. No report could be written ({problem}). {fix}", error.tried)
    return GateError(f"{found}. The measurements are in {folder / REPORT_PAGE}. {fix}", error.tried)


def next_steps(options: BuildOptions, tried: Sequence[Step] = ()) -> list[tuple[str, str]]:
    """Return commands that may succeed after a refused build, each with its purpose.

    Parameters
    ----------
    options : BuildOptions
        Options of the refused build.
    tried : sequence of Step
        Steps of the mixed-precision search.
    """
    if options.precision != "int8":
        return [(build_command(options, precision=p), f"build {p.upper()}") for p in ("int8", "fp32")]
    other = {"calibration_data": Path("PATH"), "calibration_split": None, "generator": None}
    found = [(build_command(options, **other), "calibrate on other faces")]
    bounds = {name: getattr(options, name) for name in ("max_drop", "min_cosine", "min_agreement")}
    if reached := _reached(bounds, tried):
        found.insert(0, (build_command(options, **reached), "set the bounds to the values that were reached"))
    elif not any(bound is not None for bound in bounds.values()):
        command = build_command(options, min_cosine=COLLAPSED_COSINE)
        found.append((command, "leave the most harmful layers in floating point"))
    found.append((build_command(options, precision="fp32", **_NO_BOUNDS), "stay in floating point"))
    return found


def _reached(bounds: Mapping[str, float | None], tried: Sequence[Step]) -> dict[str, float]:
    """Return bounds that are met by the tried model nearest to FP32."""
    if not tried:
        return {}
    best = max(tried, key=lambda step: step.logit_cosine)
    reached = {
        "max_drop": max(math.ceil(100 * best.drop_pp) / 100, 0.0),
        "min_cosine": math.floor(1e5 * best.logit_cosine) / 1e5,
        "min_agreement": math.floor(1e4 * best.agreement) / 1e4,
    }
    return {name: value for name, value in reached.items() if bounds[name] is not None}


def _is_report(folder: Path) -> bool:
    return {path.name for path in folder.iterdir()} <= {REPORT, REPORT_PAGE}

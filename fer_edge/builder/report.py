"""What the report of a build says beside the figures of INT8: network, faces, warnings, and where the gate holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fer_edge.backends import Backend
from fer_edge.builder.calibration import Calibration
from fer_edge.builder.options import BuildOptions
from fer_edge.builder.splits import Split
from fer_edge.bundle import Manifest
from fer_edge.errors import GateError
from fer_edge.system.provenance import device_name, measurement_record, processor_features

if TYPE_CHECKING:
    from fer_edge.calibration.comparison.bounds import Bounds
    from fer_edge.calibration.int8 import Int8Result


def faces_report(split: Split) -> dict[str, Any]:
    """Return the split and its warnings."""
    return {"data": dict(split.summary), "warnings": list(split.warnings)}


def bounds_of(options: BuildOptions, manifest: Manifest) -> Bounds | None:
    """Return what INT8 must meet; ``None`` is that it has not collapsed."""
    from fer_edge.calibration.comparison.bounds import Bounds

    bounds = Bounds(options.max_drop, options.min_cosine, options.min_agreement)
    # Random weights may give anything.
    return None if bounds == Bounds() and not manifest.timing_only else bounds


def int8_report(
    int8: Int8Result,
    calibration: Calibration,
    options: BuildOptions,
    manifest: Manifest,
    backend: Backend,
    split: Split,
) -> dict[str, Any]:
    """Return the report of an INT8 bundle, as plain JSON types."""
    from fer_edge.calibration.report.report import report_of

    measured = report_of(int8, calibration.candidates, bounds_of(options, manifest))
    return _whole(options, manifest, backend, split, measured)


def refused_report(
    error: GateError,
    calibration: Calibration | None,
    options: BuildOptions,
    manifest: Manifest,
    backend: Backend,
    split: Split,
) -> dict[str, Any]:
    """Return the report of a build that was refused: all that was measured until then, and the reason."""
    from fer_edge.calibration.fp16 import HalfAttempt
    from fer_edge.calibration.int8 import Refused
    from fer_edge.calibration.report.report import report_of_refused

    measured: dict[str, Any] = {"gate": {"passed": False, "bounds": [], "reason": str(error)}}
    if isinstance(error.tried, Refused) and calibration is not None:
        bounds = bounds_of(options, manifest)
        measured = report_of_refused(error.tried, calibration.candidates, bounds, str(error))
    elif error.tried and all(isinstance(attempt, HalfAttempt) for attempt in error.tried):
        measured["candidates"] = [attempt.to_dict() for attempt in error.tried]
    return _whole(options, manifest, backend, split, measured)


def _whole(
    options: BuildOptions, manifest: Manifest, backend: Backend, split: Split, measured: dict[str, Any]
) -> dict[str, Any]:
    faces = split.comparing
    assert faces is not None
    holds_for = {
        "processor": device_name(),
        "processor_features": list(processor_features()),
        "backend": backend.name,
        "faces": faces.name
        if split.summary["comparing"]["completed"]
        else f"{len(faces)} faces of {faces.name}",
    }
    return {
        "model": {
            "network": manifest.spec.network,
            "precision": options.precision,
            "weights": str(manifest.provenance.get("weights", options.weights)),
            "licence": str(manifest.provenance.get("licence", "not stated")),
            "data": faces.name,
        },
        "record": measurement_record(),
        **faces_report(split),
        **measured,
        "gate": {**measured["gate"], "holds_for": holds_for},
    }

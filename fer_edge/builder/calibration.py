"""The ranges of a build: shipped with the model, or observed on its faces."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fer_edge._utils.progress import Progress
from fer_edge.backends import Backend
from fer_edge.builder.faces import effort_for
from fer_edge.builder.options import BuildOptions
from fer_edge.builder.splits import Counts, Split
from fer_edge.bundle import FP32_MODEL, RANGES, Manifest
from fer_edge.calibration.ranges.methods import AUTO_METHOD
from fer_edge.errors import UsageError

if TYPE_CHECKING:
    from fer_edge.calibration.algorithms.search import Candidate
    from fer_edge.calibration.ranges.ranges import Ranges


@dataclass(frozen=True)
class Calibration:
    """Ranges, where they come from, and the calibrations that were measured."""

    ranges: Ranges
    origin: str
    candidates: tuple[Candidate, ...] = ()


def shipped_calibration(options: BuildOptions, work: Path) -> Calibration | None:
    """Return the ranges that ship with the model, ``None`` where the build needs none or takes its own.

    Raises
    ------
    UsageError
        If a method is asked for, which cannot change them.
    """
    from fer_edge.calibration.ranges.ranges import load_ranges

    if options.precision != "int8" or options.calibration_data is not None or not (work / RANGES).is_file():
        return None
    if options.method != AUTO_METHOD:
        raise UsageError(
            f"ranges ship with {options.model}, and --method {options.method} cannot change them: leave it out, or give --calibration-data"
        )
    ranges = load_ranges(work / RANGES, work / FP32_MODEL)
    taken = f"{ranges.method} on {ranges.images} faces of {ranges.data['name']}"
    return Calibration(ranges, f"those that ship with the model ({taken})")


def faces_needed(options: BuildOptions, manifest: Manifest, shipped: Calibration | None) -> Counts:
    """Return how many faces the build needs for what."""
    calibrates = options.calibration_data is not None or (options.precision == "int8" and shipped is None)
    measures = calibrates and _method(options, manifest) == AUTO_METHOD
    compares = options.precision != "fp32" or options.eval_data is not None
    effort = effort_for(options)
    return Counts(
        effort.calibration if calibrates else 0,
        effort.held_out if measures else 0,
        effort.comparison if compares else 0,
    )


def calibrate_on(
    split: Split,
    options: BuildOptions,
    manifest: Manifest,
    backend: Backend,
    work: Path,
    on_progress: Progress,
) -> Calibration | None:
    """Leave ``ranges.json`` in ``work``, ``None`` where no faces calibrate; ``model.onnx`` may become its equalised form."""
    from fer_edge.calibration.calibrate import calibrate

    faces = split.calibrating
    if faces is None:
        return None
    choice = calibrate(
        work / FP32_MODEL,
        manifest.spec,
        backend,
        faces,
        split.held_out or faces.first(0),
        _method(options, manifest),
        {"name": faces.name, "fingerprint": faces.fingerprint()},
        on_progress,
    )
    choice.ranges.save(work / RANGES)
    origin = f"{choice.ranges.method} on {choice.ranges.images} faces of {faces.name}"
    return Calibration(choice.ranges, origin, choice.candidates)


def _method(options: BuildOptions, manifest: Manifest) -> str:
    """Random weights are timed only: one pass over the faces gives ranges for that."""
    return "minmax" if options.method == AUTO_METHOD and manifest.timing_only else options.method

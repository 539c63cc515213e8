"""Measure ranges on faces, by a given method or by the best one for the network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx

from fer_edge._utils.progress import Progress
from fer_edge.backends import Backend
from fer_edge.calibration.algorithms.search import Choice, choose_calibration
from fer_edge.calibration.algorithms.trial import Trial
from fer_edge.calibration.placement.families import placement_of
from fer_edge.calibration.placement.placement import place
from fer_edge.calibration.ranges.activations import batches
from fer_edge.calibration.ranges.collect import observe
from fer_edge.calibration.ranges.methods import AUTO_METHOD, METHODS
from fer_edge.datasets import FaceDataset
from fer_edge.errors import lookup
from fer_edge.spec import ModelSpec


def calibrate(
    model: Path,
    spec: ModelSpec,
    backend: Backend,
    faces: FaceDataset,
    held_out: FaceDataset,
    method: str,
    data: Mapping[str, str],
    on_progress: Progress,
) -> Choice:
    """Measure ranges on ``faces``.

    Parameters
    ----------
    model : Path
        FP32 ONNX file; ``auto`` may replace it by its equalised form.
    spec : ModelSpec
        Input and output specification.
    backend : Backend
        Backend on which ``auto`` measures.
    faces, held_out : FaceDataset
        Faces for the ranges, and faces to measure them on.
    method : str
        A key of :data:`fer_edge.calibration.ranges.methods.METHODS`, or ``auto``.
    data : mapping
        Origin of the faces, stored with the ranges.
    on_progress : callable
        Called with (stage, done, total).
    """
    placed = place(onnx.load(model), placement_of(spec.network))
    if method != AUTO_METHOD:
        lookup(METHODS, method, "calibration method")  # fail before minutes of work
    observations = observe(model, batches(faces, spec, on_progress, "calibrating"), data, placed)
    if method != AUTO_METHOD:
        return Choice(observations.ranges(method), ())
    trial = Trial(model, backend, spec, placed)
    return choose_calibration(trial, observations, faces, held_out, on_progress)

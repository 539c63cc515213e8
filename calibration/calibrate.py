"""Ranges from faces: by the method that is asked for, or by whichever is best for this network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from fer_edge.backends import Backend
from fer_edge.calibration.candidates import Choice, choose_calibration
from fer_edge.calibration.families import placement_of
from fer_edge.calibration.fidelity import measure_fidelity
from fer_edge.calibration.methods import AUTO_METHOD, METHODS
from fer_edge.calibration.ranges import Observations, collect_ranges, observe
from fer_edge.calibration.sensitivity import Quantised
from fer_edge.datasets import FaceDataset
from fer_edge.evaluation import Progress
from fer_edge.preprocess import prepare_batch
from fer_edge.spec import ModelSpec

#: Every tensor of a batch is in memory at once: about 1 GiB in Residual Masking Network.
_CALIBRATION_BATCH = 8
#: Corrections of biases hold the weights twice, and half as many faces.
_CORRECTION_BATCH = 4
#: Faces for the means and maxima of corrections.
_CORRECTION_FACES = 64


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
    """Take ranges from ``faces``.

    Parameters
    ----------
    model : Path
        FP32 ONNX file; ``auto`` may replace it by its equalised form.
    spec : ModelSpec
        Pixels in, labels out.
    backend : Backend
        Where ``auto`` measures.
    faces, held_out : FaceDataset
        For the ranges, and for measuring what they give.
    method : str
        A key of :data:`fer_edge.calibration.methods.METHODS`, or ``auto``.
    data : mapping
        Where the faces come from, for the record.
    on_progress : callable
        Called with (stage, done, total).
    """
    placement = placement_of(spec.network)

    def count(done: int) -> None:
        on_progress("calibrating", done, len(faces))

    if method != AUTO_METHOD:
        return Choice(collect_ranges(model, _batches(faces, spec), method, data, count, placement), ())

    def observe_all(path: Path) -> Observations:
        return observe(path, _batches(faces, spec), data, count, placement)

    quantised = Quantised(model, backend, spec)
    reference = quantised.fp32_logits(held_out)
    few = faces.first(_CORRECTION_FACES)
    return choose_calibration(
        model,
        observe_all,
        tuple(METHODS),
        lambda: _batches(few, spec, _CORRECTION_BATCH),
        lambda path, ranges: measure_fidelity(reference, quantised.logits(ranges, held_out, path)),
        lambda done, total: on_progress("choosing a calibration", done, total),
    )


def _batches(faces: FaceDataset, spec: ModelSpec, size: int = _CALIBRATION_BATCH) -> Iterator[np.ndarray]:
    for start in range(0, len(faces), size):
        stop = min(start + size, len(faces))
        yield prepare_batch([faces[i] for i in range(start, stop)], spec)

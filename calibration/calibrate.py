"""Ranges from faces: by the method that is asked for, or by whichever is best for this network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from fer_edge._utils.progress import Progress, face_counter
from fer_edge.backends import Backend
from fer_edge.calibration.algorithms.search import Choice, choose_calibration
from fer_edge.calibration.algorithms.trial import Trial
from fer_edge.calibration.comparison.fidelity import Fidelity, measure_fidelity
from fer_edge.calibration.placement.families import placement_of
from fer_edge.calibration.ranges.collect import Observations, collect_ranges, observe
from fer_edge.calibration.ranges.methods import AUTO_METHOD, METHODS
from fer_edge.calibration.ranges.ranges import Ranges
from fer_edge.datasets import FaceDataset
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
        A key of :data:`fer_edge.calibration.ranges.methods.METHODS`, or ``auto``.
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

    quantised = Trial(model, backend, spec)
    counted = face_counter(on_progress, f"measuring FP32 on {held_out.name}", len(held_out))
    reference = quantised.fp32_logits(held_out, counted)
    few = faces.first(min(_CORRECTION_FACES, max(len(held_out), len(faces) // 8)))
    search = _SearchProgress(len(METHODS) + 1, len(held_out), on_progress)

    def corrections() -> Iterator[np.ndarray]:
        done = 0
        for batch in _batches(few, spec, _CORRECTION_BATCH):
            yield batch
            done += len(batch)
            on_progress("correcting the calibration", done, len(few))

    def measure(path: Path, ranges: Ranges) -> Fidelity:
        return measure_fidelity(reference, quantised.logits(ranges, held_out, path, search.on_faces))

    return choose_calibration(model, observe_all, tuple(METHODS), corrections, measure, search.on_candidate)


class _SearchProgress:
    """Tells how many faces the candidates have been measured on: one candidate of a large network takes a minute."""

    def __init__(self, candidates: int, faces: int, on_progress: Progress) -> None:
        self._candidates, self._faces, self._on_progress = candidates, faces, on_progress
        self._done = self._of_this = 0

    def on_faces(self, faces: int) -> None:
        """Count faces of the candidate that is measured now."""
        self._of_this += faces
        self._tell()

    def on_candidate(self, done: int, total: int) -> None:
        """Count a candidate."""
        self._done, self._candidates, self._of_this = done, total, 0
        self._tell()

    def _tell(self) -> None:
        done = self._done * self._faces + self._of_this
        self._on_progress("choosing a calibration", done, self._candidates * self._faces)


def _batches(faces: FaceDataset, spec: ModelSpec, size: int = _CALIBRATION_BATCH) -> Iterator[np.ndarray]:
    for start in range(0, len(faces), size):
        stop = min(start + size, len(faces))
        yield prepare_batch([faces[i] for i in range(start, stop)], spec)

"""Search for the best calibration of a network by measuring every candidate.

The logits of each candidate's Q/DQ model are compared with those of FP32 on held-out faces. The methods come
first, then bias correction and equalisation; each is kept if it lowers the noise.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from fer_edge._utils.progress import Progress, face_counter
from fer_edge.calibration.algorithms.bias_correction import measure_bias_shifts
from fer_edge.calibration.algorithms.equalisation import find_pairs, save_equalised
from fer_edge.calibration.algorithms.trial import Trial
from fer_edge.calibration.comparison.fidelity import measure_fidelity
from fer_edge.calibration.ranges.activations import batches
from fer_edge.calibration.ranges.collect import Observations, observe
from fer_edge.calibration.ranges.methods import METHODS
from fer_edge.calibration.ranges.ranges import Ranges
from fer_edge.datasets import FaceDataset

#: Noise reduction that a correction must reach to be kept; a smaller one is within chance.
_WORTHWHILE_DB = 0.2
#: Half the usual batch, since bias correction holds the weights twice.
_CORRECTION_BATCH = 4
#: Faces used for the means and maxima of the corrections.
_CORRECTION_FACES = 64


@dataclass(frozen=True)
class Candidate:
    """A calibration and its :class:`fer_edge.calibration.comparison.fidelity.Fidelity`."""

    name: str
    agreement: float
    logit_cosine: float
    snr_db: float | None
    chosen: bool = False


@dataclass(frozen=True)
class Choice:
    """The ranges of the best candidate, and all measured candidates in order."""

    ranges: Ranges
    candidates: tuple[Candidate, ...]


def choose_calibration(
    trial: Trial,
    observations: Observations,
    faces: FaceDataset,
    held_out: FaceDataset,
    on_progress: Progress,
) -> Choice:
    """Measure every method, bias correction and equalisation, and keep the best combination.

    Parameters
    ----------
    trial : Trial
        FP32 model and backend; the file is replaced by its equalised form if that is best.
    observations : Observations
        Statistics of the FP32 model on ``faces``.
    faces, held_out : FaceDataset
        Faces for the ranges, and faces to measure them on; the two should have no face in common.
    on_progress : callable
        Called with (stage, done, total).
    """
    model, placed, pairs = trial.model, trial.placed, find_pairs(trial.placed)
    few = faces.first(min(_CORRECTION_FACES, max(len(held_out), len(faces) // 8)))
    few_batches = partial(
        batches, few, trial.spec, on_progress, "correcting the calibration", _CORRECTION_BATCH
    )
    search = _Search(trial, held_out, len(METHODS) + 1 + bool(pairs), on_progress)
    best = search.best([(method, observations.ranges(method)) for method in METHODS])
    method = best[0]
    shifts = measure_bias_shifts(model, few_batches(), placed)
    corrected = dataclasses.replace(best[1], bias_shifts=shifts)
    best = search.improve(model, best, f"{method} + bias correction", corrected)
    if not pairs:
        return search.choice(best)
    with tempfile.TemporaryDirectory(
        dir=model.parent
    ) as folder:  # the same file system, for an atomic replace
        equalised = Path(folder) / model.name
        save_equalised(model, pairs, few_batches(), equalised)
        again = batches(faces, trial.spec, on_progress, "calibrating")
        ranges = observe(equalised, again, observations.data, placed).ranges(method)
        shifts = measure_bias_shifts(equalised, few_batches(), placed)
        corrected = dataclasses.replace(ranges, bias_shifts=shifts)
        name = f"{best[0]} + equalisation"
        if best[1].bias_shifts:
            kept = search.improve(equalised, best, name, corrected)
        else:  # measured again: with less activation noise its gain may exceed the threshold
            search.total += 1
            kept = search.improve(equalised, best, name, ranges)
            kept = search.improve(equalised, kept, f"{name} + bias correction", corrected)
        if kept is not best:
            equalised.replace(model)
    return search.choice(kept)


Named = tuple[str, Ranges]


class _Search:
    """The candidates measured so far, of ``total``."""

    def __init__(self, trial: Trial, held_out: FaceDataset, total: int, on_progress: Progress) -> None:
        self._trial, self._held_out, self.total, self._on_progress = trial, held_out, total, on_progress
        self._found: list[Candidate] = []
        self._faces = 0
        counted = face_counter(on_progress, f"measuring FP32 on {held_out.name}", len(held_out))
        self._reference = trial.fp32_logits(held_out, counted)

    def best(self, named: Sequence[Named]) -> Named:
        """Measure all and return the one with the least noise, the first on a tie."""
        noise = [self._snr(self._trial.model, *pair) for pair in named]
        return named[int(np.argmax(noise))]

    def improve(self, model: Path, best: Named, name: str, ranges: Ranges) -> Named:
        """Measure one more; return it if it lowers the noise enough, else ``best``."""
        before = next(c.snr_db for c in self._found if c.name == best[0])
        found = self._snr(model, name, ranges)
        better = before is not None and found >= before + _WORTHWHILE_DB
        return (name, ranges) if better else best

    def choice(self, best: Named) -> Choice:
        """Return the result; its ``method`` names the chosen calibration."""
        candidates = tuple(dataclasses.replace(c, chosen=c.name == best[0]) for c in self._found)
        return Choice(dataclasses.replace(best[1], method=best[0]), candidates)

    def _snr(self, model: Path, name: str, ranges: Ranges) -> float:
        logits = self._trial.logits(ranges, self._held_out, model, self._count)
        fidelity = measure_fidelity(self._reference, logits)
        self._found.append(Candidate(name, **fidelity.to_dict()))
        return np.inf if fidelity.snr_db is None else fidelity.snr_db

    def _count(self, faces: int) -> None:
        """Report progress in faces: one candidate of a large network takes a minute."""
        self._faces += faces
        self._on_progress("choosing a calibration", self._faces, self.total * len(self._held_out))

"""Which calibration is best for this network: every candidate is measured, none is believed.

On faces that no range was taken from, the logits of each candidate's Q/DQ model are compared with those of
FP32. The methods come first; then bias correction and equalisation, each kept if it lowers the noise.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from fer_edge.calibration.algorithms.bias_correction import measure_bias_shifts
from fer_edge.calibration.algorithms.equalisation import channel_maxima, equalise, find_pairs
from fer_edge.calibration.comparison.fidelity import Fidelity
from fer_edge.calibration.malloc_trim import return_free_memory
from fer_edge.calibration.placement.graph import Graph
from fer_edge.calibration.placement.placement import Placement
from fer_edge.calibration.ranges.collect import Observations
from fer_edge.calibration.ranges.ranges import Ranges

#: What is more work must lower the noise by this much; less is chance.
_WORTHWHILE_DB = 0.2

#: Quantises an FP32 file with ranges, runs it, and compares it with the FP32 model.
Measure = Callable[[Path, Ranges], Fidelity]


@dataclass(frozen=True)
class Candidate:
    """One way to calibrate and what it gave; see :class:`fer_edge.calibration.comparison.fidelity.Fidelity`."""

    name: str
    agreement: float
    logit_cosine: float
    snr_db: float | None
    chosen: bool = False


@dataclass(frozen=True)
class Choice:
    """The best candidate's ranges, and all that were measured, in order."""

    ranges: Ranges
    candidates: tuple[Candidate, ...]


def choose_calibration(
    model: Path,
    observe_all: Callable[[Path], Observations],
    methods: Sequence[str],
    correction_batches: Callable[[], Iterable[np.ndarray]],
    measure: Measure,
    on_candidate: Callable[[int, int], None] = lambda done, total: None,
) -> Choice:
    """Measure every method, bias correction and equalisation on ``model`` and keep what is best.

    Parameters
    ----------
    model : Path
        FP32 ONNX file; replaced by its equalised form where that is best.
    observe_all : callable
        Runs the calibration faces through a model.
    methods : sequence of str
        Keys of :data:`fer_edge.calibration.ranges.methods.METHODS`.
    correction_batches : callable
        Gives batches of calibration faces, once for each pass of a correction; some dozens of faces suffice.
    measure : callable
        See :data:`Measure`; its faces should not be among the calibration faces.
    on_candidate : callable
        Called with (done, total).
    """
    observations = observe_all(model)
    has_pairs = bool(find_pairs(Graph(onnx.load(model)), observations.placement))
    search = _Search(measure, len(methods) + 1 + has_pairs, on_candidate)
    best = search.best(model, [(method, observations.ranges(method)) for method in methods])
    method = best[0]
    shifts = measure_bias_shifts(model, correction_batches(), observations.placement)
    best = search.improve(
        model, best, f"{method} + bias correction", dataclasses.replace(best[1], bias_shifts=shifts)
    )
    if not has_pairs:
        return search.choice(best)
    with tempfile.TemporaryDirectory(dir=model.parent) as folder:  # so that replacing is one step, or none
        equalised = Path(folder) / model.name
        onnx.save(_equalised(model, observations.placement, correction_batches), equalised)
        ranges = observe_all(equalised).ranges(method)
        shifts = measure_bias_shifts(equalised, correction_batches(), observations.placement)
        corrected = dataclasses.replace(ranges, bias_shifts=shifts)
        name = f"{best[0]} + equalisation"
        if best[1].bias_shifts:
            kept = search.improve(equalised, best, name, corrected)
        else:  # what was not worth its work may be now: less noise of the activations is in its way
            search.total += 1
            kept = search.improve(equalised, best, name, ranges)
            kept = search.improve(equalised, kept, f"{name} + bias correction", corrected)
        if kept is not best:
            equalised.replace(model)
    return search.choice(kept)


def _equalised(
    model: Path, placement: Placement, batches: Callable[[], Iterable[np.ndarray]]
) -> onnx.ModelProto:
    tensors = [pair.tensor for pair in find_pairs(Graph(onnx.load(model)), placement)]
    maxima = channel_maxima(model, tensors, batches())
    proto = onnx.load(model)
    equalise(proto, placement, maxima)
    # A message holds what was replaced in it until it goes; a copy does not, and saving takes two more.
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    del proto
    return_free_memory()
    return result


Named = tuple[str, Ranges]


class _Search:
    """What has been measured so far."""

    def __init__(self, measure: Measure, total: int, on_candidate: Callable[[int, int], None]) -> None:
        self._measure, self.total, self._on_candidate = measure, total, on_candidate
        self._found: list[Candidate] = []

    def best(self, model: Path, named: Sequence[Named]) -> Named:
        """Measure all and return the one with the least noise, the first of equals."""
        noise = [self._snr(model, *pair) for pair in named]
        return named[int(np.argmax(noise))]

    def improve(self, model: Path, best: Named, name: str, ranges: Ranges) -> Named:
        """Measure one more and return it if it is worth its work, else ``best``."""
        before = next(c.snr_db for c in self._found if c.name == best[0])
        found = self._snr(model, name, ranges)
        better = before is not None and found >= before + _WORTHWHILE_DB
        return (name, ranges) if better else best

    def choice(self, best: Named) -> Choice:
        """Return the result; the method's name says what was chosen."""
        candidates = tuple(dataclasses.replace(c, chosen=c.name == best[0]) for c in self._found)
        return Choice(dataclasses.replace(best[1], method=best[0]), candidates)

    def _snr(self, model: Path, name: str, ranges: Ranges) -> float:
        fidelity = self._measure(model, ranges)
        self._found.append(Candidate(name, **fidelity.to_dict()))
        self._on_candidate(len(self._found), self.total)
        return np.inf if fidelity.snr_db is None else fidelity.snr_db

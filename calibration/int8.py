"""Quantise an FP32 model for every dialect, measure it, and refuse it if it misses the bounds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from fer_edge._utils.checks import MAX_IMAGES, require_flag, require_whole
from fer_edge._utils.progress import Progress, face_counter
from fer_edge.backends import BACKENDS, Backend, SessionOptions
from fer_edge.bundle import int8_model
from fer_edge.calibration.algorithms.mixed_precision import MixedPrecision, Step, mix_precision
from fer_edge.calibration.algorithms.sensitivity import LayerSensitivity, measure_sensitivity
from fer_edge.calibration.algorithms.trial import Trial
from fer_edge.calibration.comparison.bounds import BoundResult, Bounds, Outcome, judge, lost_pp
from fer_edge.calibration.comparison.compare import Comparison, compare
from fer_edge.calibration.comparison.fidelity import Fidelity, measure_fidelity
from fer_edge.calibration.comparison.timing import time_in_turn
from fer_edge.calibration.malloc_trim import return_free_memory
from fer_edge.calibration.placement.families import PlacementRow, explain_placement
from fer_edge.calibration.placement.macs import multiply_adds, share_of
from fer_edge.calibration.placement.placement import place
from fer_edge.calibration.qdq.dialects import DIALECTS
from fer_edge.calibration.qdq.writer import integer_layers, quantise
from fer_edge.calibration.ranges.ranges import Ranges
from fer_edge.datasets import FaceDataset
from fer_edge.errors import GateError
from fer_edge.evaluation.evaluate import known_targets
from fer_edge.results import LatencySummary, summarise
from fer_edge.spec import ModelSpec

#: INT8 below this cosine has collapsed; it is refused even if the user set no bounds.
COLLAPSED_COSINE = 0.99
COLLAPSED = Bounds(min_cosine=COLLAPSED_COSINE)
#: With fewer labelled faces, one face is over six points; the share of faces whose class changes is judged instead.
MIN_LABELLED_FACES = 16
#: Number of faces for measurements that are too slow to run on all.
_FEW_FACES = 64


@dataclass(frozen=True)
class Int8Options:
    """Options for building and judging INT8.

    Attributes
    ----------
    bounds : Bounds or None
        Bounds for INT8; the most harmful layers stay in floating point until they are met. ``None`` refuses
        a collapsed model, and leaves no layer out.
    timing_only : bool
        The weights are random, so without ``bounds`` nothing is refused.
    sensitivity : bool
        Measure every layer alone even if the bounds are met.
    sensitivity_images : int
        Number of faces for that measurement.
    """

    bounds: Bounds | None = None
    timing_only: bool = False
    sensitivity: bool = False
    sensitivity_images: int = _FEW_FACES

    def __post_init__(self) -> None:
        require_flag("timing_only", self.timing_only)
        require_flag("sensitivity", self.sensitivity)
        require_whole("sensitivity_images", self.sensitivity_images, 1, MAX_IMAGES)

    def judge(self, outcome: Outcome) -> tuple[BoundResult, ...]:
        """Return the result for each bound; empty if nothing is refused."""
        if self.bounds is None and self.timing_only:
            return ()
        return outcome.against(self.bounds or COLLAPSED)


@dataclass(frozen=True)
class MixedPrecisionResult:
    """Layers that mixed precision left in floating point, and the latencies before and after."""

    found: MixedPrecision
    int8_latency: LatencySummary
    mixed_latency: LatencySummary


@dataclass(frozen=True)
class Int8Result:
    """An INT8 model and its measurements.

    Attributes
    ----------
    ranges : Ranges
        The calibration, with the layers that mixed precision left in floating point.
    comparison : Comparison
        Comparison with FP32 on the backend.
    simulated : mapping
        Dialect of another backend → fidelity of its model to FP32 in ONNX Runtime, on up to 64 faces.
    integer_share : float
        Share of the multiply-adds that compute in integers.
    placement : tuple of PlacementRow
        Layers that stay in floating point, with reasons.
    sensitivity : tuple of LayerSensitivity
        The most harmful layer first; empty if it was not measured.
    mixed : MixedPrecisionResult or None
        ``None`` if all layers could stay in INT8.
    """

    ranges: Ranges
    comparison: Comparison
    simulated: Mapping[str, Fidelity]
    integer_share: float
    placement: tuple[PlacementRow, ...]
    sensitivity: tuple[LayerSensitivity, ...]
    mixed: MixedPrecisionResult | None


@dataclass(frozen=True)
class Int8Attempt:
    """Figures of an INT8 model that missed its bounds; ``tried`` of the :class:`GateError`.

    Attributes
    ----------
    int8 : Int8Result
        The model without mixed precision.
    steps : tuple of Step
        Steps of the mixed-precision search.
    """

    int8: Int8Result
    steps: tuple[Step, ...] = ()


def make_int8(
    work: Path,
    model: Path,
    spec: ModelSpec,
    backend: Backend,
    ranges: Ranges,
    faces: FaceDataset,
    options: Int8Options,
    on_progress: Progress,
) -> Int8Result:
    """Write the Q/DQ model of every dialect into ``work`` and measure it on ``faces``.

    Raises
    ------
    GateError
        If the bounds are missed; with user-defined bounds, only after mixed precision was tried. Its ``tried`` is
        an :class:`Int8Attempt`.
    """
    trial = Trial(model, backend, spec, place(onnx.load(model), ranges.placement))
    path = work / int8_model(backend.dialect)
    _write(work, trial, ranges, on_progress)
    count = face_counter(on_progress, f"comparing on {faces.name}", 2 * len(faces))
    fp32_logits = trial.fp32_logits(faces, count)
    comparison = compare(model, path, backend, spec, faces, on_faces=count, fp32_logits=fp32_logits)
    int8 = _describe(trial, ranges, comparison)
    missed = not all(result.passed for result in options.judge(outcome_of(comparison)))
    if missed and options.bounds is None:
        raise GateError(_collapsed(comparison, faces), Int8Attempt(int8))
    if missed or options.sensitivity:
        few = faces.first(options.sensitivity_images)
        sensitivity = measure_sensitivity(
            trial, ranges, few, lambda done, total: on_progress("measuring every layer", done, total)
        )
        int8 = dataclasses.replace(int8, sensitivity=sensitivity)
    if missed and options.bounds is not None:
        try:
            found = _mix(trial, ranges, int8.sensitivity, fp32_logits, faces, options.bounds, on_progress)
        except GateError as error:
            raise GateError(str(error), Int8Attempt(int8, error.tried)) from None
        kept = dataclasses.replace(ranges.placement, float_layers=frozenset(found.float_layers))
        ranges = dataclasses.replace(ranges, placement=kept)
        before = path.replace(work / "all-int8.onnx")
        _write(work, trial, ranges, on_progress)
        count = face_counter(on_progress, f"comparing mixed precision on {faces.name}", len(faces))
        comparison = compare(model, path, backend, spec, faces, on_faces=count, fp32_logits=fp32_logits)
        mixed = MixedPrecisionResult(found, *_latencies(backend, spec, before, path))
        before.unlink()
        described = _describe(trial, ranges, comparison)
        int8 = dataclasses.replace(described, sensitivity=int8.sensitivity, mixed=mixed)
    int8 = dataclasses.replace(int8, simulated=_simulate(work, trial, faces, on_progress))
    if collapsed := _collapsed_dialect(int8.simulated, options, min(len(faces), _FEW_FACES)):
        raise GateError(collapsed, Int8Attempt(int8))
    return int8


def _describe(trial: Trial, ranges: Ranges, comparison: Comparison) -> Int8Result:
    """Return the result without further measurements."""
    placed = trial.placed.leaving(ranges.placement.float_layers)
    layers = [node.name for node in integer_layers(placed, trial.backend.dialect)]
    share = share_of(layers, multiply_adds(placed.model))
    return Int8Result(ranges, comparison, {}, share, explain_placement(placed, trial.spec.network), (), None)


def outcome_of(comparison: Comparison) -> Outcome:
    """Return the losses of a comparison that bounds apply to."""
    fidelity = Fidelity(comparison.agreement, comparison.logit_cosine, comparison.snr_db)
    if (paired := comparison.paired) is None or paired.faces < MIN_LABELLED_FACES:
        return Outcome(lost_pp(1, comparison.agreement), False, fidelity)
    return Outcome(lost_pp(0, paired.change_pp / 100), True, fidelity)


def _write(work: Path, trial: Trial, ranges: Ranges, on_progress: Progress) -> None:
    for done, dialect in enumerate(DIALECTS, 1):
        path = work / int8_model(dialect)
        onnx.save(quantise(onnx.load(trial.model), ranges, dialect, trial.placed), path)
        onnx.checker.check_model(str(path), full_check=True)
        on_progress("writing INT8 models", done, len(DIALECTS))
    return_free_memory()


def _mix(
    trial: Trial,
    ranges: Ranges,
    sensitivity: tuple[LayerSensitivity, ...],
    fp32_logits: np.ndarray,
    faces: FaceDataset,
    bounds: Bounds,
    on_progress: Progress,
) -> MixedPrecision:
    targets = known_targets(faces, trial.spec)
    if (targets >= 0).sum() < MIN_LABELLED_FACES:
        targets = np.full(len(faces), -1)
    work = multiply_adds(trial.placed.model)
    order = [layer.layer for layer in sensitivity]

    def evaluate(float_layers: frozenset[str]) -> Outcome:
        kept = dataclasses.replace(ranges.placement, float_layers=float_layers)
        logits = trial.logits(dataclasses.replace(ranges, placement=kept), faces)
        return judge(fp32_logits, logits, targets)

    return mix_precision(
        order,
        evaluate,
        lambda float_layers: share_of((name for name in order if name not in float_layers), work),
        bounds,
        lambda tried: on_progress("leaving layers in floating point", tried, 0),
    )


def _latencies(backend: Backend, spec: ModelSpec, *models: Path) -> list[LatencySummary]:
    sessions = [backend.open(model, SessionOptions()) for model in models]
    runs_ms = time_in_turn(sessions, np.zeros((1, *spec.input_shape), np.float32))
    for session in sessions:
        session.close()
    return [summarise(times) for times in runs_ms]


def _simulate(work: Path, trial: Trial, faces: FaceDataset, on_progress: Progress) -> dict[str, Fidelity]:
    """Run the models of the other dialects in ONNX Runtime, which executes any Q/DQ model."""
    runtime = dataclasses.replace(trial, backend=BACKENDS["onnxruntime"])
    few = faces.first(_FEW_FACES)
    others = [dialect for dialect in DIALECTS if dialect != trial.backend.dialect]
    count = face_counter(on_progress, "simulating other backends", (1 + len(others)) * len(few))
    reference = runtime.fp32_logits(few, count)
    return {
        dialect: measure_fidelity(reference, runtime.file_logits(work / int8_model(dialect), few, count))
        for dialect in others
    }


def _collapsed_dialect(simulated: Mapping[str, Fidelity], options: Int8Options, faces: int) -> str:
    """Return a message about the first collapsed model; empty if there is none."""
    if options.bounds is None and options.timing_only:
        return ""
    least = COLLAPSED_COSINE
    if options.bounds is not None and options.bounds.min_cosine is not None:
        least = min(least, options.bounds.min_cosine)
    for dialect, fidelity in simulated.items():
        if fidelity.logit_cosine < least:
            return (
                f"the {dialect} model has collapsed: its logits have a cosine of {fidelity.logit_cosine:.4f} with "
                f"those of FP32 on {faces} faces, expected at least {least}. Fix: calibrate on other faces"
            )
    return ""


def _collapsed(comparison: Comparison, faces: FaceDataset) -> str:
    return (
        f"INT8 has collapsed on {faces.name}: the cosine of its logits with those of FP32 is {comparison.logit_cosine:.4f}, "
        f"expected at least {COLLAPSED_COSINE}, and {comparison.agreement:.1%} of the faces keep their class. Fix: calibrate "
        "on other faces, or leave the most harmful layers in floating point"
    )

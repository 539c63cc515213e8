"""The gate: bounds that INT8 must meet, and the smallest set of layers left in floating point that meets them.

``--int8`` never gives a floating-point model: at least a quarter of the multiply-adds stays in integers, or the
bounds cannot be met and the build fails.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fer_edge._utils.checks import require_number
from fer_edge.calibration.comparison.fidelity import Fidelity, measure_fidelity
from fer_edge.errors import GateError, UsageError

MIN_INTEGER_SHARE = 0.25
#: In the error; the report shows all.
_LAYERS_NAMED = 5


@dataclass(frozen=True)
class Bounds:
    """What INT8 may lose.

    Attributes
    ----------
    max_drop_pp : float or None
        Accuracy in percentage points. Without labels, or with too few, the share of faces whose class changes is
        taken, which the loss of accuracy cannot exceed.
    min_cosine : float or None
        Mean cosine of the centred logits.
    min_agreement : float or None
        Share of faces that keep their class.
    """

    max_drop_pp: float | None = None
    min_cosine: float | None = None
    min_agreement: float | None = None

    def __post_init__(self) -> None:
        require_number("max_drop_pp", self.max_drop_pp, 0, 100, optional=True)
        require_number("min_cosine", self.min_cosine, -1, 1, optional=True)
        require_number("min_agreement", self.min_agreement, 0, 1, optional=True)
        if self.min_cosine == 1:
            raise UsageError("min_cosine must be from -1 to below 1: INT8 rounds, found 1")


@dataclass(frozen=True)
class BoundResult:
    """One bound, in words and with its unit, and what was measured."""

    name: str
    bound: float
    measured: float
    passed: bool


@dataclass(frozen=True)
class Outcome:
    """What one model loses against FP32; ``labelled`` says what ``drop_pp`` is (see :class:`Bounds`)."""

    drop_pp: float
    labelled: bool
    fidelity: Fidelity

    def against(self, bounds: Bounds) -> tuple[BoundResult, ...]:
        """Return how each bound that is set was met."""
        drop = "drop of accuracy, percentage points" if self.labelled else "faces whose class changes, %"
        found, fidelity = [], self.fidelity
        if (most := bounds.max_drop_pp) is not None:
            found.append(BoundResult(f"{drop}, at most", most, self.drop_pp, self.drop_pp <= most))
        for name, least, measured in (
            ("cosine of the centred logits, at least", bounds.min_cosine, fidelity.logit_cosine),
            ("share of faces that keep their class, at least", bounds.min_agreement, fidelity.agreement),
        ):
            if least is not None:
                found.append(BoundResult(name, least, measured, measured >= least))
        return tuple(found)

    def meets(self, bounds: Bounds) -> bool:
        """Whether every bound that is set is met."""
        return all(result.passed for result in self.against(bounds))


def lost_pp(before: float, after: float) -> float:
    """Return the loss between two shares in percentage points, without the rounding of their difference."""
    return round(100 * (before - after), 9)


def judge(fp32: np.ndarray, int8: np.ndarray, targets: np.ndarray) -> Outcome:
    """Compare ``[N, K]`` logits on faces with ``[N]`` classes, -1 where unknown."""
    fidelity = measure_fidelity(fp32, int8)
    known = targets >= 0
    if not known.any():
        return Outcome(lost_pp(1, fidelity.agreement), False, fidelity)
    right = [float((values[known].argmax(axis=1) == targets[known]).mean()) for values in (fp32, int8)]
    return Outcome(lost_pp(*right), True, fidelity)


@dataclass(frozen=True)
class Step:
    """One model that was tried."""

    float_layers: tuple[str, ...]
    drop_pp: float
    logit_cosine: float
    agreement: float
    passed: bool


@dataclass(frozen=True)
class MixedPrecision:
    """The smallest set found of layers in floating point that meets the bounds, and all that was tried."""

    float_layers: tuple[str, ...]
    steps: tuple[Step, ...]


def mix_precision(
    order: Sequence[str],
    evaluate: Callable[[frozenset[str]], Outcome],
    integer_share: Callable[[frozenset[str]], float],
    bounds: Bounds,
    on_step: Callable[[int], None] = lambda tried: None,
) -> MixedPrecision:
    """Find the smallest set of layers to leave in floating point.

    A layer whose loss would leave too little in integers is passed over. Of the others the k most harmful are
    left out of INT8 for k = 1, 2, 4, …; the smallest k that meets the bounds is then found by halving, and each
    of its layers is put back where the bounds hold without.

    Parameters
    ----------
    order : sequence of str
        Layers, the most harmful first.
    evaluate : callable
        Measures the model with these layers in floating point.
    integer_share : callable
        Share of the multiply-adds that then compute in integers.
    bounds : Bounds
        What must be met.
    on_step : callable
        Called with the number of models tried.

    Raises
    ------
    GateError
        If the bounds are not met while at least a quarter of the multiply-adds compute in integers; its ``tried`` is
        the tuple of all steps.
    """
    tried: dict[frozenset[str], Step] = {}
    order = _affordable(order, integer_share)
    most = len(order)

    def passes(layers: frozenset[str]) -> bool:
        if layers not in tried:
            outcome = evaluate(layers)
            tried[layers] = Step(
                tuple(name for name in order if name in layers),
                outcome.drop_pp,
                outcome.fidelity.logit_cosine,
                outcome.fidelity.agreement,
                outcome.meets(bounds),
            )
            on_step(len(tried))
        return tried[layers].passed

    low, high = 0, 1
    if not passes(frozenset()):
        while not passes(frozenset(order[: min(high, most)])):
            if high >= most:
                raise GateError(_cannot(tried, bounds), tuple(tried.values()))
            low, high = high, 2 * high
        high = min(high, most)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if passes(frozenset(order[:middle])) else (middle, high)
        kept = frozenset(order[:high])
        for name in reversed(order[:high]):
            if len(kept) > 1 and passes(kept - {name}):
                kept -= {name}
    else:
        kept = frozenset()
    return MixedPrecision(tuple(name for name in order if name in kept), tuple(tried.values()))


def _affordable(order: Sequence[str], integer_share: Callable[[frozenset[str]], float]) -> list[str]:
    """Return the layers that can all be left out while enough computes in integers, the most harmful first."""
    kept: list[str] = []
    for name in order:
        if integer_share(frozenset([*kept, name])) >= MIN_INTEGER_SHARE:
            kept.append(name)
    return kept


def _cannot(tried: dict[frozenset[str], Step], bounds: Bounds) -> str:
    asked = []
    if bounds.max_drop_pp is not None:
        asked.append(f"a drop of at most {bounds.max_drop_pp} points")
    if bounds.min_cosine is not None:
        asked.append(f"a logit cosine of at least {bounds.min_cosine}")
    if bounds.min_agreement is not None:
        asked.append(f"the same class on {bounds.min_agreement:.2%} of the faces")
    table = "; ".join(
        f"{len(step.float_layers)} layers in floating point: {step.drop_pp:+.2f} points, cosine {step.logit_cosine:.5f}, same class {step.agreement:.2%}"
        for step in tried.values()
    )
    largest = max(tried.values(), key=lambda step: len(step.float_layers)).float_layers
    harmful = f", the most harmful of them {', '.join(largest[:_LAYERS_NAMED])}" if largest else ""
    return (
        f"INT8 cannot meet {' and '.join(asked)} with {MIN_INTEGER_SHARE:.0%} of the multiply-adds in integers "
        f"(at most {len(largest)} layers in floating point{harmful}; tried {table}): allow more, calibrate on other faces, or build --fp32"
    )

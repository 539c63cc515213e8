"""Mixed precision: find the smallest set of floating-point layers with which INT8 meets its bounds.

At least a quarter of the multiply-adds stays in integers; otherwise the bounds cannot be met and the build fails.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fer_edge.calibration.comparison.bounds import Bounds, Outcome
from fer_edge.errors import GateError

MIN_INTEGER_SHARE = 0.25
#: Layers named in the error message; the report lists all.
_LAYERS_NAMED = 5


@dataclass(frozen=True)
class Step:
    """One model of the search, with its figures."""

    float_layers: tuple[str, ...]
    drop_pp: float
    logit_cosine: float
    agreement: float
    passed: bool


@dataclass(frozen=True)
class MixedPrecision:
    """The smallest set of floating-point layers found that meets the bounds, and all steps of the search."""

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

    Layers that would leave too few multiply-adds in integers are skipped. The k most harmful of the others are
    left out of INT8 for k = 1, 2, 4, …; bisection then finds the smallest k that meets the bounds, and each of
    its layers returns to INT8 if the bounds still hold.

    Parameters
    ----------
    order : sequence of str
        Layers, the most harmful first.
    evaluate : callable
        Measures the model with the given layers in floating point.
    integer_share : callable
        Returns the share of the multiply-adds in integers, given the floating-point layers.
    bounds : Bounds
        Bounds to meet.
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
    """Return layers that can all be left out with enough multiply-adds in integers, the most harmful first."""
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
        f"{len(step.float_layers)} layers in floating point with {step.drop_pp:+.2f} points, cosine {step.logit_cosine:.5f}, same class {step.agreement:.2%}"
        for step in tried.values()
    )
    largest = max(tried.values(), key=lambda step: len(step.float_layers)).float_layers
    harmful = f", the most harmful of them {', '.join(largest[:_LAYERS_NAMED])}" if largest else ""
    return (
        f"INT8 cannot meet {' and '.join(asked)} with {MIN_INTEGER_SHARE:.0%} of the multiply-adds in integers "
        f"(at most {len(largest)} layers in floating point{harmful}; tried {table}). "
        "Fix: relax the bounds, calibrate on other faces, or build with --fp32"
    )

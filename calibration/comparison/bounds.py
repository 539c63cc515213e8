"""Accuracy bounds for INT8, and the losses that they apply to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fer_edge._utils.checks import require_number
from fer_edge.calibration.comparison.fidelity import Fidelity, measure_fidelity
from fer_edge.errors import UsageError


@dataclass(frozen=True)
class Bounds:
    """Bounds on the loss of INT8 against FP32; ``None`` sets no bound.

    Attributes
    ----------
    max_drop_pp : float or None
        Largest drop of accuracy in percentage points. Without labels, or with too few, the share of faces whose class
        changes is used, which bounds the drop of accuracy from above.
    min_cosine : float or None
        Smallest mean cosine of the centred logits.
    min_agreement : float or None
        Smallest share of faces that keep their class.
    """

    max_drop_pp: float | None = None
    min_cosine: float | None = None
    min_agreement: float | None = None

    def __post_init__(self) -> None:
        require_number("max_drop_pp", self.max_drop_pp, 0, 100, optional=True)
        require_number("min_cosine", self.min_cosine, -1, 1, optional=True)
        require_number("min_agreement", self.min_agreement, 0, 1, optional=True)
        if self.min_cosine == 1:
            raise UsageError(
                "min_cosine must be from -1 to below 1, since INT8 rounds, found 1. Fix: give a smaller bound, such as 0.999"
            )


@dataclass(frozen=True)
class BoundResult:
    """One bound, with its name and unit, and the measured value."""

    name: str
    bound: float
    measured: float
    passed: bool


@dataclass(frozen=True)
class Outcome:
    """Loss of one model against FP32; ``drop_pp`` is measured on labels if ``labelled`` (see :class:`Bounds`)."""

    drop_pp: float
    labelled: bool
    fidelity: Fidelity

    def against(self, bounds: Bounds) -> tuple[BoundResult, ...]:
        """Return the result for each bound that is set."""
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
        """Return ``True`` if every bound that is set is met."""
        return all(result.passed for result in self.against(bounds))


def lost_pp(before: float, after: float) -> float:
    """Return the loss between two shares in percentage points, free of the rounding error of their difference."""
    return round(100 * (before - after), 9)


def judge(fp32: np.ndarray, int8: np.ndarray, targets: np.ndarray) -> Outcome:
    """Compare ``[N, K]`` logits on faces with ``[N]`` classes, -1 where unknown."""
    fidelity = measure_fidelity(fp32, int8)
    known = targets >= 0
    if not known.any():
        return Outcome(lost_pp(1, fidelity.agreement), False, fidelity)
    right = [float((values[known].argmax(axis=1) == targets[known]).mean()) for values in (fp32, int8)]
    return Outcome(lost_pp(*right), True, fidelity)

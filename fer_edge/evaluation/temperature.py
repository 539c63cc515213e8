"""Temperature scaling: one parameter that calibrates confidences (Guo et al., 2017, Section 4.2)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fer_edge.errors import DataError
from fer_edge.evaluation.metrics import expected_calibration_error
from fer_edge.probabilities import softmax

#: Search bounds of 1 / T; a solution beyond is clipped to the bound.
_LEAST, _MOST = 0.05, 20.0
_HALVINGS = 60
_MIN_FACES = 100


@dataclass(frozen=True)
class Temperature:
    """A fitted temperature and its effect.

    Attributes
    ----------
    value : float
        T of softmax(logits / T), fitted on all faces.
    faces : int
        Number of faces.
    ece_before, ece_after : float
        Expected calibration error; the latter by two-fold cross-fitting, so that no face is evaluated with a
        temperature fitted on it.
    """

    value: float
    faces: int
    ece_before: float
    ece_after: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)


def fit_temperature(logits: np.ndarray, targets: np.ndarray) -> float:
    """Return the T > 0 for which softmax(``logits`` / T) gives ``targets`` the least negative log-likelihood.

    Parameters
    ----------
    logits : np.ndarray
        ``[N, K]``.
    targets : np.ndarray
        ``[N]`` class indices.

    Raises
    ------
    DataError
        If there are no faces.
    """
    if len(targets) == 0:
        raise DataError("there are no labelled faces to fit a temperature on. Fix: give other data")
    values = np.asarray(logits, np.float64)
    of_target = values[np.arange(len(values)), targets]

    def slope(inverse: float) -> float:
        # The likelihood is convex in 1/T; its derivative is the expected logit less that of the target.
        return float(((softmax(values * inverse) * values).sum(axis=1) - of_target).mean())

    low, high = _LEAST, _MOST
    for _ in range(_HALVINGS):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return float(1 / (low * high) ** 0.5)


def measure_temperature(logits: np.ndarray, targets: np.ndarray) -> Temperature | None:
    """Fit a temperature on ``[N, K]`` logits and measure its effect; ``None`` for N < 100, which are too few."""
    if len(targets) < _MIN_FACES:
        return None
    folds = np.random.default_rng(0).permutation(len(targets)) % 2
    scaled = np.array(logits, np.float64)
    for fold in (0, 1):
        scaled[folds == fold] /= fit_temperature(logits[folds != fold], targets[folds != fold])
    return Temperature(
        value=fit_temperature(logits, targets),
        faces=len(targets),
        ece_before=expected_calibration_error(softmax(logits), targets),
        ece_after=expected_calibration_error(softmax(scaled), targets),
    )

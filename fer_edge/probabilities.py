"""From logits to probabilities: the temperature first, then the prior.

    ℓ = z / T − s · log π     # logits for equal priors; s = 1 where z implies π, the prior of the training labels
    p = softmax(ℓ + log q)    # q: the prior that holds where the network is used

With q = π and s = 1 that is softmax(z / T), and is computed as such. Several outputs, such as those of an image and its
mirror image, are combined under one prior; q is applied once, last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from fer_edge._utils.checks import is_number
from fer_edge.errors import UsageError, closest, lookup
from fer_edge.spec import ModelSpec

#: Default threshold below which an expression is uncertain.
MIN_PROBABILITY = 0.35
#: A name of :data:`NAMED_PRIORS`, or class name → probability.
Prior = str | Mapping[str, float]
#: Class frequencies π of the training labels → prior q, both ``[K]`` float64 with sum 1.
NAMED_PRIORS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "training": lambda frequencies: frequencies,
    "balanced": lambda frequencies: np.sqrt(frequencies) / np.sqrt(frequencies).sum(),
    "uniform": lambda frequencies: np.full_like(frequencies, 1 / len(frequencies)),
}
TRAINING = "training"
#: Name of a prior that was given class by class.
GIVEN = "given"
_SUM_TOLERANCE = 1e-6


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the softmax over the last axis, in float64."""
    shifted = np.asarray(logits, np.float64) - np.max(logits, axis=-1, keepdims=True)
    exponentials = np.exp(shifted)
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))


class CalibratedModel(Protocol):
    """A network whose logits are described by a manifest or by weights."""

    @property
    def spec(self) -> ModelSpec:
        """Input and output contract, with the class names."""

    @property
    def temperature(self) -> float:
        """T > 0."""

    @property
    def class_frequencies(self) -> Mapping[str, float] | None:
        """Class name → share π among the training labels, above 0; ``None`` if unknown."""

    @property
    def logit_prior(self) -> str | None:
        """Prior that the logits imply: ``training``, ``uniform``, or ``None`` if unknown."""

    @property
    def default_prior(self) -> Prior | None:
        """Default prior; ``None`` is ``training``."""


@dataclass(frozen=True)
class ProbabilityRule:
    """Conversion of logits to probabilities.

    Attributes
    ----------
    temperature : float
        T.
    prior : str
        A key of :data:`NAMED_PRIORS`, or ``given``.
    class_prior : mapping or None
        Class name → q, in the order of the logits; ``None`` for a training prior that is not recorded.
    offset : tuple of float or None
        ``[K]``, log q less the log of the prior that the logits imply; −∞ excludes a class. ``None``: the same prior.
    importance : tuple of float or None
        ``[K]``, q / π: weight of a face of each class when calibration is measured on data with the frequencies of the
        training labels. ``None``: equal weights.
    """

    temperature: float = 1.0
    prior: str = TRAINING
    class_prior: Mapping[str, float] | None = None
    offset: tuple[float, ...] | None = None
    importance: tuple[float, ...] | None = None

    def __call__(self, logits: np.ndarray) -> np.ndarray:
        """Return ``[..., K]`` float64 probabilities; rows of logits that are not finite give NaN."""
        finite = np.isfinite(logits).all(axis=-1, keepdims=True)
        known = softmax(self.logits(np.where(finite, logits, np.zeros_like(logits))))
        return known if finite.all() else np.where(finite, known, np.nan)

    def logits(self, logits: np.ndarray) -> np.ndarray:
        """Return z / T under the prior q, from raw logits z ``[..., K]``."""
        return self.apply_prior(self.scale(logits))

    def scale(self, logits: np.ndarray) -> np.ndarray:
        """Return z / T from raw logits z ``[..., K]``, to be combined before :meth:`apply_prior`.

        It differs from ℓ by the constant s · log π, which :meth:`apply_prior` takes into account: a weighted mean of
        z / T under q is that of ℓ under q.
        """
        return logits / self.temperature

    def apply_prior(self, scaled: np.ndarray) -> np.ndarray:
        """Return logits under q from logits divided by T, or from a combination of such logits."""
        return scaled if self.offset is None else scaled + np.array(self.offset)

    def weights(self, targets: np.ndarray) -> np.ndarray | None:
        """Return ``[N]`` weights of faces by their ``[N]`` true classes; ``None`` for equal weights."""
        return None if self.importance is None else np.array(self.importance)[targets]

    def to_dict(self) -> dict[str, Any]:
        """Return the prior and the temperature as plain JSON types."""
        values = None if self.class_prior is None else dict(self.class_prior)
        return {"name": self.prior, "class_prior": values, "temperature": self.temperature}


def make_rule(model: CalibratedModel, prior: Prior | None = None) -> ProbabilityRule:
    """Return the conversion of a model's logits to probabilities under a prior.

    Parameters
    ----------
    model : CalibratedModel
        For example a manifest.
    prior : str, mapping or None
        ``training`` (π), ``balanced`` (q ∝ √π), ``uniform``, or class name → probability for every class, where 0
        excludes a class. ``None`` is the model's own default.

    Raises
    ------
    UsageError
        If the prior is unknown or not a distribution over the classes, or needs class frequencies that are unknown.
    """
    chosen = model.default_prior if prior is None else prior
    chosen = TRAINING if chosen is None else chosen
    names = model.spec.class_names
    if isinstance(chosen, Mapping):
        name, given = GIVEN, _distribution(chosen, names)
    elif isinstance(chosen, str):
        name, given = chosen, None
        lookup(NAMED_PRIORS, chosen, "prior")
    else:
        raise UsageError(
            f"expected a prior, found {chosen!r:.80}. "
            f"Fix: give one of {', '.join(NAMED_PRIORS)}, or a probability for each class"
        )
    if model.class_frequencies is None or model.logit_prior is None:
        if name != TRAINING:
            raise UsageError(
                f"prior {name!r} needs the class frequencies of the training labels, which are not recorded for "
                f"{model.spec.network}. Fix: choose prior {TRAINING!r}, or build from weights made by fer-edge train"
            )
        return ProbabilityRule(model.temperature)
    frequencies = np.array([model.class_frequencies[n] for n in names], np.float64)
    wanted = NAMED_PRIORS[name](frequencies) if given is None else given
    implied = NAMED_PRIORS[model.logit_prior](frequencies)
    with np.errstate(divide="ignore"):  # log 0 excludes a class
        offset = None if np.array_equal(wanted, implied) else np.log(wanted) - np.log(implied)
    same = np.array_equal(wanted, frequencies)
    return ProbabilityRule(
        temperature=model.temperature,
        prior=name,
        class_prior=dict(zip(names, map(float, wanted), strict=True)),
        offset=None if offset is None else tuple(map(float, offset)),
        importance=None if same else tuple(map(float, wanted / frequencies)),
    )


def _distribution(prior: Mapping[str, float], names: tuple[str, ...]) -> np.ndarray:
    """Return a given prior as ``[K]`` float64 in the order of the classes."""
    for name in prior:
        if name not in names:
            raise UsageError(
                f"the prior names an unknown class {name!r:.40}. Fix: use the classes {', '.join(names)}"
                f"{closest(str(name), names)}"
            )
    if missing := [name for name in names if name not in prior]:
        raise UsageError(
            f"the prior lacks the classes {', '.join(missing)}. "
            "Fix: give a probability for each class, 0 to exclude it"
        )
    for name, value in prior.items():
        if not is_number(value) or not 0 <= value <= 1:
            raise UsageError(
                f"the prior of {name} must be a number from 0 to 1, found {value!r:.40}. Fix: change this value"
            )
    total = math.fsum(map(float, prior.values()))
    if abs(total - 1) > _SUM_TOLERANCE:
        raise UsageError(
            f"the probabilities of a prior must sum to 1, found {total:.7g}. Fix: divide each by their sum"
        )
    return np.array([float(prior[name]) for name in names])

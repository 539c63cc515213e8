"""Smoothing over time of the classifications of one track.

The logits are averaged with weights that decay exponentially, in time and not in frames. A classification stands for
the time Δt since the one before:

    mean' = (e · mass · mean + a · z / T) / mass',    mass' = e · mass + a,
    e = exp(−Δt / τ),    a = w · (1 − e)

The division by the mass corrects the bias at the start: the first classification counts fully, and as if it stood for
the same time as the second. The prior is applied once, to the mean. The label follows the averaged probabilities with
hysteresis.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fer_edge._utils.checks import is_number, require_number
from fer_edge.errors import UsageError
from fer_edge.probabilities import MIN_PROBABILITY, ProbabilityRule, softmax

MAX_TIME_MS = 600_000.0
#: Classifications at the same time weigh as if they were this far apart.
MIN_INTERVAL_S = 1e-3
#: Smaller weights count as this one.
MIN_WEIGHT = 1e-6
#: Beyond this, z / T is taken relative to its largest value and cut: exp(−30) is 1e-13, and a single wild output of
#: 1e30 would otherwise outweigh all others for 69 time constants.
MAX_SCALED_LOGIT = 30.0


@dataclass(frozen=True)
class SmoothingOptions:
    """Options of the smoothing; the defaults are chosen by ``benchmarks/smoothing.py``.

    Attributes
    ----------
    time_constant_ms : float
        τ: after this time a classification has 1/e of its weight.
    switch_margin : float
        From 0 to 1. Another class takes over the label at once if its probability exceeds that of the label by this.
    switch_hold_ms : float
        The most probable class takes over with any margin after the label has not been the most probable for this time.
    certainty_margin : float
        From 0 to 1. A track gets its label when the probability of the most probable class reaches ``min_probability``,
        and loses it when that falls below ``min_probability`` by more than this.
    max_gap_ms : float
        Without a usable classification for longer than this, there is no label. It must exceed the longest time between
        two classifications of a track. The clock may go back by less; a longer jump in either direction starts anew.
    """

    time_constant_ms: float = 70.0
    switch_margin: float = 0.4
    switch_hold_ms: float = 150.0
    certainty_margin: float = 0.1
    max_gap_ms: float = 2000.0

    def __post_init__(self) -> None:
        for name, least, most in (
            ("time_constant_ms", 1, MAX_TIME_MS),
            ("switch_margin", 0, 1),
            ("switch_hold_ms", 0, MAX_TIME_MS),
            ("certainty_margin", 0, 1),
            ("max_gap_ms", 1, MAX_TIME_MS),
        ):
            require_number(name, getattr(self, name), least, most)


@dataclass(frozen=True)
class SteadyLabel:
    """Smoothed answer for a track at one time.

    Attributes
    ----------
    label : str or None
        ``None`` if there is none; ``reason`` then says why.
    probability : float
        Averaged probability of the label, which may be below ``min_probability`` within the hysteresis; without a label
        that of the most probable class, or 0 if none is known.
    probabilities : mapping
        Class name → averaged probability, sum 1; empty if no usable classification is recent enough.
    reason : str or None
        ``uncertain``; ``not_classified`` since the start or for ``max_gap_ms``; ``not_finite`` if the outputs of the
        network were dropped in that time.
    stable_for_ms : float or None
        Time since the label was taken; ``None`` without a label.
    classified_at_s : float or None
        Time of the last usable classification, also if it is too old; ``None`` without one since the start.
    """

    label: str | None
    probability: float
    probabilities: Mapping[str, float] = field(default_factory=dict)
    reason: str | None = None
    stable_for_ms: float | None = None
    classified_at_s: float | None = None


class LabelSmoother:
    """Smoothed label of one track. Not thread-safe.

    Parameters
    ----------
    options : SmoothingOptions
        Options.
    rule : ProbabilityRule
        Logits → probabilities.
    class_names : sequence of str
        ``[K]``, in the order of the logits.
    min_probability : float
        From 0 to 1. Averaged probability from which the most probable class becomes the label.

    Attributes
    ----------
    non_finite : int
        Number of classifications that were dropped since they were not finite, over the life of the track.

    Raises
    ------
    UsageError
        If an argument is out of range, or the rule is for another number of classes.
    """

    def __init__(
        self,
        options: SmoothingOptions,
        rule: ProbabilityRule,
        class_names: Sequence[str],
        min_probability: float = MIN_PROBABILITY,
    ) -> None:
        require_number("min_probability", min_probability, 0, 1)
        known = len(class_names) if rule.offset is None else len(rule.offset)
        if not class_names or known != len(class_names):
            raise UsageError(
                f"expected class names for a rule of {known} classes, found {len(class_names)}. "
                "Fix: give the rule and the class names of one model"
            )
        self._options, self._rule, self._names = options, rule, tuple(class_names)
        self._min_probability = float(min_probability)
        self.non_finite = 0
        self.restart()

    @property
    def is_challenged(self) -> bool:
        """``True`` if another class than the label is the most probable one, but has not taken over."""
        return self._led_since_s is not None

    def restart(self) -> None:
        """Forget all classifications and the label, as after an occlusion."""
        self._count = 0
        self._mass = 0.0
        self._mean = np.zeros(len(self._names))
        self._probabilities = np.zeros(len(self._names))
        self._last_s = math.nan
        self._dropped = False
        self._label: int | None = None
        self._since_s = math.nan
        self._led_since_s: float | None = None  # another class is the most probable

    def add(self, logits: np.ndarray, at_s: float, weight: float = 1.0) -> None:
        """Add a classification.

        Parameters
        ----------
        logits : np.ndarray
            ``[K]`` raw logits z. If z / T is not finite, it is dropped and counted: the label stays, and ages.
        at_s : float
            Capture time of the frame. A time before that of the last classification is taken as the same time, and
            the clock goes on from there.
        weight : float
            Above 0, to 1: relative weight, for example by the quality of the crop.

        Raises
        ------
        UsageError
            If the shape or dtype of the logits, the time or the weight is invalid.
        """
        scaled, at_s = self._scaled(logits), _checked_time(at_s)
        if not is_number(weight) or not 0 < weight <= 1:
            raise UsageError(
                f"weight must be above 0 and at most 1, found {weight!r:.60}. Fix: change weight"
            )
        if self._is_stale(at_s):
            self.restart()
        if not np.isfinite(scaled).all():
            self.non_finite += 1
            self._dropped = True
            return
        self._dropped = False
        self._average(_bounded(scaled), at_s, max(float(weight), MIN_WEIGHT))
        self._probabilities = softmax(self._rule.apply_prior(self._mean))
        self._decide(at_s)

    def answer(self, at_s: float) -> SteadyLabel:
        """Return the smoothed answer at a time, which may lie between classifications.

        Raises
        ------
        UsageError
            If the time is not a finite number.
        """
        at_s = _checked_time(at_s)
        last_s = self._last_s if self._count else None
        if last_s is None or self._is_stale(at_s):
            reason = "not_finite" if self._dropped else "not_classified"
            return SteadyLabel(None, 0.0, reason=reason, classified_at_s=last_s)
        named = {name: float(p) for name, p in zip(self._names, self._probabilities, strict=True)}
        if self._label is None:
            return SteadyLabel(None, max(named.values()), named, reason="uncertain", classified_at_s=last_s)
        label = self._names[self._label]
        stable_for_ms = 1e3 * max(at_s - self._since_s, 0)
        return SteadyLabel(label, named[label], named, stable_for_ms=stable_for_ms, classified_at_s=last_s)

    def _scaled(self, logits: np.ndarray) -> np.ndarray:
        found = np.asarray(logits)
        if found.shape != (len(self._names),) or found.dtype.kind not in "fiu":
            raise UsageError(
                f"expected logits [{len(self._names)}] of numbers, found {found.dtype} {list(found.shape)}. "
                "Fix: give the logits of one face"
            )
        with np.errstate(over="ignore"):  # overflow is dropped as not finite
            return self._rule.scale(found)

    def _is_stale(self, at_s: float) -> bool:
        return self._count > 0 and 1e3 * abs(at_s - self._last_s) > self._options.max_gap_ms

    def _average(self, scaled: np.ndarray, at_s: float, weight: float) -> None:
        if not self._count:
            self._mean, self._mass = scaled.astype(np.float64), weight
        else:
            elapsed = max(at_s - self._last_s, MIN_INTERVAL_S) * 1e3 / self._options.time_constant_ms
            fresh = -math.expm1(-elapsed)
            if self._count == 1:
                self._mass *= fresh
            added = weight * fresh
            self._mass = self._mass * math.exp(-elapsed) + added
            self._mean = self._mean + added / self._mass * (scaled - self._mean)
        self._count += 1
        self._last_s = at_s

    def _decide(self, at_s: float) -> None:
        """Choose the label by the averaged probabilities, with hysteresis."""
        found, options = self._probabilities, self._options
        best = int(found.argmax())
        if self._label is None:
            if found[best] >= self._min_probability:
                self._take(best, at_s)
            return
        self._since_s = min(self._since_s, at_s)  # the clock may have gone back
        if found[best] < self._min_probability - options.certainty_margin:
            self._take(None, at_s)
        elif best == self._label:
            self._led_since_s = None
        else:
            led_since_s = self._led_since_s = (
                at_s if self._led_since_s is None else min(self._led_since_s, at_s)
            )
            lead = found[best] - found[self._label]
            if lead >= options.switch_margin or 1e3 * (at_s - led_since_s) >= options.switch_hold_ms:
                self._take(best, at_s)

    def _take(self, label: int | None, at_s: float) -> None:
        self._label, self._since_s, self._led_since_s = label, at_s, None


def _bounded(scaled: np.ndarray) -> np.ndarray:
    if np.abs(scaled).max() <= MAX_SCALED_LOGIT:
        return scaled
    with np.errstate(over="ignore"):  # −∞ is cut
        return np.maximum(scaled - scaled.max(), -MAX_SCALED_LOGIT)


def _checked_time(at_s: float) -> float:
    if not is_number(at_s):
        raise UsageError(f"at_s must be a finite number of seconds, found {at_s!r:.60}. Fix: give a time")
    return float(at_s)

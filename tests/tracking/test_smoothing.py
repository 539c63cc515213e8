"""Smoothing against closed forms and a direct sum, the prior, hysteresis, gaps, and bad input."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from fer_edge.bundle import open_bundle
from fer_edge.errors import UsageError
from fer_edge.models.catalogue import SHIPPED, shipped_bundle
from fer_edge.probabilities import NAMED_PRIORS, ProbabilityRule, make_rule, softmax
from fer_edge.tracking.smoothing import LabelSmoother, SmoothingOptions, SteadyLabel

NAMES = ("neutral", "happiness", "disgust")
PLAIN = ProbabilityRule()
TAU_S = 0.15
OPTIONS = {
    "time_constant_ms": 1e3 * TAU_S,
    "switch_margin": 0.15,
    "switch_hold_ms": 300.0,
    "certainty_margin": 0.05,
}
NEUTRAL, HAPPINESS = np.array([3.0, 0, 0]), np.array([0, 3.0, 0])
BAD = [math.nan, math.inf, -math.inf]


def smoother(rule: ProbabilityRule = PLAIN, min_probability: float = 0.35, **options: float) -> LabelSmoother:
    return LabelSmoother(SmoothingOptions(**{**OPTIONS, **options}), rule, NAMES, min_probability)


def probabilities(answer: SteadyLabel) -> np.ndarray:
    return np.array(list(answer.probabilities.values()))


def direct_sum(logits: np.ndarray, times: np.ndarray, weights: np.ndarray, tau_s: float) -> np.ndarray:
    """Mean with weight w · (1 − exp(−Δt / τ)) · exp(−age / τ); the first stands for the Δt of the second."""
    intervals = np.diff(times, prepend=times[0])
    intervals[0] = intervals[1] if len(times) > 1 else 1
    mass = weights * (1 - np.exp(-intervals / tau_s)) * np.exp(-(times[-1] - times) / tau_s)
    return np.array([math.fsum(mass * column) / math.fsum(mass) for column in logits.T])


@pytest.mark.parametrize("seed", range(20))
def test_the_mean_is_that_of_a_direct_sum(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count, tau_s = int(rng.integers(1, 40)), float(rng.uniform(0.02, 1))
    times = 100 + np.cumsum(rng.uniform(0.005, 0.3, count))
    logits, weights = rng.normal(0, 3, (count, 3)), rng.uniform(0.01, 1, count)
    steady = smoother(time_constant_ms=1e3 * tau_s)
    for z, at_s, weight in zip(logits, times, weights, strict=True):
        steady.add(z, at_s, weight)
    expected = softmax(direct_sum(logits, times, weights, tau_s))
    np.testing.assert_allclose(probabilities(steady.answer(times[-1])), expected, atol=1e-12)


@pytest.mark.parametrize("seed", range(10))
def test_a_step_is_the_same_however_time_is_divided(seed: int) -> None:
    """The closed form of a step from A to B after 1 s, at 0.4 s after it; intervals of A are 0.1 s."""
    rng = np.random.default_rng(seed)
    steady = smoother()
    for at_s in np.linspace(0, 1, 11):
        steady.add(NEUTRAL, at_s)
    for at_s in [*np.sort(rng.uniform(1.001, 1.399, int(rng.integers(0, 30)))), 1.4]:
        steady.add(HAPPINESS, at_s)
    old = (1 - math.exp(-1.1 / TAU_S)) * math.exp(-0.4 / TAU_S)  # the first stands for 0.1 s before it
    new = 1 - math.exp(-0.4 / TAU_S)
    expected = softmax((old * NEUTRAL + new * HAPPINESS) / (old + new))
    # Draws nearer than the smallest interval of 1 ms weigh as 1 ms.
    np.testing.assert_allclose(probabilities(steady.answer(1.4)), expected, atol=2e-3)


def test_a_constant_answers_as_one_classification() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 4, 3).astype(np.float32)
    rule = ProbabilityRule(0.8, offset=(0.3, -0.2, 0.1))
    steady = smoother(rule)
    for at_s in np.cumsum(rng.uniform(0.001, 0.5, 200)):
        steady.add(logits, at_s, float(rng.uniform(0.01, 1)))
        assert np.array_equal(probabilities(steady.answer(at_s)), rule(logits))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("prior", [*NAMED_PRIORS, "given"])
@pytest.mark.parametrize("name", SHIPPED)
def test_one_classification_answers_as_the_rule_bit_for_bit(name: str, prior: str, dtype: type) -> None:
    manifest = open_bundle(shipped_bundle(name)).manifest
    names = manifest.spec.class_names
    given = {n: float(i == 1) / 2 + float(i == 2) / 2 for i, n in enumerate(names)}  # excludes classes
    rule = make_rule(manifest, given if prior == "given" else prior)
    for logits in np.random.default_rng(0).normal(0, 4, (50, len(names))).astype(dtype):
        steady = LabelSmoother(SmoothingOptions(), rule, names, 0.35)
        steady.add(logits, 7.0, 0.3)
        expected, found = rule(logits), steady.answer(7.0)
        assert np.array_equal(probabilities(found), expected)
        assert found.label == (names[expected.argmax()] if expected.max() >= 0.35 else None)
        assert found.probability == expected.max()


def test_the_prior_is_applied_once() -> None:
    """The mean of logits for equal priors under q, which is not the mean under q with q applied again."""
    manifest = open_bundle(shipped_bundle("conv-attention")).manifest
    names = manifest.spec.class_names
    implied = np.log([manifest.class_frequencies[n] for n in names])  # type: ignore[index]
    rule = make_rule(manifest, "uniform")
    logits = np.random.default_rng(0).normal(0, 3, (5, len(names)))
    times = np.arange(5) / 30
    steady = LabelSmoother(SmoothingOptions(time_constant_ms=1e3 * TAU_S), rule, names, 0.35)
    for z, at_s in zip(logits, times, strict=True):
        steady.add(z, at_s)
    equal = logits / manifest.temperature - implied
    expected = softmax(direct_sum(equal, times, np.ones(5), TAU_S))
    np.testing.assert_allclose(probabilities(steady.answer(times[-1])), expected, atol=1e-12)


def test_a_weight_counts_against_other_weights() -> None:
    for weight in (1.0, 0.1, 1e-300):
        steady = smoother()
        steady.add(NEUTRAL, 0)
        steady.add(HAPPINESS, 0.1, weight)
        share = (1 - math.exp(-0.1 / TAU_S)) * max(weight, 1e-6)
        rest = (1 - math.exp(-0.1 / TAU_S)) * math.exp(-0.1 / TAU_S)
        expected = softmax((rest * NEUTRAL + share * HAPPINESS) / (rest + share))
        np.testing.assert_allclose(probabilities(steady.answer(0.1)), expected, atol=1e-12)


def test_before_the_first_classification_there_is_no_label() -> None:
    assert smoother().answer(5) == SteadyLabel(None, 0.0, {}, "not_classified", None, None)


def test_the_label_is_stable_since_it_was_taken() -> None:
    steady = smoother()
    for i in range(10):
        steady.add(NEUTRAL, 10 + i / 10)
    answer = steady.answer(11.25)
    assert (answer.label, answer.classified_at_s, answer.reason) == ("neutral", 10.9, None)
    assert answer.stable_for_ms == pytest.approx(1250)
    assert sum(answer.probabilities.values()) == pytest.approx(1)
    assert answer.probability == answer.probabilities["neutral"]
    changed_s = None
    for i in range(20):
        at_s = 12 + i / 10
        steady.add(HAPPINESS, at_s)
        if changed_s is None and steady.answer(at_s).label == "happiness":
            changed_s = at_s
    assert changed_s is not None
    assert steady.answer(20).label is None  # too old
    assert steady.answer(14).stable_for_ms == pytest.approx(1e3 * (14 - changed_s))


@pytest.mark.parametrize("rate", [10, 15, 30])
@pytest.mark.parametrize("factor", [0.1, 0.95, 1.05])
def test_alternating_classes_do_not_flicker_up_to_the_margin(rate: int, factor: float) -> None:
    """Of two classes in turn, the newer has the share 1 / (1 + exp(−Δt / τ)) and a lead of tanh."""
    margin, tau_s = 0.3, 0.08
    newer = 1 / (1 + math.exp(-1 / rate / tau_s))
    difference = factor * 2 * math.atanh(margin) / (2 * newer - 1)
    steady, labels = smoother(time_constant_ms=1e3 * tau_s, switch_margin=margin), []
    for i in range(10 * rate):
        first, second = (difference, 0) if i % 2 else (0, difference)
        steady.add(np.array([first, second, -50]), i / rate)
        labels.append(steady.answer(i / rate).label)
    changes = sum(a != b for a, b in itertools.pairwise(labels))
    assert changes == (0 if factor < 1 else len(labels) - 1)


def test_another_class_takes_over_by_the_margin_or_after_the_hold() -> None:
    def taken_after_s(lead: float, **options: float) -> float:
        steady = smoother(time_constant_ms=1, min_probability=0, **options)
        steady.add(NEUTRAL, 0)
        share = (1 - 0.1) / 2
        logits = np.log([share - lead / 2, share + lead / 2, 0.1])
        for i in itertools.count(1):
            steady.add(logits, i / 10)
            if steady.answer(i / 10).label == "happiness":
                return (i - 1) / 10  # since it leads
        raise AssertionError

    options = {"switch_margin": 0.2, "switch_hold_ms": 500.0}
    assert taken_after_s(0.21, **options) == 0
    assert taken_after_s(0.19, **options) == pytest.approx(0.5)
    assert taken_after_s(0.19, switch_margin=0.0, switch_hold_ms=500) == 0
    assert taken_after_s(0.19, switch_margin=1.0, switch_hold_ms=0) == 0


def test_a_lead_that_is_lost_starts_anew() -> None:
    steady = smoother(time_constant_ms=1, min_probability=0, switch_margin=0.9, switch_hold_ms=500)
    steady.add(NEUTRAL, 0)
    weak = np.array([0, 0.5, 0])
    for i in range(1, 40):
        steady.add(NEUTRAL if i % 5 == 0 else weak, i / 10)
        assert steady.answer(i / 10).label == "neutral"


def test_the_hold_counts_while_other_classes_lead_in_turn() -> None:
    steady = smoother(time_constant_ms=1, min_probability=0, switch_margin=0.9, switch_hold_ms=500)
    steady.add(NEUTRAL, 0)
    labels = []
    for i in range(1, 8):
        steady.add(np.array([0, i % 2, 1 - i % 2]), i / 10)
        labels.append(steady.answer(i / 10).label)
    assert labels == [*5 * ["neutral"], "disgust", "disgust"]


def at(probability: float) -> np.ndarray:
    return np.log([probability, (1 - probability) / 2, (1 - probability) / 2])


def test_a_label_is_lost_below_the_certainty_margin() -> None:
    steady = smoother(time_constant_ms=1, min_probability=0.6, certainty_margin=0.1)
    given = (0.59, 0.61, 0.59, 0.51, 0.61, 0.49, 0.51, 0.59, 0.61)
    found = []
    for i, probability in enumerate(given):
        steady.add(at(probability), i / 10)
        answer = steady.answer(i / 10)
        found.append(answer.label is not None)
        assert (answer.reason == "uncertain") == (answer.label is None) == (answer.stable_for_ms is None)
        assert answer.probability == pytest.approx(probability)
    assert found == [False, True, True, True, True, False, False, False, True]


@pytest.mark.parametrize("min_probability", [0.0, 0.35, 0.6, 1.0])
def test_properties_of_every_answer(min_probability: float) -> None:
    rng = np.random.default_rng(1)
    steady = smoother(min_probability=min_probability)
    for i in range(500):
        steady.add(rng.normal(0, 2, 3), i / 30)
        answer = steady.answer(i / 30)
        best = max(answer.probabilities.values())
        assert abs(sum(answer.probabilities.values()) - 1) < 1e-12
        assert (answer.label is None) == (answer.reason == "uncertain") == (answer.stable_for_ms is None)
        if answer.label is None:
            assert answer.probability == best < min_probability
        else:
            assert answer.probability == answer.probabilities[answer.label]
            assert best >= min_probability - 0.05
            assert best - answer.probability < OPTIONS["switch_margin"]
            assert answer.stable_for_ms is not None
            assert 0 <= answer.stable_for_ms <= 1e3 * i / 30 + 1e-9


def test_a_restart_leaves_nothing() -> None:
    rng = np.random.default_rng(0)
    used, fresh = smoother(), smoother()
    for i in range(50):
        used.add(rng.normal(0, 5, 3), i / 30)
    used.add(np.full(3, math.nan), 2)
    used.restart()
    assert used.answer(2) == SteadyLabel(None, 0.0, {}, "not_classified", None, None)
    for i in range(50):
        logits = rng.normal(0, 2, 3)
        for steady in (used, fresh):
            steady.add(logits, 2 + i / 30)
        assert used.answer(2 + i / 30) == fresh.answer(2 + i / 30)
    assert (used.non_finite, fresh.non_finite) == (1, 0)


@pytest.mark.parametrize("bad", BAD)
def test_logits_that_are_not_finite_are_dropped_and_the_label_ages(bad: float) -> None:
    steady = smoother(max_gap_ms=1000)
    steady.add(np.array([bad, 0, 0]), 0)
    assert steady.answer(0) == SteadyLabel(None, 0.0, {}, "not_finite", None, None)
    steady.add(NEUTRAL, 0.1)
    before = steady.answer(0.1)
    for at_s in (0.4, 0.7, 1.1):
        steady.add(np.array([0, bad, 0], np.float32), at_s)
        answer = steady.answer(at_s)
        assert (answer.label, answer.reason, answer.classified_at_s) == ("neutral", None, 0.1)
        assert answer.probabilities == before.probabilities
        assert answer.stable_for_ms == pytest.approx(1e3 * (at_s - 0.1))
    aged = steady.answer(1.11)
    assert (aged.label, aged.reason, aged.probabilities, aged.classified_at_s) == (
        None,
        "not_finite",
        {},
        0.1,
    )
    assert steady.non_finite == 4
    steady.add(HAPPINESS, 1.2)
    assert probabilities(steady.answer(1.2)).tolist() == softmax(HAPPINESS).tolist()


def test_too_long_a_gap_starts_anew() -> None:
    for gap_s, carried_on in ((0.99, True), (1.01, False), (-0.99, True), (-1.01, False)):
        steady = smoother(max_gap_ms=1000, time_constant_ms=10_000)
        steady.add(NEUTRAL, 50)
        steady.add(NEUTRAL, 50.1)
        assert (steady.answer(50.1 + gap_s).label is not None) == carried_on
        if not carried_on:
            assert steady.answer(50.1 + gap_s).reason == "not_classified"
        steady.add(HAPPINESS, 50.1 + gap_s)
        fresh = probabilities(steady.answer(50.1 + gap_s)).tolist() == softmax(HAPPINESS).tolist()
        assert fresh != carried_on


def test_a_clock_that_goes_back_or_stands_still() -> None:
    steady = smoother()
    for i in range(30):
        steady.add(NEUTRAL, 100 + i / 30)
    for at_s in (100.5, 100.4, 100.4, 100.41):
        steady.add(NEUTRAL, at_s)
        answer = steady.answer(at_s)
        assert (answer.label, answer.classified_at_s) == ("neutral", at_s)
        assert answer.stable_for_ms is not None
        assert answer.stable_for_ms >= 0
    assert steady.answer(99.9).stable_for_ms == 0
    still = smoother()
    for i in range(1000):  # each weighs as 1 ms
        still.add(NEUTRAL if i < 10 else HAPPINESS, 5)
    assert still.answer(5).label == "happiness"


def test_after_the_clock_went_back_the_label_follows_at_once() -> None:
    steady = smoother()
    for i in range(60):
        steady.add(NEUTRAL, 100 + i / 30)
    for i in range(15):
        steady.add(HAPPINESS, 100.5 + i / 30)
    assert steady.answer(101).label == "happiness"


@pytest.mark.parametrize("huge", [40.0, 1e4, 3e30, 3e38, 1e300])
def test_huge_logits_do_not_outweigh_all_others(huge: float) -> None:
    dtype = np.float32 if huge < 3.4e38 else np.float64
    rule = ProbabilityRule(2.0)
    steady = smoother(rule)
    for logits in (np.array([huge, 0, 0], dtype), np.array([huge, huge, -huge], dtype)):
        steady.restart()
        steady.add(logits, 0)
        np.testing.assert_allclose(probabilities(steady.answer(0)), rule(logits), atol=1e-12)
    steady.restart()
    steady.add(np.array([huge, 0, 0], dtype), 0)
    for i in range(1, 31):
        steady.add(HAPPINESS, i / 30)
    assert steady.answer(1).label == "happiness"  # within a second


def test_logits_that_overflow_are_dropped() -> None:
    steady = smoother(ProbabilityRule(0.5))
    steady.add(np.array([3e38, 0, 0], np.float32), 0)
    assert (steady.answer(0).reason, steady.non_finite) == ("not_finite", 1)


def test_excluded_classes_stay_excluded() -> None:
    steady = smoother(ProbabilityRule(offset=(-math.inf, 0.0, 0.0)))
    for i in range(50):
        steady.add(NEUTRAL, i / 30)
        assert steady.answer(i / 30).probabilities["neutral"] == 0
        assert steady.answer(i / 30).label != "neutral"


@pytest.mark.parametrize(
    "logits",
    [
        np.zeros(2),
        np.zeros((1, 3)),
        np.zeros(0),
        np.float64(1),
        np.array(["a", "b", "c"]),
        np.zeros(3, complex),
    ],
    ids=str,
)
def test_wrong_logits_are_refused(logits: Any) -> None:
    with pytest.raises(UsageError, match=r"expected logits \[3\] of numbers, found .*Fix: "):
        smoother().add(logits, 0)


@pytest.mark.parametrize("at_s", [*BAD, None, "1", True])
def test_wrong_times_are_refused(at_s: Any) -> None:
    steady = smoother()
    with pytest.raises(UsageError, match="at_s must be a finite number of seconds.*Fix: "):
        steady.add(NEUTRAL, at_s)
    with pytest.raises(UsageError, match="at_s must be a finite number of seconds.*Fix: "):
        steady.answer(at_s)


@pytest.mark.parametrize("weight", [*BAD, 0, -1, 1.01, None, True])
def test_wrong_weights_are_refused(weight: Any) -> None:
    with pytest.raises(UsageError, match="weight must be above 0 and at most 1.*Fix: "):
        smoother().add(NEUTRAL, 0, weight)


def test_a_refused_call_changes_nothing() -> None:
    steady = smoother()
    steady.add(NEUTRAL, 0)
    before = steady.answer(0.1)
    for arguments in ((np.zeros(2), 5.0), (HAPPINESS, math.nan), (HAPPINESS, 5.0, 2.0)):
        with pytest.raises(UsageError):
            steady.add(*arguments)
    assert steady.answer(0.1) == before


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("time_constant_ms", v) for v in (0, -1, math.nan, 1e9, "1", True)],
        *[("switch_margin", v) for v in (-0.1, 1.1, math.nan)],
        *[("switch_hold_ms", v) for v in (-1, math.inf)],
        *[("certainty_margin", v) for v in (-0.1, 1.1)],
        *[("max_gap_ms", v) for v in (0, math.nan)],
    ],
)
def test_wrong_options_are_refused(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"{name} must be a number from .*Fix: change {name}"):
        SmoothingOptions(**{name: value})


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(UsageError, match="min_probability must be a number from 0 to 1"):
        smoother(min_probability=1.1)
    with pytest.raises(UsageError, match="expected class names for a rule of 2 classes, found 3"):
        smoother(ProbabilityRule(offset=(0.0, 0.0)))
    with pytest.raises(UsageError, match="expected class names"):
        LabelSmoother(SmoothingOptions(), PLAIN, (), 0.35)

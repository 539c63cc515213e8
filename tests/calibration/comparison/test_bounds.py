"""Logic of bounds and mixed precision: synthetic losses of layers; expected results by hand or exhaustive search."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import numpy as np
import pytest

from fer_edge.calibration.algorithms.mixed_precision import MIN_INTEGER_SHARE, mix_precision
from fer_edge.calibration.comparison.bounds import Bounds, Outcome, judge
from fer_edge.calibration.comparison.fidelity import Fidelity
from fer_edge.errors import GateError, UsageError

LAYERS = [f"layer{i}" for i in range(8)]
EQUAL = dict.fromkeys(LAYERS, 1)
#: Eight equal layers: a quarter of the multiply-adds is two layers.
MOST = 6


def outcome(drop_pp: float, cosine: float = 1.0) -> Outcome:
    return Outcome(drop_pp, True, Fidelity(1.0, cosine, 40.0))


def additive(harm: Mapping[str, float]) -> Callable[[frozenset[str]], Outcome]:
    """Every layer in INT8 adds its own loss."""
    return lambda left: outcome(sum(value for name, value in harm.items() if name not in left))


def share(work: Mapping[str, int]) -> Callable[[frozenset[str]], float]:
    return lambda left: sum(v for name, v in work.items() if name not in left) / sum(work.values())


HARMS = [
    dict(zip(LAYERS, values, strict=True))
    for values in (
        [4, 2, 1, 0.5, 0.25, 0, 0, 0],
        [1] * 8,
        [9, 0, 0, 0, 0, 0, 0, 0],
        [3, 3, 3, 0.1, 0, 0, 0, 0],
    )
]


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("allowed", [0.0, 0.3, 0.6, 1.2, 3.0, 4.0, 5.0, 7.5, 20.0])
def test_the_set_is_as_small_as_that_of_trying_all(harm: Mapping[str, float], allowed: float) -> None:
    evaluate, bounds = additive(harm), Bounds(max_drop_pp=allowed)
    enough = [
        chosen
        for count in range(MOST + 1)
        for chosen in itertools.combinations(LAYERS, count)
        if evaluate(frozenset(chosen)).drop_pp <= allowed
    ]
    if not enough:
        with pytest.raises(GateError):
            mix_precision(LAYERS, evaluate, share(EQUAL), bounds)
        return
    found = mix_precision(LAYERS, evaluate, share(EQUAL), bounds)
    assert evaluate(frozenset(found.float_layers)).drop_pp <= allowed
    assert len(found.float_layers) == len(enough[0])
    assert sum(step.passed for step in found.steps) >= 1
    assert found.steps[0].float_layers == ()


def test_what_is_tried_is_recorded_once_each_in_order() -> None:
    seen: list[frozenset[str]] = []
    counted: list[int] = []
    harm = dict(zip(LAYERS, [4, 2, 1, 0, 0, 0, 0, 0], strict=True))

    def evaluate(left: frozenset[str]) -> Outcome:
        seen.append(left)
        return outcome(additive(harm)(left).drop_pp, 0.5)

    found = mix_precision(LAYERS, evaluate, share(EQUAL), Bounds(max_drop_pp=0.5), counted.append)
    assert found.float_layers == ("layer0", "layer1", "layer2")
    assert len(set(seen)) == len(seen)
    assert [frozenset(step.float_layers) for step in found.steps] == seen
    assert [step.drop_pp for step in found.steps[:4]] == [7, 3, 1, 0]
    assert [step.passed for step in found.steps[:4]] == [False, False, False, True]
    assert {step.logit_cosine for step in found.steps} == {0.5}
    assert counted == list(range(1, len(seen) + 1))


def test_layers_that_turn_out_harmless_are_put_back() -> None:
    """The order overrates three layers, which are harmful alone but not together."""
    harm = dict(zip(LAYERS, [0, 0, 0, 5, 0, 0, 0, 0], strict=True))
    found = mix_precision(LAYERS, additive(harm), share(EQUAL), Bounds(max_drop_pp=1))
    assert found.float_layers == ("layer3",)


def test_a_loss_that_is_not_monotone_still_ends_in_a_set_that_passes() -> None:
    """Two errors that cancel: leaving out one of them is worse than leaving out none."""

    def evaluate(left: frozenset[str]) -> Outcome:
        pair = {"layer0", "layer1"} & left
        return outcome(2.0 if not pair else 0.1 if len(pair) == 2 else 6.0)

    found = mix_precision(LAYERS, evaluate, share(EQUAL), Bounds(max_drop_pp=0.5))
    assert found.float_layers == ("layer0", "layer1")
    rng = np.random.default_rng(0)
    for _ in range(200):
        losses = {
            s: float(rng.random())
            for n in range(9)
            for s in map(frozenset, itertools.combinations(LAYERS, n))
        }

        def arbitrary(left: frozenset[str], losses: Mapping[frozenset[str], float] = losses) -> Outcome:
            return outcome(losses[left])

        try:
            found = mix_precision(LAYERS, arbitrary, share(EQUAL), Bounds(max_drop_pp=0.4))
        except GateError:
            continue
        assert losses[frozenset(found.float_layers)] <= 0.4
        assert len(found.float_layers) <= MOST


def test_what_cannot_be_met_is_an_error_that_holds_all_that_was_tried() -> None:
    tried: list[frozenset[str]] = []

    def evaluate(left: frozenset[str]) -> Outcome:
        tried.append(left)
        return outcome(9.0 - len(left), 0.9 + len(left) / 1000)

    with pytest.raises(GateError) as failed:
        mix_precision(LAYERS, evaluate, share(EQUAL), Bounds(max_drop_pp=0.5, min_cosine=0.999))
    text = str(failed.value)
    assert "cannot meet a drop of at most 0.5 points and a logit cosine of at least 0.999" in text
    assert "25% of the multiply-adds" in text
    assert [len(left) for left in tried] == [0, 1, 2, 4, 6]
    for left in tried:
        count = len(left)
        assert (
            f"{count} layers in floating point with {9 - count:+.2f} points, cosine {0.9 + count / 1000:.5f}"
            in text
        )
    assert "the most harmful of them layer0, layer1, layer2, layer3, layer4;" in text
    assert "Fix: relax the bounds, calibrate on other faces, or build with --fp32" in text
    assert "\n" not in text


def test_at_least_a_quarter_of_the_multiply_adds_stays_in_integers() -> None:
    rng = np.random.default_rng(1)
    for _ in range(100):
        work = dict(zip(LAYERS, rng.integers(0, 10, 8).tolist(), strict=True))
        work["layer7"] += 1
        tried: list[frozenset[str]] = []

        def evaluate(left: frozenset[str], tried: list[frozenset[str]] = tried) -> Outcome:
            tried.append(left)
            return outcome(1.0)

        with pytest.raises(GateError):
            mix_precision(LAYERS, evaluate, share(work), Bounds(max_drop_pp=0.5))
        assert all(share(work)(left) >= MIN_INTEGER_SHARE for left in tried)
        largest = max(tried, key=len)
        assert all(share(work)(largest | {name}) < MIN_INTEGER_SHARE for name in set(LAYERS) - largest)


def test_a_layer_too_large_to_leave_out_does_not_end_the_search() -> None:
    work = {**EQUAL, "layer0": 100}
    harm = dict(zip(LAYERS, [0.4, 3, 0, 0, 0, 0, 0, 0], strict=True))
    found = mix_precision(LAYERS, additive(harm), share(work), Bounds(max_drop_pp=0.5))
    assert found.float_layers == ("layer1",)


def test_where_too_little_is_in_integers_already_nothing_more_is_left_out() -> None:
    with pytest.raises(GateError, match="at most 0 layers in floating point; tried 0 layers"):
        mix_precision(LAYERS, lambda left: outcome(9), lambda left: 0.2, Bounds(max_drop_pp=0.5))
    with pytest.raises(GateError, match="at most 0 layers"):
        mix_precision([], lambda left: outcome(9), share(EQUAL), Bounds(max_drop_pp=0.5))


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({"max_drop_pp": -0.1}, "max_drop_pp must be None or a number from 0 to 100, found -0.1"),
        ({"max_drop_pp": 100.5}, "found 100.5"),
        ({"max_drop_pp": float("nan")}, "max_drop_pp must be None or a number from 0 to 100, found nan"),
        ({"min_cosine": 1.0}, "min_cosine must be from -1 to below 1, since INT8 rounds, found 1. Fix: "),
        ({"min_cosine": -1.5}, "found -1.5"),
        ({"min_cosine": float("nan")}, "min_cosine must be None or a number from -1 to 1, found nan"),
        ({"min_cosine": float("inf")}, "found inf"),
    ],
)
def test_bounds_that_make_no_sense_are_refused(bounds: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Bounds(**bounds)


def test_bounds_are_missed_by_what_exceeds_them() -> None:
    assert outcome(0.5, 0.99).meets(Bounds(0.5, 0.99))
    assert outcome(99, -1).meets(Bounds())
    assert outcome(-3, 1).meets(Bounds(0))
    assert not outcome(1.0).meets(Bounds(0.5))
    assert not outcome(0, 0.98).meets(Bounds(min_cosine=0.99))
    assert not outcome(0.01).meets(Bounds(0))
    results = outcome(0.6, 0.98).against(Bounds(0.5, 0.97))
    assert [(r.bound, r.measured, r.passed) for r in results] == [(0.5, 0.6, False), (0.97, 0.98, True)]
    assert "percentage points, at most" in results[0].name
    assert "cosine" in results[1].name


def test_agreement_is_a_bound_of_its_own() -> None:
    found = Outcome(0.0, True, Fidelity(agreement=0.98, logit_cosine=1.0, snr_db=None))
    assert found.meets(Bounds(min_agreement=0.98))
    assert not found.meets(Bounds(0.0, 0.99, 0.981))
    with pytest.raises(UsageError, match="min_agreement must be None or a number from 0 to 1, found 98"):
        Bounds(min_agreement=98)


@pytest.mark.parametrize("count", [100, 64, 128, 300, 999])
def test_a_drop_of_exactly_the_bound_meets_it(count: int) -> None:
    """100 · (1 − 0.99) is 1.0000000000000009 in floating point."""
    rng = np.random.default_rng(count)
    fp32 = rng.normal(size=(count, 5)).astype(np.float32)
    targets = fp32.argmax(axis=1)
    for wrong in range(0, count, 7):
        int8 = fp32.copy()
        int8[:wrong] = np.roll(int8[:wrong], 1, axis=1)
        for known in (targets, np.full(count, -1)):
            found = judge(fp32, int8, known)
            assert found.labelled is bool(known[0] >= 0)
            assert found.meets(Bounds(round(100 * wrong / count, 9)))
            if wrong:
                assert not found.meets(Bounds(100 * (wrong - 1) / count))


def test_the_drop_is_of_labelled_faces_and_may_be_a_gain() -> None:
    fp32 = np.eye(4, dtype=np.float32)[[0, 1, 2, 3]]
    int8 = np.eye(4, dtype=np.float32)[[0, 1, 3, 0]]
    found = judge(fp32, int8, np.array([0, 2, 3, -1]))
    assert (found.drop_pp, found.labelled, found.fidelity.agreement) == (pytest.approx(-100 / 3), True, 0.5)
    assert judge(fp32, int8, np.full(4, -1)).drop_pp == 50

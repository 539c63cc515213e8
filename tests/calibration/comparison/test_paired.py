"""Paired differences against SciPy's bootstrap and binomial test, the closed form, and loops over faces."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fer_edge.calibration.comparison.paired import PairedComparison, compare_paired
from fer_edge.errors import DataError, UsageError
from fer_edge.evaluation.metrics import compute_metrics

stats = pytest.importorskip("scipy.stats", reason="needs SciPy, which comes with scikit-image")

NAMES = ("a", "b", "c")


def drawn(faces: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """FP32 predictions that are correct on about 80 %, INT8 predictions that mostly repeat them, and the labels."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 3, faces)
    fp32 = np.where(rng.random(faces) < 0.7, targets, rng.integers(0, 3, faces))
    int8 = np.where(rng.random(faces) < 0.95, fp32, rng.integers(0, 3, faces))
    return fp32, int8, targets


def test_the_accuracy_interval_is_that_of_scipy() -> None:
    fp32, int8, targets = drawn()
    found = compare_paired(fp32, int8, targets, NAMES)
    expected = stats.bootstrap(
        ((int8 == targets).astype(float), (fp32 == targets).astype(float)),
        lambda a, b, axis=-1: 100 * (a.mean(axis=axis) - b.mean(axis=axis)),
        paired=True,
        vectorized=True,
        n_resamples=10_000,
        method="percentile",
        rng=np.random.default_rng(7),
    ).confidence_interval
    # Steps of one face are 0.25 points; two bootstraps differ by about one.
    assert found.low_pp == pytest.approx(expected.low, abs=0.3)
    assert found.high_pp == pytest.approx(expected.high, abs=0.3)
    assert found.low_pp < found.change_pp < found.high_pp


@pytest.mark.parametrize("seed", range(3))
def test_the_width_is_that_of_the_closed_form(seed: int) -> None:
    """Var(difference) = (b + c − (b − c)² / N) / N² for b and c faces that only one precision classifies correctly."""
    fp32, int8, targets = drawn(2000, seed)
    found = compare_paired(fp32, int8, targets, NAMES)
    b, c, n = found.only_fp32_right, found.only_int8_right, found.faces
    deviation_pp = 100 * np.sqrt(b + c - (b - c) ** 2 / n) / n
    assert (found.high_pp - found.low_pp) / 2 == pytest.approx(1.96 * deviation_pp, rel=0.05)


def test_changes_by_class_are_those_of_a_loop_over_resampled_faces() -> None:
    fp32, int8, targets = drawn(300, seed=2)
    rng = np.random.default_rng(11)
    changes = []
    for _ in range(2000):
        chosen = rng.integers(0, 300, 300)
        scores = [
            compute_metrics(np.eye(3)[predicted[chosen]], targets[chosen], NAMES).f1
            for predicted in (fp32, int8)
        ]
        changes.append(100 * (np.array(scores[1]) - scores[0]))
    low, high = np.percentile(changes, (2.5, 97.5), axis=0)
    for index, change in enumerate(compare_paired(fp32, int8, targets, NAMES).classes):
        assert change.low_pp == pytest.approx(low[index], abs=0.6)
        assert change.high_pp == pytest.approx(high[index], abs=0.6)
        assert change.faces == (targets == index).sum()


def test_what_is_measured_is_that_of_the_metrics() -> None:
    fp32, int8, targets = drawn()
    found = compare_paired(fp32, int8, targets, NAMES)
    before, after = (compute_metrics(np.eye(3)[p], targets, NAMES) for p in (fp32, int8))
    assert found.change_pp == pytest.approx(100 * (after.accuracy - before.accuracy))
    assert [c.fp32_f1 for c in found.classes] == pytest.approx(before.f1)
    assert [c.int8_f1 for c in found.classes] == pytest.approx(after.f1)
    assert [c.change_pp for c in found.classes] == pytest.approx(100 * (np.array(after.f1) - before.f1))
    assert found.only_fp32_right == sum(a == t != b for a, b, t in zip(fp32, int8, targets, strict=True))
    assert found.only_int8_right == sum(b == t != a for a, b, t in zip(fp32, int8, targets, strict=True))


def test_a_harmed_class_is_beyond_noise_and_the_others_are_not_blamed() -> None:
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 3, 2000)
    fp32 = np.where(rng.random(2000) < 0.7, targets, 0)
    int8 = np.where((targets == 2) & (rng.random(2000) < 0.1), 0, fp32)
    found = compare_paired(fp32, int8, targets, NAMES)
    assert found.beyond_noise
    assert found.high_pp < 0
    assert found.mcnemar_p < 0.001
    assert found.classes[2].beyond_noise
    assert found.classes[2].high_pp < 0
    assert not found.classes[1].beyond_noise


def test_chance_alone_is_beyond_noise_about_once_in_twenty() -> None:
    """Two equally good precisions, 300 times: the interval has a coverage of 95 %."""
    outside = 0
    rng = np.random.default_rng(3)
    for seed in range(300):
        right = rng.random((2, 300)) < 0.5
        agree = rng.random(300) < 0.8
        predicted = [right[0].astype(int), np.where(agree, right[0], right[1]).astype(int)]
        outside += compare_paired(*predicted, np.ones(300, int), ("x", "y"), 2000, seed).beyond_noise
    assert 5 <= outside <= 27  # 15 expected, σ = 3.8


@pytest.mark.parametrize(("only_fp32", "only_int8"), [(0, 0), (4, 0), (3, 9), (60, 61), (700, 500)])
def test_mcnemar_is_the_binomial_test(only_fp32: int, only_int8: int) -> None:
    fp32 = np.repeat([0, 1, 0], [only_fp32, only_int8, 20])
    int8 = np.repeat([1, 0, 0], [only_fp32, only_int8, 20])
    found = compare_paired(fp32, int8, np.zeros(len(fp32), int), ("x", "y"))
    assert (found.only_fp32_right, found.only_int8_right) == (only_fp32, only_int8)
    split = only_fp32 + only_int8
    expected = stats.binomtest(only_fp32, split).pvalue if split else 1.0
    assert found.mcnemar_p == pytest.approx(expected)


def test_the_same_predictions_change_nothing() -> None:
    fp32, _, targets = drawn(50)
    found = compare_paired(fp32, fp32, targets, (*NAMES, "absent"))
    assert (found.change_pp, found.low_pp, found.high_pp, found.beyond_noise) == (0, 0, 0, False)
    assert not any(c.beyond_noise or c.change_pp or c.low_pp or c.high_pp for c in found.classes)
    assert found.classes[3].faces == 0


def test_it_is_repeatable_and_json() -> None:
    first, second = (compare_paired(*drawn(), NAMES) for _ in range(2))
    assert first == second
    assert isinstance(first, PairedComparison)
    value = json.loads(json.dumps(first.to_dict(), allow_nan=False))
    assert value["resamples"] >= 2000
    assert [c["name"] for c in value["classes"]] == list(NAMES)
    assert compare_paired(*drawn(), NAMES, seed=1).change_pp == first.change_pp


@pytest.mark.parametrize(
    ("fp32", "int8", "targets"),
    [([], [], []), ([0], [0, 1], [0]), ([0], [0], [3]), ([0], [-1], [0])],
)
def test_what_cannot_be_compared(fp32: list[int], int8: list[int], targets: list[int]) -> None:
    with pytest.raises(DataError):
        compare_paired(*(np.array(v, int) for v in (fp32, int8, targets)), NAMES)


def test_too_few_resamples_are_refused() -> None:
    with pytest.raises(UsageError, match="at least 2000 resamples, found 100"):
        compare_paired(*drawn(), NAMES, resamples=100)

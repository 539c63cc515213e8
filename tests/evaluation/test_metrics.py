"""Metrics against hand-computed values and loops."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fer_edge.errors import DataError
from fer_edge.evaluation.metrics import compute_metrics, expected_calibration_error, reliability_bins


def loop_ece(probabilities: np.ndarray, targets: np.ndarray, bins: int) -> float:
    total = 0.0
    for b in range(bins):
        inside = [
            (p.max(), float(p.argmax() == t))
            for p, t in zip(probabilities, targets, strict=True)
            if b / bins < p.max() <= (b + 1) / bins
        ]
        if inside:
            confidence, accuracy = np.mean(inside, axis=0)
            total += abs(accuracy - confidence) * len(inside) / len(targets)
    return total


def random_case(seed: int, classes: int = 5, count: int = 300) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.full(classes, 0.4), count), rng.integers(0, classes, count)


def test_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    metrics = compute_metrics(probabilities, np.array([0, 0, 1, 1]), ("a", "b"))
    assert metrics.confusion == ((2, 0), (1, 1))
    assert metrics.accuracy == 0.75
    assert metrics.recall == (1.0, 0.5)
    assert metrics.f1 == pytest.approx((2 * 2 / (2 * 2 + 1), 2 / 3))
    assert metrics.macro_f1 == pytest.approx((0.8 + 2 / 3) / 2)
    assert metrics.balanced_accuracy == 0.75
    # Each face has a bin of its own: |1 - 0.9| + |1 - 0.8| + |1 - 0.7| + |0 - 0.6|, over 4.
    assert metrics.ece == pytest.approx(1.2 / 4)


@pytest.mark.parametrize("seed", range(5))
def test_against_loops(seed: int) -> None:
    probabilities, targets = random_case(seed)
    metrics = compute_metrics(probabilities, targets, tuple("abcde"))
    predicted = [int(np.argmax(p)) for p in probabilities]
    pairs = list(zip(targets.tolist(), predicted, strict=True))
    for row in range(5):
        for column in range(5):
            assert metrics.confusion[row][column] == pairs.count((row, column))
        hits = pairs.count((row, row))
        recall = hits / sum(t == row for t, _ in pairs)
        precision = hits / sum(p == row for _, p in pairs)
        assert metrics.recall[row] == pytest.approx(recall)
        assert metrics.f1[row] == pytest.approx(2 * precision * recall / (precision + recall))
    assert metrics.accuracy == pytest.approx(np.mean([t == p for t, p in pairs]))
    assert metrics.macro_f1 == pytest.approx(np.mean(metrics.f1))
    assert metrics.balanced_accuracy == pytest.approx(np.mean(metrics.recall))


@pytest.mark.parametrize("bins", [1, 10, 15])
@pytest.mark.parametrize("seed", range(3))
def test_ece_is_the_loop(seed: int, bins: int) -> None:
    probabilities, targets = random_case(seed)
    ece = expected_calibration_error(probabilities, targets, bins)
    assert ece == pytest.approx(loop_ece(probabilities, targets, bins), abs=1e-12)


@pytest.mark.parametrize(("target", "expected"), [(0, 0.0), (1, 1.0)])
def test_ece_of_full_confidence(target: int, expected: float) -> None:
    assert expected_calibration_error(np.array([[1.0, 0.0]]), np.array([target])) == expected


@pytest.mark.parametrize("bins", [1, 15])
def test_reliability_bins_are_those_of_a_loop(bins: int) -> None:
    probabilities, targets = random_case(4)
    found = iter(reliability_bins(probabilities, targets, bins))
    for b in range(bins):
        inside = [
            (p.max(), float(p.argmax() == t))
            for p, t in zip(probabilities, targets, strict=True)
            if b / bins < p.max() <= (b + 1) / bins
        ]
        if inside:
            expected = next(found)
            assert expected.count == len(inside)
            assert (expected.confidence, expected.accuracy) == pytest.approx(np.mean(inside, axis=0))
    assert next(found, None) is None


def test_classes_that_do_not_occur_are_not_averaged() -> None:
    probabilities = np.eye(3)[[0, 0, 2]]
    metrics = compute_metrics(probabilities, np.array([0, 0, 0]), ("a", "b", "c"))
    assert metrics.recall == (pytest.approx(2 / 3), None, None)
    value = json.loads(json.dumps(metrics.to_dict()))
    assert value["recall"] == {"a": pytest.approx(2 / 3), "b": None, "c": None}
    assert value["f1"] == {"a": pytest.approx(0.8), "b": None, "c": None}
    assert metrics.balanced_accuracy == pytest.approx(2 / 3)
    assert metrics.macro_f1 == pytest.approx(0.8)


def test_to_dict_is_json() -> None:
    probabilities, targets = random_case(1)
    value = json.loads(json.dumps(compute_metrics(probabilities, targets, tuple("abcde")).to_dict()))
    assert sum(map(sum, value["confusion"])) == value["count"] == 300
    assert list(value["f1"]) == list("abcde")
    assert sum(b["count"] for b in value["reliability"]) == 300


@pytest.mark.parametrize(
    ("probabilities", "targets"),
    [
        (np.zeros((0, 2)), []),
        (np.full((3, 2), 0.5), [0, 1]),
        (np.full((2, 3), 1 / 3), [0, 1]),
        (np.full((2, 2), np.nan), [0, 1]),
        (np.full((2, 2), 0.5), [0, 2]),
        (np.full((2, 2), 0.5), [0, -1]),
    ],
)
def test_what_cannot_be_measured(probabilities: np.ndarray, targets: list[int]) -> None:
    with pytest.raises(DataError):
        compute_metrics(probabilities, np.array(targets, np.int64), ("a", "b"))

"""The assignment has the least cost of all, and overlaps are those of the areas."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from fer_edge.tracking.association import assign, overlaps


def least_cost(costs: np.ndarray) -> float:
    """Return the least cost by trying all assignments; a row may stay alone at no cost."""
    count, width = costs.shape
    padded = np.concatenate((np.minimum(costs, 0), np.zeros((count, count))), axis=1)
    return min(
        sum(padded[row, column] for row, column in enumerate(columns))
        for columns in itertools.permutations(range(width + count), count)
    )


@pytest.mark.parametrize("seed", range(40))
def test_assignment_against_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    costs = rng.normal(0, 1, rng.integers(0, 5, 2))
    costs[rng.random(costs.shape) < 0.2] = np.inf
    if seed % 2:  # ties
        costs = np.round(costs)
    pairs = assign(costs)
    assert len({row for row, _ in pairs}) == len({column for _, column in pairs}) == len(pairs)
    assert all(costs[pair] < 0 for pair in pairs)
    assert sum(costs[pair] for pair in pairs) == pytest.approx(least_cost(costs))


@pytest.mark.parametrize(("rows", "columns"), [(64, 64), (20, 60), (60, 20)])
def test_assignment_against_scipy(rows: int, columns: int) -> None:
    scipy_optimize = pytest.importorskip("scipy.optimize")
    costs = np.random.default_rng(rows).normal(-0.5, 1, (rows, columns))
    wanted = costs.clip(max=0)[scipy_optimize.linear_sum_assignment(costs.clip(max=0))].sum()
    assert sum(costs[pair] for pair in assign(costs)) == pytest.approx(wanted)


def test_nothing_to_assign() -> None:
    assert assign(np.empty((0, 3))) == []
    assert assign(np.empty((3, 0))) == []
    assert assign(np.full((2, 2), np.inf)) == []


def test_the_sum_counts_not_the_best_pair() -> None:
    assert assign(np.array([[-10.0, -9.0], [-9.0, -1.0]])) == [(0, 1), (1, 0)]


def test_overlaps_of_known_areas() -> None:
    boxes = np.array([(0, 0, 10, 10), (5, 0, 15, 10), (20, 20, 30, 30), (3, 3, 3, 3)], float)
    shared = overlaps(boxes[:1], boxes)
    np.testing.assert_allclose(shared, [[1, 1 / 3, 0, 0]])
    assert overlaps(boxes[3:], boxes[3:]).item() == 0

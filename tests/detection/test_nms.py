"""Non-maximum suppression."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from fer_edge.detection.nms import suppress


def test_suppress_keeps_the_best_of_each_place():
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60], [2, 2, 6, 6]], float)
    scores = np.array([0.8, 0.9, 0.7, 0.95])
    assert suppress(boxes, scores, 0.5).tolist() == [3, 1, 2]
    assert suppress(boxes, scores, 0.5, of_smaller=True).tolist() == [3, 2]
    assert suppress(boxes[:0], scores[:0], 0.5).tolist() == []


@pytest.mark.parametrize("of_smaller", [False, True])
def test_suppress_keeps_of_many_boxes_what_one_by_one_would_keep(of_smaller):
    """More boxes than are compared at a time; the reference is a loop over boxes, best first."""
    draw = np.random.default_rng(5)
    corners, sides, scores = draw.uniform(0, 300, (500, 2)), draw.uniform(5, 60, (500, 2)), draw.random(500)
    boxes = np.concatenate([corners, corners + sides], axis=1)
    kept: list[int] = []
    for i in np.argsort(-scores):
        width, height = (
            np.minimum(boxes[kept, 2:], boxes[i, 2:]) - np.maximum(boxes[kept, :2], boxes[i, :2])
        ).T
        common = np.maximum(width, 0) * np.maximum(height, 0)
        own, theirs = sides[i].prod(), sides[kept].prod(axis=1)
        whole = np.minimum(own, theirs) if of_smaller else own + theirs - common
        if not (common > 0.4 * whole).any():
            kept.append(i)
    assert 128 < len(kept) < 400
    assert suppress(boxes, scores, 0.4, of_smaller).tolist() == kept


def test_memory_is_bounded_where_a_large_frame_is_full_of_candidates():
    """Comparing 4000 boxes at once would take more than a gigabyte."""
    corners = np.random.default_rng(6).uniform(0, 4000, (4000, 2))
    boxes = np.concatenate([corners, corners + 20], axis=1)
    tracemalloc.start()
    suppress(boxes, np.ones(len(boxes)), 0.5)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 100e6

"""Non-maximum suppression: keep the best of overlapping boxes."""

from __future__ import annotations

import numpy as np

# Bounds memory: the overlap matrix of thousands of boxes, from a 4K picture with small faces, took a gigabyte.
_ROWS_AT_ONCE = 128


def suppress(
    boxes: np.ndarray, scores: np.ndarray, max_overlap: float, of_smaller: bool = False
) -> np.ndarray:
    """Return indices of the boxes ``[N, 4]`` that no better box overlaps, best first.

    Overlap is intersection over union or, with ``of_smaller``, intersection over the smaller area, which
    also drops a box inside a better one.
    """
    order = np.argsort(-scores, kind="stable")
    corners = boxes[order]
    areas = (corners[:, 2:] - corners[:, :2]).clip(0).prod(axis=1)
    keep = np.ones(len(order), bool)
    for start in range(0, len(order), _ROWS_AT_ONCE):
        # Overlaps of a chunk of boxes with itself and all worse boxes.
        rows = slice(start, start + _ROWS_AT_ONCE)
        low = np.maximum(corners[rows, None, :2], corners[None, start:, :2])
        high = np.minimum(corners[rows, None, 2:], corners[None, start:, 2:])
        common = (high - low).clip(0).prod(axis=2)
        if of_smaller:
            whole = np.minimum(areas[rows, None], areas[None, start:])
        else:
            whole = areas[rows, None] + areas[None, start:] - common
        allowed = common <= max_overlap * whole
        for i in range(len(allowed)):
            if keep[start + i]:
                keep[start + i + 1 :] &= allowed[i, i + 1 :]
    return order[keep]

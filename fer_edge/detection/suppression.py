"""Non-maximum suppression: of boxes that show the same face, the best."""

from __future__ import annotations

import numpy as np


def suppress(
    boxes: np.ndarray, scores: np.ndarray, max_overlap: float, of_smaller: bool = False
) -> np.ndarray:
    """Return indices of the boxes ``[N, 4]`` that no better one overlaps, best first.

    Overlap is intersection over union or, with ``of_smaller``, over the smaller of the two areas, which
    also drops a box inside a better one.
    """
    order = np.argsort(-scores, kind="stable")
    corners = boxes[order]
    areas = (corners[:, 2:] - corners[:, :2]).clip(0).prod(axis=1)
    low = np.maximum(corners[:, None, :2], corners[None, :, :2])
    high = np.minimum(corners[:, None, 2:], corners[None, :, 2:])
    common = (high - low).clip(0).prod(axis=2)
    if of_smaller:
        whole = np.minimum(areas[:, None], areas[None, :])
    else:
        whole = areas[:, None] + areas[None, :] - common
    allowed = common <= max_overlap * whole
    keep = np.ones(len(order), bool)
    for i in range(len(order)):
        if keep[i]:
            keep[i + 1 :] &= allowed[i, i + 1 :]
    return order[keep]

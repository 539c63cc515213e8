"""Assignment of detections to tracks with the least total cost."""

from __future__ import annotations

import numpy as np


def overlaps(a_xyxy: np.ndarray, b_xyxy: np.ndarray) -> np.ndarray:
    """Return ``[N, M]`` intersections over union of ``[N, 4]`` and ``[M, 4]`` boxes; 0 for boxes without area."""
    low = np.maximum(a_xyxy[:, None, :2], b_xyxy[None, :, :2])
    high = np.minimum(a_xyxy[:, None, 2:], b_xyxy[None, :, 2:])
    common = (high - low).clip(0).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clip(0).prod(axis=1) for boxes in (a_xyxy, b_xyxy)]
    whole = areas[0][:, None] + areas[1][None, :] - common
    return common / np.maximum(whole, np.finfo(float).tiny)


def assign(costs: np.ndarray) -> list[tuple[int, int]]:
    """Return pairs (row, column), each row and column at most once, whose sum of costs is the least.

    Parameters
    ----------
    costs : np.ndarray
        ``[N, M]`` float. A pair is worth making if its cost is negative; others are left out, as are infinite ones.

    Notes
    -----
    Shortest augmenting paths (Jonker and Volgenant, Computing 38, 1987) over the rows and columns that conflict;
    each row may also end in a column of its own that costs 0.
    """
    useful = costs < 0
    alone = useful & (useful.sum(axis=1, keepdims=True) == 1) & (useful.sum(axis=0, keepdims=True) == 1)
    pairs = [(int(row), int(column)) for row, column in np.argwhere(alone)]
    rows = np.flatnonzero((useful & ~alone).any(axis=1))
    columns = np.flatnonzero((useful & ~alone).any(axis=0))
    if len(rows):
        part = costs[np.ix_(rows, columns)]
        own = np.where(np.eye(len(rows), dtype=bool), 0.0, np.inf)
        padded = np.concatenate((np.where(part < 0, part, np.inf), own), axis=1)
        for row, column in enumerate(_augment(padded)):
            if column < len(columns):
                pairs.append((int(rows[row]), int(columns[column])))
    return sorted(pairs)


def _augment(costs: np.ndarray) -> np.ndarray:
    """Return the column of each row of ``[N, M]``, N ≤ M, in the assignment of all rows with the least cost."""
    count, width = costs.shape
    row_price, column_price = np.zeros(count), np.zeros(width)
    row_of = np.full(width, -1)
    for start in range(count):
        distance, before = np.full(width, np.inf), np.full(width, -1)
        done = np.zeros(width, bool)
        row, column, length = start, -1, 0.0
        while row >= 0:
            through = length + costs[row] - row_price[row] - column_price
            shorter = ~done & (through < distance)
            distance[shorter], before[shorter] = through[shorter], column
            column = int(np.argmin(np.where(done, np.inf, distance)))
            length = float(distance[column])
            done[column] = True
            row = int(row_of[column])
        # Prices of the visited rows and columns, so that reduced costs stay positive and those of pairs zero.
        row_price[start] += length
        visited = np.flatnonzero(done & (row_of >= 0))
        row_price[row_of[visited]] += length - distance[visited]
        column_price[done] -= length - distance[done]
        while column >= 0:
            source = int(before[column])
            row_of[column] = start if source < 0 else row_of[source]
            column = source
    column_of = np.empty(count, int)
    taken = np.flatnonzero(row_of >= 0)
    column_of[row_of[taken]] = taken
    return column_of

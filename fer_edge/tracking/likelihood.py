"""Cost of each pair of a track and a detection: how badly the box fits the predicted one."""

from __future__ import annotations

import numpy as np

from fer_edge.tracking.motion import Motion, face_sizes, measured

#: Squared distance, in standard deviations, beyond which a detection does not belong to a track: 99.9 % of a
#: chi-squared distribution with 4 degrees of freedom.
GATE = 18.5
#: Distance from the border, in face sizes, at which an edge of a box may be that of the frame.
BORDER = 0.08


def pair_states(positions: np.ndarray, boxes_xyxy: np.ndarray, frame_size: tuple[int, int]) -> np.ndarray:
    """Return M boxes as states from the view of N tracks, ``[N, M, 4]``, see :mod:`fer_edge.tracking.motion`.

    Of a box at the border of the frame only the free edge is known: if it is narrower or lower than the track,
    the rest has the size of the track. Otherwise a face that leaves would seem to shrink and slow down.
    """
    states = np.tile(measured(boxes_xyxy), (len(positions), 1, 1))
    for axis, length in enumerate(frame_size):
        low, high = boxes_xyxy[:, axis], boxes_xyxy[:, axis + 2]
        ln_size = positions[:, axis + 2, None]
        size = np.exp(ln_size)
        cut_low, cut_high = low <= BORDER * size, high >= length - BORDER * size
        for cut, centre in ((cut_low & ~cut_high, high - size / 2), (cut_high & ~cut_low, low + size / 2)):
            partial = cut & (high - low < size)
            states[..., axis] = np.where(partial, centre, states[..., axis])
            states[..., axis + 2] = np.where(partial, ln_size, states[..., axis + 2])
    return states


def pair_costs(
    motion: Motion, states: np.ndarray, reach: np.ndarray, max_size_ratio: float, gate: float = GATE
) -> np.ndarray:
    """Return ``[N, M]`` negative log-likelihoods, infinite for pairs that do not fit.

    Parameters
    ----------
    motion : Motion
        Predicted tracks.
    states : np.ndarray
        ``[N, M, 4]`` of :func:`pair_states`.
    reach : np.ndarray
        ``[N]`` largest distances of the centre from the predicted one, in face sizes.
    max_size_ratio : float
        Largest ratio of both sizes.
    gate : float
        Largest squared distance, in standard deviations.
    """
    error = states - motion.position[:, None]
    error[..., :2] /= face_sizes(motion.position)[:, None, None]
    spread = motion.spread()
    squared = (error**2 / spread[:, None]).sum(axis=2)
    costs = (squared + np.log(spread).sum(axis=1)[:, None]) / 2
    fits = (
        (squared <= gate)
        & (np.hypot(error[..., 0], error[..., 1]) <= reach[:, None])
        & (np.abs(error[..., 2:].mean(axis=2)) <= np.log(max_size_ratio))
    )
    return np.where(fits, costs, np.inf)


def is_ambiguous(costs: np.ndarray, pairs: list[tuple[int, int]], margin: float) -> bool:
    """Return ``True`` if another track or another detection fits a pair better than its own cost plus ``margin``."""
    for row, column in pairs:
        others = np.concatenate((np.delete(costs[row], column), np.delete(costs[:, column], row)))
        if (others < costs[row, column] + margin).any():
            return True
    return False

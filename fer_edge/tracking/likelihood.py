"""Cost of each pair of a track and a detection: how badly the box fits the predicted one."""

from __future__ import annotations

import numpy as np

from fer_edge.tracking.motion import Motion, face_sizes

#: Squared distance, in standard deviations, beyond which a detection does not belong to a track: 99.9 % of a
#: chi-squared distribution with 4 degrees of freedom.
_GATE = 18.5


def pair_costs(motion: Motion, states: np.ndarray, reach: np.ndarray, max_size_ratio: float) -> np.ndarray:
    """Return ``[N, M]`` negative log-likelihoods, infinite for pairs that do not fit.

    Parameters
    ----------
    motion : Motion
        Predicted tracks.
    states : np.ndarray
        ``[N, M, 4]`` of :func:`fer_edge.tracking.border.pair_states`.
    reach : np.ndarray
        ``[N]`` largest distances of the centre from the predicted one, in face sizes.
    max_size_ratio : float
        Largest ratio of both sizes.
    """
    error = states - motion.position[:, None]
    error[..., :2] /= face_sizes(motion.position)[:, None, None]
    spread = motion.spread()
    squared = (error**2 / spread[:, None]).sum(axis=2)
    costs = (squared + np.log(spread).sum(axis=1)[:, None]) / 2
    fits = (
        (squared <= _GATE)
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

"""Movement of boxes: Kalman filters of position and velocity for all tracks at once.

A box is ``(centre x, centre y, ln width, ln height)``; each value has a velocity that decays, driven by random
accelerations. Centres are in pixels, but their variances in squared face sizes: a near face moves faster in pixels
than a far one, and its box is less exact.
"""

from __future__ import annotations

import numpy as np

from fer_edge.results import Box

#: Standard deviations of a measured box: centre in face sizes, ln size.
_CENTRE_NOISE, _SIZE_NOISE = 0.05, 0.15
#: Standard deviations of the velocity of a new track, in face sizes and ln size per second.
_FIRST_SPEED, _FIRST_GROWTH = 2.0, 0.5
#: Spectral densities of the acceleration, in face sizes² / s³ and 1 / s³.
_ACCELERATION, _GROWTH_CHANGE = 8.0, 0.5
#: Time constants in which velocity and growth decay, in seconds: faces turn back, and growth cannot go on for long.
_DECAY_S, _GROWTH_DECAY_S = 0.7, 0.3
#: Bounds that keep boxes finite.
_MAX_LN_SIZE = float(np.log(1 << 20))

_NOISE = np.array((_CENTRE_NOISE, _CENTRE_NOISE, _SIZE_NOISE, _SIZE_NOISE)) ** 2
_FIRST = np.array((_FIRST_SPEED, _FIRST_SPEED, _FIRST_GROWTH, _FIRST_GROWTH)) ** 2
_DRIVE = np.array((_ACCELERATION, _ACCELERATION, _GROWTH_CHANGE, _GROWTH_CHANGE))
_DECAY = np.array((_DECAY_S, _DECAY_S, _GROWTH_DECAY_S, _GROWTH_DECAY_S))


def measured(boxes_xyxy: np.ndarray) -> np.ndarray:
    """Return ``[N, 4]`` centre x, centre y, ln width, ln height of ``[N, 4]`` corners."""
    low, high = boxes_xyxy[:, :2], boxes_xyxy[:, 2:]
    return np.concatenate(((low + high) / 2, np.log(np.maximum(high - low, 1e-3))), axis=1)


def corners(states: np.ndarray) -> np.ndarray:
    """Return ``[N, 4]`` corners, the inverse of :func:`measured`."""
    half = np.exp(np.clip(states[:, 2:], -_MAX_LN_SIZE, _MAX_LN_SIZE)) / 2
    return np.concatenate((states[:, :2] - half, states[:, :2] + half), axis=1)


def face_sizes(states: np.ndarray) -> np.ndarray:
    """Return ``[N]`` geometric means of width and height, in pixels."""
    return np.exp(np.clip(states[:, 2:].mean(axis=1), -_MAX_LN_SIZE, _MAX_LN_SIZE))


class Motion:
    """Filters of N tracks; row i is track i.

    Attributes
    ----------
    position, velocity : np.ndarray
        ``[N, 4]`` float64, the velocity per second.
    variance : np.ndarray
        ``[N, 4, 3]`` variance of position, covariance, variance of velocity.
    """

    def __init__(self) -> None:
        self.position = np.empty((0, 4))
        self.velocity = np.empty((0, 4))
        self.variance = np.empty((0, 4, 3))

    def __len__(self) -> int:
        return len(self.position)

    def append(self, states: np.ndarray) -> None:
        """Add tracks at rest."""
        self.position = np.concatenate((self.position, states))
        self.velocity = np.concatenate((self.velocity, np.zeros_like(states)))
        first = np.stack((_NOISE, np.zeros(4), _FIRST), axis=1)
        self.variance = np.concatenate((self.variance, np.tile(first, (len(states), 1, 1))))

    def keep(self, mask: np.ndarray) -> None:
        """Drop the tracks that are ``False`` in ``[N]`` bool."""
        self.position, self.velocity = self.position[mask], self.velocity[mask]
        self.variance = self.variance[mask]

    def predicted(self, elapsed_s: float) -> np.ndarray:
        """Return ``[N, 4]`` positions ``elapsed_s`` from now."""
        return self.position + self.velocity * (_DECAY * -np.expm1(-elapsed_s / _DECAY))

    def advance(self, elapsed_s: float) -> None:
        """Move all tracks by ``elapsed_s``."""
        self.position = self.predicted(elapsed_s)
        left = np.exp(-elapsed_s / _DECAY)
        reach = _DECAY * -np.expm1(-elapsed_s / _DECAY)  # position gained per velocity
        self.velocity = self.velocity * left
        pp, pv, vv = np.moveaxis(self.variance, 2, 0)
        self.variance = np.stack(
            (
                pp + 2 * reach * pv + reach**2 * vv + _DRIVE * elapsed_s**3 / 3,
                left * (pv + reach * vv) + _DRIVE * elapsed_s**2 / 2,
                left**2 * vv + _DRIVE * elapsed_s,
            ),
            axis=2,
        )

    def spread(self) -> np.ndarray:
        """Return ``[N, 4]`` variances of the difference of a measured box from the predicted one."""
        return self.variance[:, :, 0] + _NOISE

    def correct(self, rows: np.ndarray, states: np.ndarray) -> None:
        """Correct the tracks ``[K]`` by their measured boxes ``[K, 4]``."""
        pp, pv, vv = np.moveaxis(self.variance[rows], 2, 0)
        total = pp + _NOISE
        error = states - self.position[rows]
        self.position[rows] += pp / total * error
        self.velocity[rows] += pv / total * error
        self.variance[rows] = np.stack(
            (pp - pp * pp / total, pv - pp * pv / total, vv - pv * pv / total), axis=2
        )


def box_of(row: np.ndarray) -> Box:
    """Return ``[4]`` corners as a box of plain numbers."""
    left, top, right, bottom = (float(v) for v in row)
    return left, top, right, bottom

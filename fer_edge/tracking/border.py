"""Boxes at the border of the frame: they are cut off, and their faces may be leaving."""

from __future__ import annotations

import numpy as np

from fer_edge.tracking.motion import Motion, corners, face_sizes, measured

#: Distance from the border, in face sizes, at which the edge of a box may be that of the frame.
_BORDER = 0.08
#: Share of the predicted box inside the frame below which an unseen face is outside.
_OUTSIDE_SHARE = 0.35
#: Outward speed of a face that is leaving, in face sizes per second.
_LEAVING_SPEED = 0.3


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
        cut_low, cut_high = low <= _BORDER * size, high >= length - _BORDER * size
        for cut, centre in ((cut_low & ~cut_high, high - size / 2), (cut_high & ~cut_low, low + size / 2)):
            partial = cut & (high - low < size)
            states[..., axis] = np.where(partial, centre, states[..., axis])
            states[..., axis + 2] = np.where(partial, ln_size, states[..., axis + 2])
    return states


def leaving_tracks(motion: Motion, frame_size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return ``[N]`` bool twice: the predicted box is mostly outside the frame; it is at the border, moving outwards."""
    boxes = corners(motion.position)
    size = np.array(frame_size, float)
    inside = np.clip(boxes, 0, np.tile(size, 2))
    visible = (inside[:, 2:] - inside[:, :2]).prod(axis=1)
    outside = visible < _OUTSIDE_SHARE * (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    face = face_sizes(motion.position)[:, None]
    speed = motion.velocity[:, :2] / face
    low = (boxes[:, :2] < _BORDER * face) & (speed < -_LEAVING_SPEED)
    high = (boxes[:, 2:] > size - _BORDER * face) & (speed > _LEAVING_SPEED)
    return outside, (low | high).any(axis=1)

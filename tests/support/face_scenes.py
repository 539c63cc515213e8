"""Boxes of faces in frames: random ones, and the worst for labels."""

from __future__ import annotations

import math

import numpy as np

from fer_edge.drawing.layout import Rectangle, Size

FRAMES: list[Size] = [(320, 240), (640, 480), (1920, 1080), (3840, 2160)]
COUNTS = (1, 2, 3, 7, 20, 50)


def clip(boxes: np.ndarray, frame: Size) -> list[Rectangle]:
    """Return the parts of boxes inside the frame, without those that have none."""
    inside = np.clip(np.rint(boxes), 0, np.tile(frame, 2)).astype(int)
    return [(int(a), int(b), int(c), int(d)) for a, b, c, d in inside if a < c and b < d]


def scattered(count: int, frame: Size, rng: np.random.Generator) -> np.ndarray:
    """Anywhere, of any size, partly outside the frame."""
    centre, side = rng.uniform(0, 1, (count, 2)) * frame, rng.uniform(0.03, 0.35, (count, 1)) * min(frame)
    return np.hstack([centre - side / 2, centre + side * (0.5, 0.7)])


def touching(count: int, frame: Size, rng: np.random.Generator) -> np.ndarray:
    """A grid without a gap, in the middle of the frame."""
    columns = math.ceil(math.sqrt(count))
    side = 0.7 * min(frame) / columns
    corner = [
        (frame[0] * 0.2 + side * (k % columns), frame[1] * 0.1 + side * (k // columns)) for k in range(count)
    ]
    return np.hstack([np.array(corner), np.array(corner) + side])


def crowded(count: int, frame: Size, rng: np.random.Generator) -> np.ndarray:
    """A grid over the whole frame, with gaps that are too small for most labels."""
    columns = math.ceil(math.sqrt(count))
    cell = np.array(frame) / columns
    corner = np.array([(k % columns, k // columns) for k in range(count)]) * cell
    return np.hstack([corner, corner + 0.95 * cell])


def at_edges(count: int, frame: Size, rng: np.random.Generator) -> np.ndarray:
    """At the corners and edges of the frame, half outside."""
    side = 0.2 * min(frame)
    along = rng.uniform(0, 1, count)
    x = np.where(np.arange(count) % 2, along * frame[0], np.arange(count) // 2 % 2 * frame[0])
    y = np.where(np.arange(count) % 2, np.arange(count) // 2 % 2 * frame[1], along * frame[1])
    centre = np.stack([x, y], axis=1)
    return np.hstack([centre - side / 2, centre + side / 2])


def nested(count: int, frame: Size, rng: np.random.Generator) -> np.ndarray:
    """Each inside the one before; the first covers most of the frame."""
    share = np.linspace(0.05, 0.45, count)[:, None]
    return np.hstack([share * frame, (1 - share) * frame])


def whole(count: int, frame: Size, rng: np.random.Generator) -> np.ndarray:
    """One that covers the frame, and others inside it."""
    boxes = scattered(count, frame, rng)
    boxes[0] = (-10, -10, frame[0] + 10, frame[1] + 10)
    return boxes


SCENES = (scattered, touching, crowded, at_edges, nested, whole)

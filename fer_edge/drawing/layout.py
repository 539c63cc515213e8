"""Places of labels: near their faces, over no face and over no other label.

Everything here is whole pixels. A rectangle is (left, top, right, bottom) and does not include right and bottom.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Rectangle = tuple[int, int, int, int]
Size = tuple[int, int]
Line = tuple[int, int, int, int]

#: Of so many nearest places, the one whose leader line crosses least is taken.
_COMPARED = 32


@dataclass(frozen=True)
class Style:
    """Sizes of the labels in one style.

    Attributes
    ----------
    sizes : sequence of (width, height)
        One for each face, in pixels.
    reach_px : float
        Largest distance of a label from its face.
    """

    sizes: Sequence[Size]
    reach_px: float = math.inf


@dataclass(frozen=True)
class Placement:
    """Place of one label.

    Attributes
    ----------
    rectangle : tuple of int
        Left, top, right, bottom.
    leader : tuple of int or None
        Line x, y, x, y from the face to a label that is not beside it.
    """

    rectangle: Rectangle
    leader: Line | None = None


def arrange(
    faces: Sequence[Rectangle], styles: Sequence[Style], frame: Size, gap_px: int
) -> tuple[int, tuple[Placement | None, ...]]:
    """Return the first style in which every face has a label, and the labels' places.

    If there is no such style, it is the one with the most labels, and of two with as many the first. Labels are placed
    from the largest face to the smallest, so that the smallest faces are the ones left without.

    Parameters
    ----------
    faces : sequence of rectangles
        Parts of the faces inside the frame.
    styles : sequence of Style
        In order of preference; at least one.
    frame : (width, height)
        In pixels.
    gap_px : int
        Smallest distance of a label from faces and other labels.

    Returns
    -------
    index : int
        Of the style.
    placements : tuple of Placement or None
        One for each face; ``None`` if no place is left for its label.
    """
    best: tuple[int, tuple[Placement | None, ...]] = 0, (None,) * len(faces)
    most = -1
    for index, style in enumerate(styles):
        placements = place_labels(faces, style, frame, gap_px)
        placed = sum(placement is not None for placement in placements)
        if placed > most:
            best, most = (index, placements), placed
        if placed == len(faces):
            break
    return best


def place_labels(
    faces: Sequence[Rectangle], style: Style, frame: Size, gap_px: int
) -> tuple[Placement | None, ...]:
    """Return the place of each label in one style, ``None`` where no place is left within reach.

    A label stands below, above, right or left of its face, in this order. If all four are taken, it takes the nearest
    free place in the frame: one is found if there is any.
    """
    placements: list[Placement | None] = [None] * len(faces)
    margin = np.array([-gap_px, -gap_px, gap_px, gap_px])
    taken = np.array(faces, np.int64).reshape(-1, 4) + margin
    leaders: list[Line] = []
    for i in sorted(range(len(faces)), key=lambda i: (-_area(faces[i]), i)):
        found = _beside(faces[i], style.sizes[i], frame, gap_px, taken)
        if found is None:
            others = np.delete(taken, i, axis=0)
            found = _nearest(faces[i], style, style.sizes[i], frame, gap_px, taken, others, leaders)
        if found is None:
            continue
        leader = _leader(faces[i], found) if _distance(faces[i], found) > gap_px else None
        placements[i] = Placement(found, leader)
        taken = np.vstack([taken, np.array(found) + margin])
        if leader:
            leaders.append(leader)
    return tuple(placements)


def _area(rectangle: Rectangle) -> int:
    left, top, right, bottom = rectangle
    return (right - left) * (bottom - top)


def _beside(face: Rectangle, size: Size, frame: Size, gap_px: int, taken: np.ndarray) -> Rectangle | None:
    """Return the first free place below, above, right or left of the face."""
    left, top, right, bottom = face
    (width, height), (frame_width, frame_height) = size, frame
    if width > frame_width or height > frame_height:
        return None
    x, x_end = min(left, frame_width - width), max(right - width, 0)
    y, y_end = min(top, frame_height - height), max(bottom - height, 0)
    below, above, beyond, before = (
        bottom + gap_px,
        top - gap_px - height,
        right + gap_px,
        left - gap_px - width,
    )
    corners = np.array(
        [(x, below), (x_end, below), (x, above), (x_end, above), (beyond, y), (beyond, y_end), (before, y), (before, y_end)]
    )  # fmt: skip
    inside = ((corners >= 0) & (corners <= (frame_width - width, frame_height - height))).all(axis=1)
    ends = corners + size
    overlaps = (corners[:, None] < taken[None, :, 2:]) & (ends[:, None] > taken[None, :, :2])
    covers = np.any(np.all(overlaps, axis=2), axis=1)
    free = np.flatnonzero(inside & ~covers)
    return _rectangle(corners[free[0]], size) if len(free) else None


def _nearest(
    face: Rectangle,
    style: Style,
    size: Size,
    frame: Size,
    gap_px: int,
    taken: np.ndarray,
    others: np.ndarray,
    leaders: Sequence[Line],
) -> Rectangle | None:
    """Return the free place nearest to the face whose leader line crosses least.

    A rectangle with a free place anywhere can be moved left and up until it touches something, again and again until
    nothing moves. So it suffices to try the right and lower edges of what is taken, and the frame's; the other edges and
    the face's own give places that look better.
    """
    width, height = size
    columns = _starts(taken[:, 0], taken[:, 2], width, frame[0], (face[0], face[2] - width))
    rows = _starts(taken[:, 1], taken[:, 3], height, frame[1], (face[1], face[3] - height))
    if not (len(columns) and len(rows)):
        return None
    # Rows and columns that meet a rectangle: their product counts the rectangles that a place covers.
    in_column = (columns[:, None] < taken[:, 2]) & (columns[:, None] + width > taken[:, 0])
    in_row = (rows[:, None] < taken[:, 3]) & (rows[:, None] + height > taken[:, 1])
    free = in_column.astype(np.float32) @ in_row.astype(np.float32).T == 0
    away_x = np.maximum(0, np.maximum(columns - face[2], face[0] - columns - width))
    away_y = np.maximum(0, np.maximum(rows - face[3], face[1] - rows - height))
    distance = np.hypot(away_x[:, None], away_y[None, :])
    free &= distance <= max(style.reach_px, gap_px)
    chosen = np.flatnonzero(free)
    if not len(chosen):
        return None
    # Of two places as near, the one whose middle is nearer.
    middle = np.abs(columns[:, None] + (width - face[0] - face[2]) / 2) + np.abs(
        rows[None, :] + (height - face[1] - face[3]) / 2
    )
    cost = (distance + middle / (2 * sum(frame))).ravel()[chosen]
    chosen = chosen[np.argsort(cost, kind="stable")[:_COMPARED]]
    corners = np.stack([columns[chosen // len(rows)], rows[chosen % len(rows)]], axis=1)
    places = [_rectangle(corner, size) for corner in corners]
    crossed = _crossings(np.array([_leader(face, place) for place in places]), others).sum(axis=1)
    if leaders:
        crossed = crossed + _crossings(np.array(leaders), np.array(places)).sum(axis=0)
    return places[int(np.argmin(crossed))]


def _starts(
    lows: np.ndarray, highs: np.ndarray, length: int, limit: int, more: tuple[int, int]
) -> np.ndarray:
    """Return the coordinates, inside the frame, at which a label of this length may begin."""
    starts = np.unique(np.concatenate([highs, lows - length, (0, limit - length), more]))
    return starts[(starts >= 0) & (starts <= limit - length)]


def _rectangle(corner: np.ndarray, size: Size) -> Rectangle:
    left, top = int(corner[0]), int(corner[1])
    return left, top, left + size[0], top + size[1]


def _distance(a: Rectangle, b: Rectangle) -> float:
    return math.hypot(max(0, a[0] - b[2], b[0] - a[2]), max(0, a[1] - b[3], b[1] - a[3]))


def _leader(face: Rectangle, label: Rectangle) -> Line:
    """Return the shortest line from the face to the label; the middle one of several."""

    def ends(low: int, high: int, other_low: int, other_high: int) -> tuple[int, int]:
        if high <= other_low:
            return high, other_low
        if other_high <= low:
            return low, other_high
        middle = (max(low, other_low) + min(high, other_high)) // 2
        return middle, middle

    (x0, x1), (y0, y1) = (
        ends(face[0], face[2], label[0], label[2]),
        ends(face[1], face[3], label[1], label[3]),
    )
    return x0, y0, x1, y1


def _crossings(lines: np.ndarray, rectangles: np.ndarray) -> np.ndarray:
    """Return which of ``[L, 4]`` lines crosses which of ``[R, 4]`` rectangles, bool ``[L, R]`` (slab method)."""
    start, step = lines[:, None, :2].astype(float), (lines[:, 2:] - lines[:, :2])[:, None].astype(float)
    step = np.where(step == 0, 1e-9, step)
    near, far = (rectangles[None, :, :2] - start) / step, (rectangles[None, :, 2:] - start) / step
    first, last = np.minimum(near, far).max(axis=2), np.maximum(near, far).min(axis=2)
    return np.maximum(first, 0) < np.minimum(last, 1)

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

#: Of so many nearest places, the best is taken.
_COMPARED = 64
#: A place costs its distance in heights of the label, and so much for each rectangle that its leader crosses, and for
#: each that it comes so close to that it seems to belong to it.
_CROSSING, _CROWDING = 4.0, 1.5
#: Places within so many heights of the label are tried first.
_NEAR = 8


@dataclass(frozen=True)
class Attempt:
    """Sizes of labels, and how far from their faces they may stand.

    Attributes
    ----------
    sizes : sequence of (width, height)
        One for each face, in pixels.
    reach_px : float
        Largest distance of a label from its face; 0 allows the places beside it alone.
    """

    sizes: Sequence[Size]
    reach_px: float = math.inf


@dataclass(frozen=True)
class Placement:
    """Place of one label.

    Attributes
    ----------
    attempt : int
        Index of the attempt that placed it, which tells its size.
    rectangle : tuple of int
        Left, top, right, bottom.
    leader : tuple of int or None
        Line x, y, x, y from the face to a label that is not beside it.
    """

    attempt: int
    rectangle: Rectangle
    leader: Line | None = None


Plan = Sequence[Attempt]


def arrange(
    faces: Sequence[Rectangle], plans: Sequence[Plan], frame: Size, gap_px: int
) -> tuple[int, tuple[Placement | None, ...]]:
    """Return the first plan that gives every face a label, else the last one, and the labels' places.

    Parameters
    ----------
    faces : sequence of rectangles
        Parts of the faces inside the frame.
    plans : sequence of plans
        In order of preference; at least one.
    frame : (width, height)
        In pixels.
    gap_px : int
        Smallest distance of a label from faces and other labels.

    Returns
    -------
    index : int
        Of the plan.
    placements : tuple of Placement or None
        One for each face; ``None`` if no place is left for its label.
    """
    for index, plan in enumerate(plans[:-1]):
        placements = place_labels(faces, plan, frame, gap_px, all_or_none=True)
        if None not in placements:
            return index, placements
    return len(plans) - 1, place_labels(faces, plans[-1], frame, gap_px)


def place_labels(
    faces: Sequence[Rectangle], plan: Plan, frame: Size, gap_px: int, all_or_none: bool = False
) -> tuple[Placement | None, ...]:
    """Return the place of each label, ``None`` where no attempt finds one.

    Each attempt places the labels that those before it did not. A label stands below, above, right or left of its face, in this
    order; else it takes the nearest free place within reach. With infinite reach it finds one if there is any, and goes
    from the largest face to the smallest, so that the smallest are left without. With finite reach the faces with the
    least room beside them are first. ``all_or_none`` gives up at the first face without a label.
    """
    placements: list[Placement | None] = [None] * len(faces)
    margin = np.array([-gap_px, -gap_px, gap_px, gap_px])
    taken = np.array(faces, np.int64).reshape(-1, 4) + margin
    by_area = sorted(range(len(faces)), key=lambda i: (-_area(faces[i]), i))
    room = [
        len(_beside(face, size, frame, gap_px, taken))
        for face, size in zip(faces, plan[0].sizes, strict=True)
    ]
    by_room = sorted(by_area, key=lambda i: room[i])
    leaders: list[Line] = []
    for number, attempt in enumerate(plan):
        reach_px = attempt.reach_px
        without_place: list[Size] = []  # no label of this size or a larger one finds a place any more
        for i in by_area if math.isinf(reach_px) else by_room:
            face, size = faces[i], attempt.sizes[i]
            if placements[i] is not None or any(size[0] >= w and size[1] >= h for w, h in without_place):
                continue
            beside = _beside(face, size, frame, gap_px, taken)
            found = beside[0] if beside else None
            if not beside and reach_px:
                found = _nearest(face, size, reach_px, frame, taken, i, leaders)
            if found is not None:
                leader = _leader(face, found) if _distance(face, found) > gap_px else None
                placements[i] = Placement(number, found, leader)
                taken = np.vstack([taken, np.array(found) + margin])
                leaders += [leader] if leader else []
            elif all_or_none and number == len(plan) - 1:
                return (None,) * len(faces)
            elif math.isinf(reach_px):
                without_place.append(size)
    return tuple(placements)


def _area(rectangle: Rectangle) -> int:
    left, top, right, bottom = rectangle
    return (right - left) * (bottom - top)


def _beside(face: Rectangle, size: Size, frame: Size, gap_px: int, taken: np.ndarray) -> list[Rectangle]:
    """Return the free places below, above, right and left of the face, in this order."""
    left, top, right, bottom = face
    (width, height), (frame_width, frame_height) = size, frame
    x, x_end = min(left, frame_width - width), max(right - width, 0)
    y, y_end = min(top, frame_height - height), max(bottom - height, 0)
    x_middle, y_middle = (left + right - width) // 2, (top + bottom - height) // 2
    below, above, beyond, before = (
        bottom + gap_px,
        top - gap_px - height,
        right + gap_px,
        left - gap_px - width,
    )
    corners = np.array(
        [
            *((x, below), (x_end, below), (x_middle, below)),
            *((x, above), (x_end, above), (x_middle, above)),
            *((beyond, y), (beyond, y_end), (beyond, y_middle)),
            *((before, y), (before, y_end), (before, y_middle)),
        ]
    )
    inside = np.all((corners >= 0) & (corners <= (frame_width - width, frame_height - height)), axis=1)
    covers = np.any(_overlaps(np.hstack([corners, corners + size]), taken), axis=1)
    return [_rectangle(corner, size) for corner in corners[inside & ~covers]]


def _nearest(
    face: Rectangle,
    size: Size,
    reach_px: float,
    frame: Size,
    taken: np.ndarray,
    own: int,
    leaders: Sequence[Line],
) -> Rectangle | None:
    """Return the best free place within reach of the face, which is row ``own`` of ``taken``; ``None`` if there is none."""
    others = np.delete(taken, own, axis=0)
    for near_px in sorted(
        {min(_NEAR * size[1], reach_px), reach_px}
    ):  # most have a place nearby, found sooner
        places, distance_px = _free_places(face, size, near_px, frame, taken)
        if len(places):
            break
    else:
        return None
    # Of places that are as near, the one whose middle is nearer.
    width, height = size
    off_x = np.abs(places[:, 0] + (width - face[0] - face[2]) / 2) / frame[0]
    off_y = np.abs(places[:, 1] + (height - face[1] - face[3]) / 2) / frame[1]
    cost = (distance_px + off_x + off_y) / height
    if len(places) > _COMPARED:
        nearest = np.argpartition(cost, _COMPARED)[:_COMPARED]
        places, cost = places[nearest], cost[nearest]
    around = places + np.array([-height, -height, height, height]) // 2
    crossed = _crossings(_leaders(face, places), others).sum(axis=1)
    if leaders:
        crossed = crossed + _crossings(np.array(leaders), places).sum(axis=0)
    cost = cost + _CROSSING * crossed + _CROWDING * _overlaps(around, others).sum(axis=1)
    return _rectangle(places[int(np.argmin(cost))], size)


def _free_places(
    face: Rectangle, size: Size, reach_px: float, frame: Size, taken: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return free places within reach ``[P, 4]``, and their distances from the face ``[P]`` in pixels.

    With infinite reach there is one at least if any place is free: a rectangle with a free place anywhere can be moved
    left and up until it touches something, again and again until nothing moves. So the right and lower edges of the things that are
    taken, and the frame's, suffice to find a place. The other edges, and places at some distance from all edges, are
    there to find a better one.
    """
    width, height = size
    window = np.array([[face[0] - width, face[1] - height, face[2] + width, face[3] + height]], float)
    window += np.array([-reach_px, -reach_px, reach_px, reach_px])
    taken = taken[_overlaps(window, taken)[0]]
    columns = _starts(face[0], face[2], taken[:, 0], taken[:, 2], width, height, frame[0], reach_px)
    rows = _starts(face[1], face[3], taken[:, 1], taken[:, 3], height, height, frame[1], reach_px)
    # The product counts, for each column and row, the rectangles that both meet: those that a label there would cover.
    meets_column = (columns[:, None] < taken[:, 2]) & (columns[:, None] + width > taken[:, 0])
    meets_row = (rows[:, None] < taken[:, 3]) & (rows[:, None] + height > taken[:, 1])
    column, row = np.nonzero(meets_column.astype(np.float32) @ meets_row.astype(np.float32).T == 0)
    x, y = columns[column], rows[row]
    away_x = np.maximum(0, np.maximum(x - face[2], face[0] - x - width))
    away_y = np.maximum(0, np.maximum(y - face[3], face[1] - y - height))
    distance_px = np.hypot(away_x, away_y)
    near = distance_px <= reach_px
    x, y = x[near], y[near]
    return np.stack([x, y, x + width, y + height], axis=1), distance_px[near]


def _starts(
    low: int,
    high: int,
    lows: np.ndarray,
    highs: np.ndarray,
    length: int,
    distance: int,
    limit: int,
    reach_px: float,
) -> np.ndarray:
    """Return where along one axis a label of this length may begin: inside the frame and within reach of the face."""
    before = lows - length
    edges = (highs, before, highs + distance, before - distance, (0, limit - length, low, high - length))
    starts = np.unique(np.concatenate(edges))
    first, last = max(0, low - length - reach_px), min(limit - length, high + reach_px)
    return starts[(starts >= first) & (starts <= last)]


def _overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return which of ``[A, 4]`` rectangles overlaps which of ``[B, 4]``, bool ``[A, B]``."""
    left, top, right, bottom = a.T[:, :, None]
    return (left < b[:, 2]) & (right > b[:, 0]) & (top < b[:, 3]) & (bottom > b[:, 1])


def _rectangle(corner: np.ndarray, size: Size) -> Rectangle:
    left, top = int(corner[0]), int(corner[1])
    return left, top, left + size[0], top + size[1]


def _distance(a: Rectangle, b: Rectangle) -> float:
    return math.hypot(max(0, a[0] - b[2], b[0] - a[2]), max(0, a[1] - b[3], b[1] - a[3]))


def _leader(face: Rectangle, label: Rectangle) -> Line:
    x0, y0, x1, y1 = (int(value) for value in _leaders(face, np.array([label]))[0])
    return x0, y0, x1, y1


def _leaders(face: Rectangle, labels: np.ndarray) -> np.ndarray:
    """Return the shortest line from the face to each label ``[L, 4]``, the middle one of several: x, y, x, y."""
    starts, ends = [], []
    for low, high, lows, highs in (
        (face[0], face[2], labels[:, 0], labels[:, 2]),
        (face[1], face[3], labels[:, 1], labels[:, 3]),
    ):
        middle = (np.maximum(low, lows) + np.minimum(high, highs)) // 2
        starts.append(np.where(high <= lows, high, np.where(highs <= low, low, middle)))
        ends.append(np.where(high <= lows, lows, np.where(highs <= low, highs, middle)))
    return np.stack([*starts, *ends], axis=1)


def _crossings(lines: np.ndarray, rectangles: np.ndarray) -> np.ndarray:
    """Return which of ``[L, 4]`` lines crosses which of ``[R, 4]`` rectangles, bool ``[L, R]`` (slab method)."""
    first, last = np.zeros((len(lines), len(rectangles))), np.ones((len(lines), len(rectangles)))
    for axis in (0, 1):
        start, step = lines[:, axis, None], (lines[:, 2 + axis] - lines[:, axis])[:, None]
        step = np.where(step == 0, 1e-9, step)
        low, high = (rectangles[:, axis] - start) / step, (rectangles[:, 2 + axis] - start) / step
        first, last = np.maximum(first, np.minimum(low, high)), np.minimum(last, np.maximum(low, high))
    return first < last

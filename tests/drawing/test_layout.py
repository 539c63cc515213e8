"""Labels cover no face and no other label, and one is left out only where no place is left."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from face_scenes import COUNTS, FRAMES, SCENES, clip, scattered

from fer_edge.drawing.layout import Attempt, Placement, Rectangle, Size, arrange, place_labels

GAP = 3


def sizes(count: int, frame: Size, ems: float, lines: float, rng: np.random.Generator) -> list[Size]:
    """Sizes of labels of about so many letters and lines."""
    em = max(11, min(frame) // 45)
    return [(int(em * ems * rng.uniform(0.7, 1.3)), int(em * lines)) for _ in range(count)]


def plans_for(count: int, frame: Size, rng: np.random.Generator) -> list[list[Attempt]]:
    full, line, tag = (sizes(count, frame, ems, lines, rng) for ems, lines in ((13, 5.5), (8, 1.4), (2, 1.4)))
    tag = [tag[0]] * count
    return [[Attempt(full, 0)], [Attempt(line, 0), Attempt(tag, 0), Attempt(tag)], [Attempt(tag)]]


def cover(rectangles: list[Rectangle], frame: Size) -> np.ndarray:
    """Return which pixels rectangles cover, or are so near that no label may cover them."""
    covered = np.zeros((frame[1], frame[0]), bool)
    for left, top, right, bottom in rectangles:
        covered[max(top - GAP, 0) : bottom + GAP, max(left - GAP, 0) : right + GAP] = True
    return covered


def has_room(taken: np.ndarray, size: Size) -> bool:
    """Tell from the pixels alone whether a rectangle of this size is free anywhere."""
    width, height = size
    if width > taken.shape[1] or height > taken.shape[0]:
        return False
    sums = cv2.integral(taken.astype(np.uint8))
    inside = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    return bool((inside == 0).any())


@pytest.mark.parametrize("frame", FRAMES, ids=str)
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_labels_cover_no_face_and_no_label(scene, count: int, frame: Size) -> None:
    rng = np.random.default_rng(count)
    faces = clip(scene(count, frame, rng), frame)
    plans = plans_for(len(faces), frame, rng)
    index, placements = arrange(faces, plans, frame, GAP)
    assert len(placements) == len(faces)
    taken = cover(faces, frame)
    for i, placement in enumerate(placements):
        if placement:
            left, top, right, bottom = placement.rectangle
            assert (right - left, bottom - top) == plans[index][placement.attempt].sizes[i]
            assert min(left, top) >= 0
            assert right <= frame[0]
            assert bottom <= frame[1]
            assert not taken[top:bottom, left:right].any()
            taken[max(top - GAP, 0) : bottom + GAP, max(left - GAP, 0) : right + GAP] = True
    if None in placements:
        assert index == len(plans) - 1
        assert not has_room(taken, plans[-1][0].sizes[0])
        labelled = [area(face) for face, placement in zip(faces, placements, strict=True) if placement]
        dropped = [area(face) for face, placement in zip(faces, placements, strict=True) if not placement]
        assert max(dropped) <= min(labelled, default=math.inf)


def area(rectangle: Rectangle) -> int:
    return (rectangle[2] - rectangle[0]) * (rectangle[3] - rectangle[1])


def only(face: Rectangle, *others: Rectangle, size: Size = (40, 12), frame: Size = (200, 150)) -> Placement:
    """Place the label of one face beside others, whose own labels have no size."""
    attempt = Attempt([size, *[(10_000, 10_000)] * len(others)])
    placement = place_labels([face, *others], [attempt], frame, GAP)[0]
    assert placement is not None
    return placement


FACE = (80, 60, 120, 100)
BELOW, ABOVE, RIGHT, LEFT = (60, 105, 140, 120), (60, 40, 140, 55), (125, 40, 180, 120), (20, 40, 75, 120)


@pytest.mark.parametrize(
    ("blocked", "expected"),
    [
        ([], (80, 103, 120, 115)),
        ([BELOW], (80, 45, 120, 57)),
        ([BELOW, ABOVE], (123, 60, 163, 72)),
        ([BELOW, ABOVE, RIGHT], (37, 60, 77, 72)),
    ],
)
def test_below_then_above_then_right_then_left(blocked: list[Rectangle], expected: Rectangle) -> None:
    assert only(FACE, *blocked) == Placement(0, expected)


def test_then_further_away_with_a_line() -> None:
    placement = only(FACE, BELOW, ABOVE, RIGHT, LEFT)
    assert placement.leader is not None
    x, y, end_x, end_y = placement.leader
    left, top, right, bottom = placement.rectangle
    assert x in (80, 120) or y in (60, 100)
    assert left <= end_x <= right
    assert top <= end_y <= bottom
    nearest = only(FACE, BELOW, ABOVE, RIGHT, LEFT, size=(4, 4))
    assert math.dist(nearest.leader[:2], nearest.leader[2:]) <= math.dist((x, y), (end_x, end_y))


def test_a_label_at_the_edge_is_moved_inside() -> None:
    assert only((180, 20, 200, 40)).rectangle == (160, 43, 200, 55)
    assert only((0, 130, 20, 150)).rectangle == (0, 115, 40, 127)


def test_lines_avoid_faces_where_they_can() -> None:
    # The nearest place is behind the floor; the walls leave a way up that no face lies in.
    face, floor, walls = (80, 100, 120, 140), (60, 141, 140, 150), [(121, 60, 200, 140), (0, 60, 79, 140)]
    size, frame = (60, 12), (200, 300)
    up = only(face, floor, *walls, size=size, frame=frame)
    assert up.leader is not None
    assert up.rectangle[3] < 60
    down = only(face, floor, *walls, (60, 60, 140, 99), size=size, frame=frame)
    assert down.rectangle[1] > 150


def test_the_smallest_faces_lose_their_labels_first() -> None:
    faces = [(0, 0, 100, 30), (0, 30, 100, 55), (0, 55, 100, 75), (0, 75, 100, 90)]
    tag = [Attempt([(40, 14)] * 4)]
    for room, labelled in (
        (0, 0),
        (16, 0),
        (20, 2),
        (100, 4),
    ):  # a row of two labels and their gap are 17 high
        placements = place_labels(faces, tag, (100, 90 + room), GAP)
        assert [p is not None for p in placements] == [i < labelled for i in range(4)]


def test_the_first_plan_that_labels_all_is_taken() -> None:
    faces = [(10, 10, 40, 40), (60, 10, 90, 40)]
    fits, small, too_large = Attempt([(30, 10)] * 2), Attempt([(8, 8)] * 2), Attempt([(300, 10)] * 2)
    assert arrange(faces, [[fits], [small]], (100, 100), GAP)[0] == 0
    assert arrange(faces, [[too_large], [fits], [small]], (100, 100), GAP)[0] == 1
    assert arrange(faces, [[too_large], [too_large]], (100, 100), GAP) == (1, (None, None))
    index, placements = arrange(faces, [[too_large, fits]], (100, 100), GAP)
    assert (index, [p.attempt for p in placements if p]) == (0, [1, 1])


def test_reach_is_kept() -> None:
    walled = [FACE, BELOW, ABOVE, RIGHT, LEFT]
    none = [(10_000, 10_000)] * 4
    for reach, placed in ((0, False), (5, False), (30, True)):
        found = place_labels(walled, [Attempt([(40, 12), *none], reach)], (200, 150), GAP)[0]
        assert (found is not None) == placed


def test_the_face_with_the_least_room_is_first() -> None:
    # Below the large face there are three places, and one of them is the only one of the small face.
    large, small = (40, 0, 160, 60), (0, 0, 34, 64)
    placements = place_labels([large, small], [Attempt([(60, 12), (60, 12)], 0)], (160, 80), 2)
    assert [p.rectangle for p in placements if p] == [(100, 62, 160, 74), (0, 66, 60, 78)]


def test_no_faces_and_a_frame_of_one_pixel() -> None:
    assert arrange([], [[Attempt([])]], (100, 100), GAP) == (0, ())
    assert arrange([(0, 0, 1, 1)], [[Attempt([(20, 10)])]], (1, 1), GAP) == (0, (None,))


def test_places_do_not_depend_on_the_order_of_unequal_faces() -> None:
    rng = np.random.default_rng(4)
    frame = (640, 480)
    faces = clip(scattered(12, frame, rng), frame)
    attempt = Attempt([(90, 16)] * len(faces))
    there = place_labels(faces, [attempt], frame, GAP)
    back = place_labels(faces[::-1], [attempt], frame, GAP)
    assert there == back[::-1]

"""Scenes: the truth agrees with the pixels, scripts do what they say, and a seed gives the same frames."""

from __future__ import annotations

import importlib
from types import ModuleType

import cv2
import numpy as np
import pytest
from places import ROOT

from fer_edge.errors import UsageError


@pytest.fixture(scope="module")
def scenes() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        return importlib.import_module("scenes")


def flat_pictures(scenes: ModuleType, count: int) -> list[object]:
    """Pictures of one saturated colour each, which the background does not have."""
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255), (0, 255, 255)]
    return [
        scenes.Picture(np.full((80, 64, 3), colours[i], np.uint8), (8.0, 8.0, 56.0, 72.0), str(i))
        for i in range(count)
    ]


def test_boxes_lie_on_the_faces(scenes: ModuleType) -> None:
    scene = scenes.Scene(flat_pictures(scenes, 4), scenes.SceneOptions("still", faces=4, duration_s=1))
    compared = 0
    for frame, _, truth in scene.play():
        assert frame.shape == (480, 640, 3)
        assert frame.dtype == np.uint8
        for face in truth:
            colour = np.array(scene.pictures[int(face.label)].image_bgr[0, 0])
            ys, xs = np.nonzero((frame == colour).all(axis=2))
            centre = np.array((xs.mean() + 0.5, ys.mean() + 0.5))
            left, top, right, bottom = face.box_xyxy
            assert np.abs(centre - ((left + right) / 2, (top + bottom) / 2)).max() < 0.5
            compared += 1
    assert compared == 4 * len(scene.times_s)


@pytest.mark.parametrize("script", ["cross", "occlude", "leave", "mixed"])
def test_visible_fraction_is_that_of_the_pixels(scenes: ModuleType, script: str) -> None:
    pictures = flat_pictures(scenes, 6)
    scene = scenes.Scene(pictures, scenes.SceneOptions(script, faces=5, duration_s=6, fps=4, seed=2))
    shown, told = [], []
    for frame, _, truth in scene.play():
        labels = [face.label for face in truth]
        for face in truth:
            if labels.count(face.label) > 1:
                continue
            colour = np.array(pictures[int(face.label)].image_bgr[0, 0])
            left, top, right, bottom = (int(v) for v in face.box_xyxy)
            part = (frame[top:bottom, left:right] == colour).all(axis=2)
            actor = scene.actors[face.person_id - 1]
            side = next(pose[2] for who, pose in scene._standing(_) if who is actor)
            shown.append(part.sum() / side**2)
            told.append(face.visible_fraction)
    # The ellipse of the picture covers the box but for its corners.
    assert len(told) > 50
    assert np.abs(np.array(shown) / max(shown) - np.array(told)).mean() < 0.06


def test_crossing_faces_cover_each_other(scenes: ModuleType) -> None:
    options = scenes.SceneOptions("cross", faces=2, duration_s=10, seed=1)
    scene = scenes.Scene(flat_pictures(scenes, 2), options)
    orders, covered = set(), 0
    for _, truth in scene.truths():
        first, second = sorted(truth, key=lambda face: face.person_id)
        orders.add(first.box_xyxy[0] < second.box_xyxy[0])
        covered += min(first.visible_fraction, second.visible_fraction) < 0.3
    assert orders == {True, False}
    assert covered


def test_a_visit_has_its_own_number_and_ends_outside(scenes: ModuleType) -> None:
    scene = scenes.Scene(flat_pictures(scenes, 2), scenes.SceneOptions("leave", faces=2, duration_s=20))
    assert len(scene.actors) > 4
    assert [actor.person_id for actor in scene.actors] == list(range(1, len(scene.actors) + 1))
    for actor in scene.actors:
        pose = actor.pose(float(actor.keys[-1, 0]))
        assert pose is not None
        assert not 0 < pose[0] < 640


def test_labels_change_and_sizes_grow(scenes: ModuleType) -> None:
    options = scenes.SceneOptions("approach", faces=3, duration_s=15, relabel_s=2, seed=4)
    scene = scenes.Scene(flat_pictures(scenes, 5), options)
    labels: dict[int, set[str]] = {}
    for _, truth in scene.truths():
        for face in truth:
            labels.setdefault(face.person_id, set()).add(face.label)
    assert all(len(values) > 1 for values in labels.values())
    assert any(actor.keys[:, 3].max() > 2 * actor.keys[:, 3].min() for actor in scene.actors)


def test_the_seed_decides(scenes: ModuleType) -> None:
    def play(seed: int) -> tuple[np.ndarray, object]:
        options = scenes.SceneOptions(faces=4, seed=seed, duration_s=1, dropped_share=0.3)
        scene = scenes.Scene(scenes.rendered_pictures(4), options)
        return np.stack([frame.frame_bgr for frame in scene.play()]), list(scene.truths())

    frames, truths = play(3)
    again, truths_again = play(3)
    np.testing.assert_array_equal(frames, again)
    assert truths == truths_again
    assert len(frames) < 30
    assert truths != play(4)[1]


def test_background_moves(scenes: ModuleType) -> None:
    scene = scenes.Scene(scenes.rendered_pictures(1), scenes.SceneOptions("still", faces=1))
    assert cv2.absdiff(scene.render(0.0)[:20], scene.render(1.0)[:20]).mean() > 1


def test_32_faces_in_4k(scenes: ModuleType) -> None:
    options = scenes.SceneOptions("wander", faces=32, width=3840, height=2160, duration_s=0.1)
    (frame, _, truth), *_ = scenes.Scene(scenes.rendered_pictures(8), options).play()
    assert frame.shape == (2160, 3840, 3)
    assert len(truth) == 32


def test_refuses_unknown_scripts_and_no_pictures(scenes: ModuleType) -> None:
    with pytest.raises(UsageError, match="unknown script 'crosses'.*did you mean 'cross'"):
        scenes.Scene(scenes.rendered_pictures(1), scenes.SceneOptions("crosses"))
    with pytest.raises(UsageError, match="found none"):
        scenes.Scene([], scenes.SceneOptions())

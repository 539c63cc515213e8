"""Overlap of maps with EMFACS action units, on synthetic landmarks and maps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from fer_edge.datasets import FaceDataset
from fer_edge.errors import DataError, UsageError
from fer_edge.explanation.explain import ExplainerOutput
from fer_edge.export.explanation.emfacs import (
    AU_LANDMARKS,
    LANDMARKS,
    PROTOTYPES,
    class_landmarks,
    emfacs_overlap,
    sample_landmarks,
    top_share,
)
from fer_edge.labels import FERPLUS
from fer_edge.spec import ModelSpec

SPEC = ModelSpec("made-up", 100, 120, "gray", 1, (0.0,), (1.0,), FERPLUS)
#: A landmark every 12 columns and 15 rows of the 100×120 input, so that no two windows touch.
GRID = np.array([(6 + 12 * (i % 10), 7 + 14 * (i // 10)) for i in range(LANDMARKS)], np.float32)


class Painted:
    """Activates the landmarks of one class, which follows from the brightness of the image."""

    spec = SPEC

    def __init__(self, lit: frozenset[int], method: str = "gradcam", own: bool = False) -> None:
        self.method = method
        self.heat = np.zeros((100, 120), np.float32)
        for x, y in GRID[sorted(lit)].astype(int):
            self.heat[y - 1 : y + 2, x - 1 : x + 2] = 1
        self.own = own
        self.asked: list[list[int] | None] = []

    def explain(self, batch: np.ndarray, classes: Sequence[int] | None = None) -> ExplainerOutput:
        self.asked.append(None if classes is None else list(classes))
        probabilities = np.eye(len(FERPLUS))[np.rint(batch.mean((1, 2, 3)) * 255).astype(int)]
        own = np.repeat(GRID[None], len(batch), 0) if self.own else None
        return ExplainerOutput(probabilities, np.repeat(self.heat[None], len(batch), 0), own)

    def close(self) -> None:
        pass


def faces(classes: Sequence[int], labelled: bool = True, landmarks: bool = True) -> FaceDataset:
    """Images at half the size of the input, of the brightness of their class."""
    images = np.repeat(np.array(classes, np.uint8), 50 * 60).reshape(-1, 50, 60)
    points = np.repeat(((GRID + 0.5) / 2 - 0.5)[None], len(classes), 0) if landmarks else None
    return FaceDataset(
        "made up", images, np.eye(len(FERPLUS), dtype=np.float32)[list(classes)] if labelled else None,
        FERPLUS if labelled else (), True, landmarks=points, landmark_source="annotated" if landmarks else "",
    )  # fmt: skip


def test_the_window_is_centred_on_the_landmark() -> None:
    heat = np.arange(20, dtype=np.float32).reshape(4, 5)
    expected = [heat[0:3, 1:4].mean(), heat[1:4, 0:3].mean()]
    np.testing.assert_allclose(sample_landmarks(heat, np.array([[2, 1], [1.4, 2.4]])), expected)


def test_landmarks_at_the_border_and_beyond_it() -> None:
    heat = np.array([[1.0, 2], [3, 4]])
    corner = (4 * 1 + 2 * 2 + 2 * 3 + 4) / 9
    np.testing.assert_allclose(
        sample_landmarks(heat, np.array([[0, 0], [-50, -3], [1e6, 1e6]])), [corner, corner, (1 + 2 * 2 + 2 * 3 + 4 * 4) / 9]
    )  # fmt: skip


def test_top_share_by_hand() -> None:
    values = np.array([9.0, 8, 7, 7, 7, 1])
    assert top_share(values, frozenset({0, 5}), 2) == 0.5
    # The third place is shared by 2, 3 and 4, of which one is a member.
    assert top_share(values, frozenset({0, 3}), 3) == pytest.approx((1 + 1 / 3) / 3)
    assert top_share(values, frozenset(), 3) == 0


@pytest.mark.parametrize("top", [1, 10, 67])
def test_a_flat_map_has_the_chance_level(top: int) -> None:
    members = class_landmarks("anger")
    assert top_share(np.zeros(LANDMARKS), members, top) == pytest.approx(len(members) / LANDMARKS)


def test_the_prototypes_are_those_of_emfacs() -> None:
    assert PROTOTYPES["happiness"] == ("6", "12")
    assert PROTOTYPES["disgust"] == ("9", "15", "16")
    assert {unit for units in PROTOTYPES.values() for unit in units} <= set(AU_LANDMARKS)
    assert all(0 <= p < LANDMARKS for points in AU_LANDMARKS.values() for p in points)
    assert class_landmarks("happy") == {36, 45, 40, 41, 46, 47, 48, 54, 60, 64}
    assert class_landmarks("neutral") == frozenset()
    mirror = {36: 45, 40: 47, 41: 46, 48: 54, 60: 64}
    assert {mirror.get(p, p) for p in class_landmarks("happy")} < class_landmarks("happy")


@pytest.mark.parametrize("method", ["gradcam", "attention"])
def test_a_map_on_the_action_units_overlaps_wholly(method: str) -> None:
    explainer = Painted(class_landmarks("happiness"), method)
    report = emfacs_overlap(explainer, faces([1, 1, 3, 0]), top=10)
    happiness, sadness = report.classes
    assert (happiness.class_name, happiness.images, happiness.overlap) == ("happiness", 2, 1.0)
    assert happiness.chance == 10 / 68
    shared = class_landmarks("happiness") & class_landmarks("sadness")
    assert (sadness.images, sadness.overlap) == (1, pytest.approx(len(shared) / 10))
    assert report.left_out["class without action units"] == 1
    assert explainer.asked == [[1, 1, 3, 0] if method == "gradcam" else None]


def test_without_labels_the_network_says_the_class() -> None:
    report = emfacs_overlap(
        Painted(class_landmarks("fear"), own=True), faces([6] * 20, labelled=False, landmarks=False), top=5
    )
    assert [(c.class_name, c.images, c.overlap) for c in report.classes] == [("fear", 20, 1.0)]
    assert report.landmark_source == "made-up's own"


def test_images_without_landmarks_are_counted() -> None:
    data = faces([1, 1, 2])
    data.landmarks[1, 40] = np.nan
    report = emfacs_overlap(Painted(class_landmarks("happiness")), data)
    assert report.left_out["no landmarks"] == 1
    assert [c.images for c in report.classes] == [1, 1]


def test_data_that_cannot_be_measured() -> None:
    explainer = Painted(frozenset({1}))
    with pytest.raises(DataError, match="has no landmarks, and made-up does not predict them"):
        emfacs_overlap(explainer, faces([1], landmarks=False))
    with pytest.raises(DataError, match="no image that has landmarks and a class with action units"):
        emfacs_overlap(explainer, faces([0, 0]))
    with pytest.raises(DataError, match="expected face crops in .*, found photographs"):
        emfacs_overlap(explainer, FaceDataset("photos", np.zeros((1, 9, 9), np.uint8), None, (), False))
    for top in (0, 68):
        with pytest.raises(UsageError, match="top must be from 1 to 67"):
            emfacs_overlap(explainer, faces([1]), top)

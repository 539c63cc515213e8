"""Faces that are turned in the image plane, where YuNet alone fails or places landmarks as if they were upright."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from matching import iou
from turning import apply, turn_picture

from fer_edge import Runtime
from fer_edge.detection.base import DetectorOptions
from fer_edge.detection.yunet.decoding import NOTHING, Found
from fer_edge.detection.yunet.turned import ANGLES_DEG, TurnedSearch
from fer_edge.errors import UsageError
from fer_edge.preprocess import crop_face
from fer_edge.spec import CropRule

EMPTY = np.zeros((96, 128, 3), np.uint8)


@pytest.mark.parametrize("roll_deg", [-60, -50, -45, 45, 50, 60])
def test_a_turned_face_has_the_box_and_the_landmarks_of_the_upright_one(roll_deg, create, astronaut):
    detector = create("yunet")
    (upright,) = detector.detect(astronaut)
    frame, affine = turn_picture(astronaut, roll_deg)
    found = detector.detect(frame)
    assert len(found) == 1
    assert found[0].roll_deg == np.sign(roll_deg) * 40
    low, high = np.array(upright.box_xyxy).reshape(2, 2)
    side = (high - low).max()
    centre = apply(affine, (low + high)[None] / 2)[0]
    expected = (*(centre - (high - low) / 2), *(centre + (high - low) / 2))
    assert iou(found[0].box_xyxy, expected) > 0.75
    distances = np.linalg.norm(found[0].landmarks - apply(affine, upright.landmarks), axis=1)
    assert distances.max() < 0.2 * side


def test_upright_faces_are_those_of_the_network_alone(create, photographs):
    """Few faces of photographs are turned."""
    plain, searching = create("yunet", turned_looks=0), create("yunet")
    same = []
    for frame in photographs[::4]:
        faces, others = plain.detect(frame), searching.detect(frame)
        assert all(face.roll_deg == 0 for face in faces)
        same += [any(face.box_xyxy == other.box_xyxy for other in others) for face in faces]
    assert len(same) >= 50
    assert np.mean(same) >= 0.9


def test_no_turned_faces_where_none_are_asked_for(create, astronaut):
    frame, _ = turn_picture(astronaut, 60)
    assert all(face.roll_deg == 0 for face in create("yunet", turned_looks=0).detect(frame))


def test_a_turned_face_is_found_beside_an_upright_one(create, astronaut):
    turned, _ = turn_picture(astronaut[:300, 60:380], 50)
    frame = np.zeros((max(512, turned.shape[0]), 512 + turned.shape[1], 3), np.uint8)
    frame[:512, :512] = astronaut
    frame[: turned.shape[0], 512:] = turned
    assert sorted(face.roll_deg for face in create("yunet").detect(frame)) == [0, 40]


@pytest.mark.parametrize("value", [-1, 2.5, float("nan"), True, "2"])
def test_looks_out_of_range_are_refused(value):
    with pytest.raises(UsageError, match="turned_looks must be"):
        DetectorOptions(turned_looks=value)


class Network:
    """Finds nothing upright; in whole looks a face, if it has one. Remembers the sizes of its images."""

    def __init__(self) -> None:
        self.sizes: list[tuple[int, ...]] = []
        self.face = NOTHING

    def __call__(self, image: np.ndarray, min_score: float) -> Found:
        self.sizes.append(image.shape[:2])
        return NOTHING if image.shape == EMPTY.shape else self.face


def looks(network: Network, search: TurnedSearch, frames: int) -> list[int]:
    """Return the number of looks at the turned image, frame by frame."""
    counts = []
    for _ in range(frames):
        network.sizes.clear()
        search(EMPTY)
        counts.append(len(network.sizes) - 1)
    return counts


@pytest.mark.parametrize(
    ("per_frame", "expected"),
    [(2, [2] * 8), (1, [1] * 8), (0.5, [0, 1] * 4), (0.25, [0, 0, 0, 1] * 2), (1.5, [1, 2] * 4)],
)
def test_scenes_without_faces_cost_what_was_allowed(per_frame, expected):
    network = Network()
    assert looks(network, TurnedSearch(network, 0.7, per_frame), 8) == expected


def test_a_side_with_a_face_is_looked_at_in_every_frame():
    network = Network()
    search = TurnedSearch(network, 0.7, 0.25)
    assert looks(network, search, 3) == [0, 0, 0]
    network.face = Found(np.array([[60.0, 60, 90, 90]]), np.array([0.9]), np.zeros((1, 5, 2)), np.zeros(1))
    found = [search(EMPTY) for _ in range(6)]
    assert [faces.roll_deg.tolist() for faces in found] == [[ANGLES_DEG[0]]] * 6
    network.face = NOTHING
    counts = looks(network, search, 9)
    assert counts[0] == 1
    assert sum(counts[1:]) == 2


def test_few_candidates_are_looked_at_again():
    """A crowd takes no more looks than four faces."""
    sizes = []

    def find(image: np.ndarray, min_score: float) -> Found:
        sizes.append(image.shape)
        if image.shape != EMPTY.shape:
            return NOTHING
        corners = np.stack([np.arange(20.0) * 5, np.full(20, 10.0)], axis=1)
        scores = np.linspace(0.95, 0.7, 20)
        return Found(np.hstack([corners, corners + 4]), scores, np.zeros((20, 5, 2)), np.zeros(20))

    found = TurnedSearch(find, 0.7, 2)(EMPTY)
    assert len(found.scores) == 20
    assert len(sizes) == 1 + 4 * len(ANGLES_DEG)
    assert len(set(sizes)) == 2  # one size of looks: a backend with fixed sizes compiles each


@pytest.mark.parametrize("edge", ["clip", "replicate"])
@pytest.mark.parametrize("roll_deg", [-40, 40, 90])
def test_the_crop_of_a_turned_face_is_the_upright_one(roll_deg, edge, astronaut):
    rule = CropRule(edge=edge)
    expected = crop_face(astronaut, (180, 60, 270, 170), rule)
    frame, affine = turn_picture(astronaut, roll_deg)
    x, y = apply(affine, np.array([[225.0, 115.0]]))[0]
    crop = crop_face(frame, (x - 45, y - 55, x + 45, y + 55), rule, roll_deg)
    plain = crop_face(frame, (x - 45, y - 55, x + 45, y + 55), rule)
    # Corners are cut to whole pixels, before and after: seen from further away, this does not matter.
    small, *others = (
        cv2.resize(image, (28, 28), interpolation=cv2.INTER_AREA).astype(float)
        for image in (expected, crop, plain)
    )
    errors = [np.abs(image - small).mean() for image in others]
    assert errors[0] < 10
    assert errors[1] > 3 * errors[0]
    ours, theirs = (
        cv2.cvtColor(cv2.resize(image, (110, 110)), cv2.COLOR_BGR2GRAY).astype(np.float32)
        for image in (crop, expected)
    )
    shift_px = cv2.phaseCorrelate(ours, theirs, cv2.createHanningWindow((110, 110), cv2.CV_32F))[0]
    assert np.abs(shift_px).max() < 2


@pytest.mark.parametrize("roll_deg", [-45, 45, 60])
def test_a_turned_face_has_the_label_of_the_upright_one(roll_deg, astronaut):
    frame, _ = turn_picture(astronaut, roll_deg)
    with Runtime(backend="onnxruntime") as runtime:
        (face,), (turned,) = runtime(astronaut).faces, runtime(frame).faces
    assert turned.label == face.label == "happiness"
    assert turned.probability == pytest.approx(face.probability, abs=0.15)

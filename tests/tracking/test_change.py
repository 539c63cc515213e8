"""Distances of aligned patches: small for jitter, noise and light, large for another picture."""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
from skimage.metrics import structural_similarity

from fer_edge.errors import DataError
from fer_edge.results import Detection
from fer_edge.tracking.change import CHANGED_DISTANCE, PATCH_PX, _place, aligned_patch, patch_distance

LANDMARKS = np.array([[204, 104], [248, 105], [225, 127], [205, 144], [241, 145]], np.float32)
#: The astronaut's face in her photograph, by eye.
FACE = Detection((182.0, 63.0, 274.0, 177.0), 1.0, LANDMARKS)


def jittered(face: Detection, random: np.random.Generator, share: float) -> Detection:
    spread = share * (face.box_xyxy[2] - face.box_xyxy[0])
    box = tuple(float(v) for v in np.array(face.box_xyxy) + random.normal(0, spread, 4))
    landmarks = face.landmarks + random.normal(0, spread, (5, 2)).astype(np.float32)
    return Detection(box, face.score, landmarks)


def test_a_patch_is_normalised(astronaut):
    patch = aligned_patch(astronaut, FACE)
    assert patch.shape == (PATCH_PX, PATCH_PX)
    assert patch.dtype == np.float32
    assert patch.mean() == pytest.approx(0, abs=1e-5)
    assert patch.std() == pytest.approx(1, abs=1e-4)
    assert patch_distance(patch, patch) == pytest.approx(0, abs=1e-5)


def test_jitter_noise_and_light_are_no_change(astronaut):
    random = np.random.default_rng(1)
    first = aligned_patch(astronaut, FACE)
    distances = []
    for _ in range(40):
        frame = astronaut * random.uniform(0.6, 1.2) + random.normal(0, 8, astronaut.shape)
        patch = aligned_patch(frame.clip(0, 255).astype(np.uint8), jittered(FACE, random, 0.03))
        distances.append(patch_distance(first, patch))
    assert np.mean(np.array(distances) < CHANGED_DISTANCE) > 0.9
    assert np.median(distances) < CHANGED_DISTANCE / 2


def test_motion_is_no_change(astronaut):
    first = aligned_patch(astronaut, FACE)
    matrix = cv2.getRotationMatrix2D((227, 120), 15, 1.2)
    frame = cv2.warpAffine(astronaut, matrix, (512, 512))
    landmarks = (LANDMARKS @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)
    centre = matrix[:, :2] @ [228, 120] + matrix[:, 2]
    box = (centre[0] - 55.2, centre[1] - 68.4, centre[0] + 55.2, centre[1] + 68.4)
    assert patch_distance(first, aligned_patch(frame, Detection(box, 1.0, landmarks))) < CHANGED_DISTANCE / 2


def test_a_covered_part_is_a_change(astronaut):
    changed = astronaut.copy()
    changed[125:175, 185:270] = (110, 130, 180)
    assert patch_distance(aligned_patch(astronaut, FACE), aligned_patch(changed, FACE)) > CHANGED_DISTANCE


def test_another_face_is_a_change(photographs):
    boxes = [Detection((25.0, 15.0, 325.0, 335.0), 1.0)]
    patches = [aligned_patch(photo, boxes[0]) for photo in photographs[::7] if photo.shape[:2] == (350, 350)]
    assert len(patches) > 10
    distances = [patch_distance(a, b) for i, a in enumerate(patches) for b in patches[:i]]
    assert np.mean(np.array(distances) > CHANGED_DISTANCE) > 0.9


def test_the_distance_is_that_of_scikit_image(astronaut):
    """Without shift: scikit-image's similarity with its luminance term removed, which is 1 where both means are 0."""
    random = np.random.default_rng(0)
    a = aligned_patch(astronaut, FACE)
    noise = cv2.GaussianBlur(random.normal(0, 0.5, a.shape).astype(np.float32), (0, 0), 1)
    b = a + noise
    # Beyond its border the patch is mirrored, which scikit-image does otherwise.
    inner, other = (np.pad(patch[2:-2, 2:-2].astype(np.float64), 6, mode="reflect") for patch in (a, b))
    # K2 gives the constant 0.1 at a range of 1; K1 large makes the luminance term 1.
    _, similarity = structural_similarity(
        inner,
        other,
        win_size=13,
        data_range=1.0,
        K1=1e6,
        K2=math.sqrt(0.1),
        use_sample_covariance=False,
        full=True,
    )
    assert patch_distance(a, b) == pytest.approx(1 - similarity[6:-6, 6:-6].min(), abs=1e-4)


def test_distances_are_symmetric_in_the_main(astronaut):
    a = aligned_patch(astronaut, FACE)
    b = aligned_patch(astronaut, jittered(FACE, np.random.default_rng(2), 0.03))
    assert patch_distance(a, b) == pytest.approx(patch_distance(b, a), abs=0.1)


def test_patches_without_contrast(astronaut):
    gray = aligned_patch(np.full((512, 512, 3), 90, np.uint8), FACE)
    assert not gray.any()
    assert patch_distance(gray, gray) == 0
    assert patch_distance(gray, aligned_patch(astronaut, FACE)) == 1


def test_a_cut_off_face_is_aligned_by_its_landmarks(astronaut):
    landmarks = LANDMARKS - np.float32([200, 0])
    cut_off = Detection((0.0, 63.0, 74.0, 177.0), 1.0, landmarks)
    centre, turn = _place(FACE, astronaut.shape)
    by_landmarks, turn_by_landmarks = _place(cut_off, (512, 312, 3))
    by_box, _ = _place(replace(cut_off, landmarks=None), (512, 312, 3))
    assert abs(by_landmarks + 200 - centre) < 6 < abs(by_box + 200 - centre)
    assert abs(turn_by_landmarks / turn - 1) < 0.1


@pytest.mark.parametrize(
    "face",
    [
        Detection((math.nan, 0, 10, 10), 1.0),
        Detection((0, 0, math.inf, 10), 1.0),
        Detection((10, 10, 10, 20), 1.0),
        Detection((20, 20, 10, 10), 1.0),
        Detection((-1e30, 0, 1e30, 10), 1.0),
        Detection((0.0, 0.0, 10.0, 10.0), 1.0, np.full((5, 2), np.nan, np.float32)),
        Detection((0.0, 0.0, 10.0, 10.0), 1.0, np.zeros((5, 2), np.float32)),
    ],
)
def test_a_face_without_an_area_is_refused(astronaut, face):
    with pytest.raises(DataError, match="expected a face with an area"):
        aligned_patch(astronaut, face)


def test_a_face_outside_the_frame_has_a_patch(astronaut):
    assert aligned_patch(astronaut, Detection((900.0, 900.0, 950.0, 950.0), 1.0)).shape == (
        PATCH_PX,
        PATCH_PX,
    )


@pytest.mark.parametrize(
    "patch",
    [
        np.zeros((32, 32), np.float32),
        np.zeros((PATCH_PX, PATCH_PX)),
        np.full((PATCH_PX, PATCH_PX), np.nan, np.float32),
        np.full((PATCH_PX, PATCH_PX), np.inf, np.float32),
        None,
    ],
)
def test_a_wrong_patch_is_refused(astronaut, patch):
    good = aligned_patch(astronaut, FACE)
    for pair in ((good, patch), (patch, good)):
        with pytest.raises(DataError, match="expected a patch"):
            patch_distance(*pair)


def test_a_frame_of_another_format_is_refused(astronaut):
    with pytest.raises(DataError, match="expected a frame"):
        aligned_patch(astronaut[..., :2], FACE)

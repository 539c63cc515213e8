"""Pseudo-landmarks: two predictors against independent positions, the model file, and the cache."""

from __future__ import annotations

import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the export extra")

from fer_edge._utils.files import cache_folder
from fer_edge.datasets import FaceDataset, load_dataset
from fer_edge.detection import create_detector
from fer_edge.errors import DataError, UsageError, WeightsError
from fer_edge.export.networks.landmark_transform import MEAN_FACE
from fer_edge.export.training.data import landmarks
from fer_edge.export.training.data.landmarks import (
    FaceMesh,
    MtcnnMeanFace,
    create_predictor,
    five_points,
    pseudo_landmarks,
)

FACE_BOX = (150.0, 40.0, 310.0, 220.0)
#: Point i of a face is point MIRRORED[i] of its mirror image.
MIRRORED = [
    *range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, *range(35, 30, -1),
    45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40,
    54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65,
]  # fmt: skip


@pytest.fixture(scope="module")
def mesh() -> FaceMesh:
    folder = cache_folder()
    if landmarks._find_model() is None:
        pytest.skip(f"needs the Face Mesh model: {landmarks.HOW_TO_GET.format(folder=folder)}")
    return FaceMesh()


@pytest.fixture(scope="module")
def mean_face() -> MtcnnMeanFace:
    return MtcnnMeanFace()


@pytest.fixture(params=["mesh", "mean_face"])
def predictor(request: pytest.FixtureRequest) -> landmarks.LandmarkPredictor:
    return request.getfixturevalue(request.param)


def eye_distance(points: np.ndarray) -> float:
    five = five_points(points)
    return float(np.linalg.norm(five[0] - five[1]))


def test_eyes_nose_and_mouth_lie_where_another_detector_finds_them(
    astronaut: np.ndarray, predictor: landmarks.LandmarkPredictor
) -> None:
    points = predictor.predict(astronaut, FACE_BOX)
    (found,) = create_detector("mtcnn").detect(astronaut)
    error = np.linalg.norm(five_points(points) - found.landmarks, axis=1) / eye_distance(points)
    assert error.max() < 0.2
    assert error.mean() < 0.12


def test_points_follow_a_turned_and_scaled_face(
    astronaut: np.ndarray, predictor: landmarks.LandmarkPredictor
) -> None:
    points = predictor.predict(astronaut, FACE_BOX)
    turn = cv2.getRotationMatrix2D((230.0, 130.0), 12, 0.8)
    moved = predictor.predict(cv2.warpAffine(astronaut, turn, (512, 512)), (166, 58, 294, 202))
    expected = points @ turn[:, :2].T + turn[:, 2]
    assert np.linalg.norm(moved - expected, axis=1).mean() / eye_distance(expected) < 0.08


def test_a_mirrored_face_has_mirrored_points(
    astronaut: np.ndarray, predictor: landmarks.LandmarkPredictor
) -> None:
    points = predictor.predict(astronaut, FACE_BOX)
    left, top, right, bottom = FACE_BOX
    mirrored = predictor.predict(
        np.ascontiguousarray(astronaut[:, ::-1]), (512 - right, top, 512 - left, bottom)
    )
    back = mirrored[MIRRORED] * [-1, 1] + [511, 0]
    assert np.linalg.norm(back - points, axis=1).mean() / eye_distance(points) < 0.08


def test_the_mean_face_keeps_its_shape(astronaut: np.ndarray, mean_face: MtcnnMeanFace) -> None:
    points = mean_face.predict(astronaut, FACE_BOX)
    mean = np.array(MEAN_FACE)
    ratio = np.linalg.norm(np.diff(points, axis=0), axis=1) / np.linalg.norm(np.diff(mean, axis=0), axis=1)
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-5)


def test_the_jaw_points_are_equally_far_apart(astronaut: np.ndarray, mesh: FaceMesh) -> None:
    jaw = mesh.predict(astronaut, FACE_BOX)[:17]
    steps = np.linalg.norm(np.diff(jaw, axis=0), axis=1)
    assert steps.max() < 1.25 * steps.min()
    assert jaw[8, 1] == pytest.approx(jaw[:, 1].max(), abs=0.05 * np.ptp(jaw[:, 1]))  # the chin


def test_where_there_is_no_face_there_are_no_points(predictor: landmarks.LandmarkPredictor) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    assert predictor.predict(noise, (0, 0, 96, 96)) is None
    assert predictor.predict(np.zeros((48, 48, 3), np.uint8), (0, 0, 48, 48)) is None


def test_crops_and_photographs_get_points_and_what_is_no_face_gets_nan(
    astronaut: np.ndarray, mean_face: MtcnnMeanFace
) -> None:
    crop = cv2.cvtColor(astronaut[40:220, 150:310], cv2.COLOR_BGR2GRAY)
    images = np.stack([crop, np.zeros_like(crop)])
    seen: list[tuple[int, int]] = []
    result = pseudo_landmarks(
        FaceDataset("crops", images, None, (), True),
        None,
        mean_face,
        lambda done, total: seen.append((done, total)),
    )
    assert result.source == "pseudo: mtcnn 5 points + mean face"
    assert result.points.shape == (2, 68, 2)
    assert result.points.dtype == np.float32
    assert np.isfinite(result.points[0]).all()
    assert np.isnan(result.points[1]).all()
    assert seen == [(1, 2), (2, 2)]
    photograph = FaceDataset("photo", cv2.cvtColor(astronaut, cv2.COLOR_BGR2GRAY)[None], None, (), False)
    points = pseudo_landmarks(photograph, None, mean_face).points[0]
    distance = np.linalg.norm(points - (result.points[0] + [150, 40]), axis=1).mean()
    assert distance / eye_distance(points) < 0.1
    with pytest.raises(DataError, match="finds no face in black"):
        pseudo_landmarks(FaceDataset("black", images[1:], None, (), True), None, mean_face)


class Fixed:
    """Points that depend on the image alone, and a count of the calls."""

    def __init__(self, name: str = "fixed") -> None:
        self.name, self.calls = name, 0

    def predict(self, image_bgr: np.ndarray, box_xyxy: tuple[float, float, float, float]) -> np.ndarray:
        self.calls += 1
        return np.full((68, 2), float(image_bgr.mean()))


def gray_faces(*values: int) -> FaceDataset:
    return FaceDataset("gray", np.stack([np.full((4, 4), v, np.uint8) for v in values]), None, (), True)


def test_the_cache_is_read_the_second_time(tmp_path: Path) -> None:
    cache, fixed = tmp_path / "new" / "landmarks.npz", Fixed()
    first = pseudo_landmarks(gray_faces(1, 2), cache, fixed)
    second = pseudo_landmarks(gray_faces(1, 2), cache, fixed)
    assert fixed.calls == 2
    np.testing.assert_array_equal(first.points, second.points)
    assert first.source == second.source == "pseudo: fixed"
    assert [p.name for p in cache.parent.iterdir()] == ["landmarks.npz"]


def test_the_cache_of_other_images_or_another_predictor_is_refused(tmp_path: Path) -> None:
    cache = tmp_path / "landmarks.npz"
    pseudo_landmarks(gray_faces(1, 2), cache, Fixed())
    for other in (gray_faces(1, 3), gray_faces(1), gray_faces(2, 1)):
        with pytest.raises(DataError, match="of other images. Fix: delete it"):
            pseudo_landmarks(other, cache, Fixed())
    with pytest.raises(DataError, match="holds 'pseudo: fixed', expected 'pseudo: other'"):
        pseudo_landmarks(gray_faces(1, 2), cache, Fixed("other"))


@pytest.mark.parametrize("damage", ["empty", "text", "truncated", "flipped", "pickle", "shape", "array"])
def test_a_damaged_cache_is_refused(tmp_path: Path, damage: str) -> None:
    cache = tmp_path / "landmarks.npz"
    pseudo_landmarks(gray_faces(1, 2), cache, Fixed())
    with np.load(cache) as file:
        values = dict(file)
    data = bytearray(cache.read_bytes())
    if damage == "pickle":
        np.savez(cache, **{**values, "points": np.array([{}], object)}, allow_pickle=True)
    elif damage == "array":
        with cache.open("wb") as file:
            np.save(file, values["points"])
    elif damage == "shape":
        np.savez(cache, **{**values, "points": values["points"][:1]})
    else:
        data[len(data) // 3] ^= 0xFF
        pieces = {"empty": b"", "text": b"text", "truncated": data[:300], "flipped": data}
        cache.write_bytes(pieces[damage])
    with pytest.raises(DataError, match="Fix: delete (it|the damaged file)"):
        pseudo_landmarks(gray_faces(1, 2), cache, Fixed())


def test_a_failed_prediction_leaves_no_cache(tmp_path: Path) -> None:
    class Broken(Fixed):
        def predict(self, image_bgr: np.ndarray, box_xyxy: tuple[float, float, float, float]) -> np.ndarray:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pseudo_landmarks(gray_faces(1), tmp_path / "landmarks.npz", Broken())
    assert not list(tmp_path.iterdir())


def test_a_missing_model_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FER_EDGE_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match=r"mtcnn-mean-face, or run pip download mediapipe==0\.10\.21 "):
        create_predictor("face-mesh")
    with pytest.raises(UsageError, match="did you mean 'face-mesh'"):
        create_predictor("facemesh")
    with pytest.raises(WeightsError, match="takes no model"):
        create_predictor("mtcnn-mean-face", tmp_path / "x.tflite")


@pytest.mark.parametrize(
    "name", ["none.tflite", "other.tflite", "same-size.tflite", "text.whl", "empty.whl", "other.whl"]
)
def test_what_is_not_the_model_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    size = landmarks._MODEL_BYTES
    if name == "other.tflite":
        path.write_bytes(b"TFL3")
    elif name == "same-size.tflite":
        path.write_bytes(bytes(size))
    elif name == "text.whl":
        path.write_bytes(b"text")
    elif name.endswith(".whl"):
        with zipfile.ZipFile(path, "w") as wheel:
            wheel.writestr("other" if name == "empty.whl" else landmarks._MODEL_IN_WHEEL, bytes(size))
    with pytest.raises(WeightsError, match=name):
        FaceMesh(path)


def test_both_predictors_agree_on_photographs(shared: Path, mesh: FaceMesh, mean_face: MtcnnMeanFace) -> None:
    faces = load_dataset(shared / "data" / "faces_in_context").sample(8)
    pair = [pseudo_landmarks(faces, None, p).points for p in (mesh, mean_face)]
    both = np.isfinite(pair[0]).all(axis=(1, 2)) & np.isfinite(pair[1]).all(axis=(1, 2))
    assert both.sum() >= 6
    errors = [
        np.linalg.norm(fine[17:] - coarse[17:], axis=1).mean() / eye_distance(fine)
        for fine, coarse in zip(pair[0][both], pair[1][both], strict=True)
    ]
    assert np.median(errors) < 0.2

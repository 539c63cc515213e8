"""Photographs are recognised, and cropped to the largest face as in ``eval``."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest

from fer_edge.builder.faces import Sources
from fer_edge.builder.splits import Counts, split_faces
from fer_edge.datasets import FaceDataset, load_dataset
from fer_edge.detection import create_detector
from fer_edge.detection.base import Detector
from fer_edge.errors import DataError
from fer_edge.evaluation.photographs import cut_faces, find_largest, holds_photographs, recognised
from fer_edge.preprocess import crop_face
from fer_edge.spec import CropRule
from fer_edge.synthetic import render_faces

RULES = (CropRule(), CropRule("box", 1.1, "replicate"), CropRule("square", 2.5, "replicate"))


@pytest.fixture
def photographs(tmp_path: Path, astronaut: np.ndarray) -> Path:
    """The astronaut at five positions on large canvases, in a folder."""
    rng = np.random.default_rng(3)
    folder = tmp_path / "photographs"
    folder.mkdir()
    for i in range(5):
        canvas = np.full((800, 1000, 3), rng.integers(0, 255, 3), np.uint8)
        top, left = rng.integers(0, 288), rng.integers(0, 488)
        canvas[top : top + 512, left : left + 512] = astronaut
        cv2.imwrite(str(folder / f"{i}.png"), canvas)
    return folder


@pytest.mark.parametrize("rule", RULES)
def test_the_largest_face_is_cut_as_eval_cuts_it(photographs: Path, rule: CropRule) -> None:
    dataset = load_dataset(photographs)
    with closing(create_detector()) as detector:
        assert holds_photographs(dataset, lambda: detector, rule)
        done: list[int] = []
        indices, boxes = find_largest(dataset, detector, rule, done.append)
        faces = cut_faces(dataset.subset(indices), boxes, rule)
        assert (len(faces), faces.are_crops, sum(done)) == (5, True, 5)
        for face, image in zip(faces, dataset, strict=True):
            assert np.array_equal(face, crop_face(image, detector.detect(image)[0].box_xyxy, rule))
            assert face.shape[0] * face.shape[1] < 0.4 * image.shape[0] * image.shape[1]


@pytest.mark.parametrize("side", [48, 96, 200])
def test_face_crops_are_no_photographs(side: int, astronaut: np.ndarray) -> None:
    """Generated and real face crops, large and small."""
    images = [cv2.resize(face, (side, side)) for face in render_faces(12, 4)]
    images.append(cv2.resize(astronaut[0:220, 120:340], (side, side)))
    faces = FaceDataset("crops", tuple(images), None, (), are_crops=True)
    with closing(create_detector()) as detector:
        assert not holds_photographs(faces, lambda: detector, CropRule())


def test_a_data_set_that_says_so_holds_photographs_and_arrays_do_not(astronaut_file: Path) -> None:
    def unused() -> None:
        raise AssertionError("nothing is to be detected")

    said = FaceDataset("legend", (astronaut_file,), None, (), are_crops=False)
    assert holds_photographs(said, unused, CropRule())
    assert not holds_photographs(FaceDataset("arrays", render_faces(3), None, (), True), unused, CropRule())


def test_one_detector_is_made_where_it_is_needed_and_closed(
    photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[object] = []
    closed: list[object] = []

    def create() -> Detector:
        detector = create_detector()
        made.append(detector)
        monkeypatch.setattr(detector, "close", lambda: closed.append(detector))
        return detector

    faces = load_dataset(photographs)
    assert faces.are_crops
    assert not recognised(faces, create, CropRule()).are_crops
    assert len(made) == 1
    assert closed == made
    assert recognised(FaceDataset("arrays", render_faces(3), None, (), True), create, CropRule()).are_crops
    assert len(made) == 1


def test_photographs_calibrate_cropped_and_copies_count_once(photographs: Path) -> None:
    found = split_faces(Sources(load_dataset(photographs), None), Counts(512, 0, 128), CropRule())
    assert found.summary["pictures"]["photographs"] == {
        "read": 5, "photographs": True, "no_face": 0, "flat": 0, "repeated": 4, "in_comparison": 0,
    }  # fmt: skip
    (face,) = found.calibrating
    assert max(face.shape[:2]) < 300
    with closing(create_detector()) as detector:
        assert detector.detect(cv2.copyMakeBorder(face, 60, 60, 60, 60, cv2.BORDER_REPLICATE))


def test_photographs_without_a_face_are_left_out_or_refused(tmp_path: Path, astronaut_file: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    rows = ["image,emotion"]
    for i in range(4):
        image = cv2.resize(rng.integers(0, 255, (30, 40, 3), np.uint8), (400, 300))
        cv2.imwrite(str(tmp_path / "images" / f"{i}.png"), image)
        rows.append(f"{i}.png,happiness")
    (tmp_path / "legend.csv").write_text("\n".join(rows))
    with pytest.raises(DataError, match="no face is found in the 4 photographs of"):
        split_faces(Sources(load_dataset(tmp_path), None), Counts(512, 0, 0), CropRule())
    (tmp_path / "images" / "a.png").write_bytes(astronaut_file.read_bytes())
    (tmp_path / "legend.csv").write_text("\n".join([*rows, "a.png,happiness"]))
    found = split_faces(Sources(None, load_dataset(tmp_path)), Counts(0, 0, 128), CropRule())
    assert found.summary["pictures"][tmp_path.name]["no_face"] == 4
    assert any("no face is found in 4 of 5 pictures" in text for text in found.warnings)
    assert len(found.comparing) == 16
    assert found.comparing.labels.any(axis=1).tolist() == [True] + [False] * 15


@pytest.mark.slow
def test_real_photographs_are_split_and_their_copies_count_once(shared: Path, tmp_path: Path) -> None:
    files = sorted((shared / "data/faces_in_context/images").glob("*.jpg"))[:60]
    for i, file in enumerate(files):
        image = cv2.imread(str(file))
        cv2.imwrite(str(tmp_path / f"{i:02}.png"), image)
        small = cv2.resize(image, None, fx=0.8, fy=0.8, interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(tmp_path / f"{i:02}.jpg"), small, [cv2.IMWRITE_JPEG_QUALITY, 70])
    dataset = FaceDataset("context", tuple(sorted(tmp_path.iterdir())), None, (), are_crops=False)
    found = split_faces(Sources(dataset, None), Counts(512, 64, 128), CropRule())
    account = found.summary["pictures"]["context"]
    assert account["read"] == 120
    assert abs(account["repeated"] - (120 - account["no_face"]) / 2) <= account["no_face"] / 2
    assert found.summary["overlap"] == 0

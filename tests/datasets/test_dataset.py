"""Operations of every data set: subsets, samples, fingerprints; and paths and options without a matching format."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from fer_edge.datasets import FaceDataset, load_dataset
from fer_edge.errors import DataError, UsageError


def write_image(path: Path, value: int = 128) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((12, 10, 3), value, np.uint8))
    return path


@pytest.mark.parametrize("kind", ["missing", "empty", "split", "text file"])
def test_paths_that_hold_no_data(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    if kind in ("empty", "split"):
        path.mkdir()
    elif kind == "text file":
        path.write_text("hello")
    with pytest.raises(DataError, match=kind):
        load_dataset(path, "Training" if kind == "split" else None)


def test_sample_is_repeatable_and_without_replacement() -> None:
    images = np.arange(10, dtype=np.uint8)[:, None, None]
    faces = FaceDataset("x", images, np.eye(10, dtype=np.float32), tuple("abcdefghij"), True)
    first = faces.sample(4)
    assert len({int(i[0, 0]) for i in first}) == len(first) == 4
    np.testing.assert_array_equal(first.images, faces.sample(4).images)
    assert first.targets.tolist() == [int(i[0, 0]) for i in first]
    assert [int(i[0, 0]) for i in faces.sample(4, seed=1)] != first.targets.tolist()
    assert len(faces.sample(99)) == 10


def test_fingerprint_follows_the_bytes(tmp_path: Path) -> None:
    faces = load_dataset(write_image(tmp_path / "a.png", 1).parent)
    before = faces.fingerprint()
    assert before == load_dataset(tmp_path).fingerprint()
    write_image(tmp_path / "a.png", 2)
    assert faces.fingerprint() != before


def test_a_subset_keeps_what_is_known_of_each_face(tmp_path: Path) -> None:
    paths = tuple(write_image(tmp_path / f"{i}.png", i) for i in range(4))
    faces = FaceDataset(
        "x",
        paths,
        np.eye(4, dtype=np.float32),
        tuple("abcd"),
        True,
        subjects=np.array(list("stuv")),
        landmarks=np.arange(4 * 68 * 2, dtype=np.float32).reshape(4, 68, 2),
        landmark_source="annotated",
        boxes_xyxy=np.array([[i, 0, i + 3, 5] for i in range(4)]),
        origins=tuple(f"line {i}" for i in range(4)),
    )
    part = faces.subset([3, 1])
    assert part.targets.tolist() == [3, 1]
    assert part.subjects is not None
    assert part.subjects.tolist() == ["v", "t"]
    assert part.landmarks is not None
    assert part.landmarks[:, 0, 0].tolist() == [3 * 136, 136]
    assert part.landmark_source == "annotated"
    assert part.origins == ("line 3", "line 1")
    assert [image.shape for image in part] == [(5, 3, 3)] * 2
    assert [int(image.max()) for image in part] == [3, 1]


def test_the_face_box_belongs_to_the_fingerprint(tmp_path: Path) -> None:
    image = (write_image(tmp_path / "a.png"),)
    pair = [
        FaceDataset("x", image, None, (), True, boxes_xyxy=np.array([[0, 0, side, side]])) for side in (3, 4)
    ]
    assert pair[0].fingerprint() != pair[1].fingerprint()


def test_a_face_box_outside_the_image_is_an_error_when_it_is_read(tmp_path: Path) -> None:
    faces = FaceDataset(
        "x",
        (write_image(tmp_path / "a.png"),),
        None,
        (),
        True,
        boxes_xyxy=np.array([[10, 0, 20, 5]]),
        origins=("list.csv, line 2",),
    )
    with pytest.raises(DataError, match=r"list\.csv, line 2: the face box .* lies outside .*10×12"):
        faces[0]


def test_an_option_that_does_not_fit_the_data_is_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "sad" / "a.png")
    with pytest.raises(UsageError, match="did you mean 'skip'"):
        load_dataset(tmp_path, on_bad_row="skp")
    with pytest.raises(UsageError, match="peak_frames is for the CK\\+ layout"):
        load_dataset(tmp_path, peak_frames=3)
    (tmp_path / "legend.csv").write_text("image,emotion\nsad/a.png,sad\n")
    with pytest.raises(UsageError, match="subjects_from_names is for image folders"):
        load_dataset(tmp_path, subjects_from_names=True)


def test_faces_of_two_kinds_follow_one_another(tmp_path: Path) -> None:
    files = (write_image(tmp_path / "a.png", 10), write_image(tmp_path / "b.png", 20))
    first = FaceDataset(
        "files",
        files,
        np.eye(2, dtype=np.float32),
        ("sad", "happy"),
        True,
        subjects=np.array(["x", "y"]),
        landmarks=np.ones((2, 68, 2), np.float32),
        boxes_xyxy=np.array([[0, 0, 5, 6], [1, 1, 4, 4]]),
        origins=("a:1", "a:2"),
    )
    second = FaceDataset("arrays", np.full((3, 7, 7), 30, np.uint8), None, (), True)
    both = first.followed_by(second, "five")
    assert (both.name, len(both), [int(face.flat[0]) for face in both]) == ("five", 5, [10, 20, 30, 30, 30])
    assert [face.shape[:2] for face in both] == [(6, 5), (3, 3), (7, 7), (7, 7), (7, 7)]
    assert both.labels is not None
    assert both.labels.sum(axis=1).tolist() == [1, 1, 0, 0, 0]
    assert both.landmarks is not None
    assert np.isnan(both.landmarks[2:]).all()
    assert [both.where(i) for i in (0, 3)] == ["a:1", "image 1 of arrays"]
    assert FaceDataset("files", files, None, (), True).where(1) == str(files[1])
    assert [int(face.flat[0]) for face in both.subset([3, 1])] == [30, 20]
    assert len(both.fingerprint()) == 64
    assert both.fingerprint() != both.subset([0, 1, 2, 3]).fingerprint()
    reverse = second.followed_by(first, "other way")
    assert [int(face.flat[0]) for face in reverse] == [30, 30, 30, 10, 20]


def test_a_box_beyond_the_image_is_cut_or_its_border_repeated(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), np.arange(30, dtype=np.uint8).reshape(5, 6))
    box = np.array([[-2, -1, 4, 9]])
    clipped = FaceDataset("x", (path,), None, (), True, boxes_xyxy=box)
    repeated = FaceDataset("x", (path,), None, (), True, boxes_xyxy=box, box_edge="replicate")
    expected = np.pad(np.arange(30).reshape(5, 6)[:, :4], ((1, 4), (2, 0)), mode="edge")
    assert clipped[0][..., 0].tolist() == np.arange(30).reshape(5, 6)[:, :4].tolist()
    assert repeated[0][..., 0].tolist() == expected.tolist()

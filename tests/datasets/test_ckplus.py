"""CK+: the published folders, built from a real photograph, and folds by subject."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from fer_edge.datasets import load_dataset, subject_folds
from fer_edge.errors import DataError, UsageError

ORDER = ("neutral", "anger", "contempt", "disgust", "fear", "happiness", "sadness", "surprise")
POINTS = np.array([[200.5 + i, 100 + 3 * i] for i in range(68)])


def write_sequence(
    root: Path,
    photo: np.ndarray,
    subject: str = "S005",
    label: str | None = "   3.0000000e+00\n",
    frames: int = 5,
) -> Path:
    """Write a sequence that gets brighter from frame to frame; return its label file."""
    images, emotions, landmarks = (
        root / part / subject / "001" for part in ("cohn-kanade-images", "Emotion", "Landmarks")
    )
    for folder in (images, emotions, landmarks):
        folder.mkdir(parents=True)
    stems = [f"{subject}_001_{i:08d}" for i in range(1, frames + 1)]
    for i, stem in enumerate(stems):
        cv2.imwrite(str(images / f"{stem}.png"), cv2.resize(photo, (64, 48)) // 2 + 20 * i)
        text = "".join(f"   {x:.7e}   {y:.7e}\n" for x, y in POINTS + i)
        (landmarks / f"{stem}_landmarks.txt").write_text(text)
    path = emotions / f"{stems[-1]}_emotion.txt"
    if label is not None:
        path.write_text(label)
    return path


def test_the_first_frame_is_neutral_and_the_last_has_the_label(tmp_path: Path, astronaut: np.ndarray) -> None:
    write_sequence(tmp_path, astronaut)
    (tmp_path / "cohn-kanade-images" / "S005" / ".DS_Store").write_bytes(b"\0")
    faces = load_dataset(tmp_path)
    assert faces.class_names == ORDER
    assert [faces.class_names[t] for t in faces.targets] == ["neutral", "disgust"]
    assert faces.subjects.tolist() == ["S005", "S005"]
    assert not faces.are_crops
    small = cv2.resize(astronaut, (64, 48)) // 2
    np.testing.assert_array_equal(faces[0], small)
    np.testing.assert_array_equal(faces[1], small + 80)
    np.testing.assert_allclose(faces.landmarks, [POINTS, POINTS + 4], rtol=1e-6)


def test_several_peak_frames_can_carry_the_label(tmp_path: Path, astronaut: np.ndarray) -> None:
    write_sequence(tmp_path, astronaut)
    faces = load_dataset(tmp_path, peak_frames=3)
    assert faces.targets.tolist() == [0, 3, 3, 3]
    assert [p.stem[-1] for p in faces.images] == ["1", "3", "4", "5"]
    with pytest.raises(UsageError, match="peak_frames must be a whole number from 1 .* found 0"):
        load_dataset(tmp_path, peak_frames=0)


@pytest.mark.parametrize("value", range(8))
def test_every_published_label(tmp_path: Path, astronaut: np.ndarray, value: int) -> None:
    write_sequence(tmp_path, astronaut, label=f"   {value:.7e}\n", frames=2)
    assert load_dataset(tmp_path).targets.tolist() == [0, value]


def test_sequences_without_a_label_are_counted_and_landmarks_may_be_absent(
    tmp_path: Path, astronaut: np.ndarray
) -> None:
    write_sequence(tmp_path, astronaut, "S005", frames=2)
    write_sequence(tmp_path, astronaut, "S010", label=None, frames=2)
    faces = load_dataset(tmp_path)
    assert faces.left_out == {"sequences without a label": 1}
    (tmp_path / "Landmarks").rename(tmp_path / "elsewhere")
    faces = load_dataset(tmp_path)
    assert faces.landmarks is None
    assert faces.landmark_source == ""


def test_archives_unpacked_into_their_own_names_are_found(tmp_path: Path, astronaut: np.ndarray) -> None:
    write_sequence(tmp_path, astronaut, frames=2)
    for name, archive in (("Emotion", "Emotion_labels"), ("Landmarks", "Landmarks")):
        (tmp_path / name).rename(tmp_path / "moved")
        (tmp_path / archive).mkdir()
        (tmp_path / "moved").rename(tmp_path / archive / name)
    faces = load_dataset(tmp_path / "cohn-kanade-images")
    assert faces.targets.tolist() == [0, 3]
    assert np.isfinite(faces.landmarks).all()


@pytest.mark.parametrize(
    ("label", "problem"),
    [
        ("", "expected 1 columns, found 0"),
        ("8.0", "expected one number from 0 to 7"),
        ("-1", "expected one number from 0 to 7"),
        ("3.5", "expected one number from 0 to 7"),
        ("nan", "expected one number from 0 to 7"),
        ("1e999", "expected one number from 0 to 7"),
        ("9" * 5000, "expected one number from 0 to 7"),
        ("happy", "expected one number from 0 to 7"),
        ("3.0\n4.0", "expected one number from 0 to 7"),
        ("3 4", "expected 1 columns, found 2"),
        ("\0", "expected one number from 0 to 7"),
    ],
)
def test_bad_labels_are_named_and_skipped_when_asked(
    tmp_path: Path, astronaut: np.ndarray, label: str, problem: str
) -> None:
    write_sequence(tmp_path, astronaut, "S001", frames=2)
    bad = write_sequence(tmp_path, astronaut, "S002", label, frames=2)
    with pytest.raises(DataError, match=problem) as caught:
        load_dataset(tmp_path)
    assert f"{bad}, line 1" in str(caught.value)
    faces = load_dataset(tmp_path, on_bad_row="skip")
    assert set(faces.subjects.tolist()) == {"S001"}
    assert faces.skipped.count == 1


def test_a_sequence_that_is_not_whole_is_an_error(tmp_path: Path, astronaut: np.ndarray) -> None:
    label = write_sequence(tmp_path, astronaut, frames=3)
    frames = sorted((tmp_path / "cohn-kanade-images" / "S005" / "001").iterdir())
    frames[-1].unlink()
    with pytest.raises(DataError, match=r"belongs to S005_001_00000003\.png, but .*00000002\.png"):
        load_dataset(tmp_path)
    frames[-2].unlink()
    with pytest.raises(DataError, match="has 1 frames"):
        load_dataset(tmp_path)
    label.with_name("other_emotion.txt").write_text("1")
    with pytest.raises(DataError, match="expected one label file, found 2"):
        load_dataset(tmp_path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("1 2\n", "expected 68 pixel positions, found 1 lines"),
        ("1 2\n" * 67 + "1 x\n", r"landmarks\.txt, line 68: expected x and y"),
        ("1 2\n" * 67 + "1 1e30\n", "expected 68 pixel positions"),
        ("1 2\n" * 3 + "1\n", r"landmarks\.txt, line 4: expected 2 columns, found 1"),
        ("", r"landmarks\.txt, line 1: expected 2 columns, found 0"),
    ],
)
def test_bad_landmarks_are_named(tmp_path: Path, astronaut: np.ndarray, content: str, problem: str) -> None:
    write_sequence(tmp_path, astronaut, frames=2)
    folder = tmp_path / "Landmarks" / "S005" / "001"
    (folder / "S005_001_00000002_landmarks.txt").write_text(content)
    with pytest.raises(DataError, match=problem):
        load_dataset(tmp_path)
    assert load_dataset(tmp_path, on_bad_row="skip").targets.tolist() == [0]


def test_labels_that_were_not_unpacked_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "cohn-kanade-images").mkdir()
    with pytest.raises(DataError, match="unpack the emotion labels"):
        load_dataset(tmp_path)


def test_no_subject_is_in_both_parts_of_a_fold(tmp_path: Path, astronaut: np.ndarray) -> None:
    for number in range(1, 7):
        write_sequence(tmp_path, astronaut, f"S{number:03d}", frames=2)
    faces = load_dataset(tmp_path)
    folds = subject_folds(faces, 3)
    assert [fold.subjects for fold in folds] == [("S001", "S002"), ("S003", "S004"), ("S005", "S006")]
    for fold in folds:
        assert set(faces.subset(fold.test).subjects.tolist()) == set(fold.subjects)
        assert not set(faces.subset(fold.train).subjects.tolist()) & set(fold.subjects)
    assert sorted(np.concatenate([fold.test for fold in folds]).tolist()) == list(range(12))

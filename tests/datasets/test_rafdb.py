"""RAF-DB: the authors' layout, built from a real photograph."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from fer_edge.datasets import load_dataset, training_split
from fer_edge.errors import DataError

LIST = "list_patition_label.txt"
ORDER = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")


@pytest.fixture
def face(astronaut: np.ndarray) -> np.ndarray:
    return cv2.resize(astronaut[40:220, 140:320], (100, 100))


def write_rafdb(
    root: Path, lines: list[str], face: np.ndarray, kinds: tuple[str, ...] = ("aligned",)
) -> Path:
    for kind in kinds:
        folder = root / "Image" / kind
        folder.mkdir(parents=True)
        for line in lines:
            stem = line.split(".")[0]
            name = f"{stem}.jpg" if kind == "original" else f"{stem}_aligned.jpg"
            cv2.imwrite(str(folder / name), face)
    (root / "EmoLabel").mkdir(parents=True)
    (root / "EmoLabel" / LIST).write_text("\n".join([*lines, ""]))
    return root


def test_labels_follow_the_published_order(tmp_path: Path, face: np.ndarray) -> None:
    lines = [f"train_0000{i}.jpg {i}" for i in range(1, 8)]
    faces = load_dataset(write_rafdb(tmp_path, lines, face))
    assert faces.class_names == ORDER
    assert faces.targets.tolist() == list(range(7))
    assert faces.are_crops
    assert np.abs(faces[0].astype(int) - face).mean() < 10  # JPEG


@pytest.mark.parametrize(("split", "targets"), [("train", [4]), ("test", [0, 6]), (None, [4, 0, 6])])
def test_splits_come_from_the_file_names(
    tmp_path: Path, face: np.ndarray, split: str | None, targets: list[int]
) -> None:
    lines = ["train_00001.jpg 5", "test_0001.jpg 1", "test_0002.jpg 7"]
    assert load_dataset(write_rafdb(tmp_path, lines, face), split).targets.tolist() == targets


def test_the_part_to_train_on_leaves_the_test_faces_out(tmp_path: Path, face: np.ndarray) -> None:
    root = write_rafdb(tmp_path, ["train_00001.jpg 5", "test_0001.jpg 1"], face)
    assert load_dataset(root, training_split(root)).targets.tolist() == [4]


@pytest.mark.parametrize("place", [".", "EmoLabel", f"EmoLabel/{LIST}"])
def test_the_list_its_folder_and_the_root_are_recognised(
    tmp_path: Path, face: np.ndarray, place: str
) -> None:
    root = write_rafdb(tmp_path / "basic", ["train_00001.jpg 5"], face)
    assert len(load_dataset(root / place)) == 1
    assert len(load_dataset(tmp_path)) == 1


@pytest.mark.parametrize(
    ("kinds", "are_crops"), [(("original",), False), (("aligned",), True), (("original", "aligned"), True)]
)
def test_aligned_faces_are_preferred_to_photographs(
    tmp_path: Path, face: np.ndarray, kinds: tuple[str, ...], are_crops: bool
) -> None:
    faces = load_dataset(write_rafdb(tmp_path, ["train_00001.jpg 5"], face, kinds))
    assert faces.are_crops is are_crops
    assert faces.images[0].name == ("train_00001_aligned.jpg" if are_crops else "train_00001.jpg")


BAD = [
    ("train_00002.jpg 0", "class from 1 to 7"),
    ("train_00002.jpg 8", "class from 1 to 7"),
    ("train_00002.jpg " + "9" * 5000, "class from 1 to 7"),
    ("train_00002.jpg five", "class from 1 to 7"),
    ("train_00002.jpg", "expected 2 columns, found 1"),
    ("train_00002.jpg 5 5", "expected 2 columns, found 3"),
    ("", "expected 2 columns, found 0"),
    ("val_00002.jpg 5", "expected train_… or test_…"),
    ("train_00009.jpg 5", "does not exist"),
    ("train_/../../../EmoLabel/x.jpg 5", "lies outside"),
    ("train_" + "x" * 400 + ".jpg 5", "is not a file name"),
    ("train_\0.jpg 5", "is not a file name"),
]


@pytest.mark.parametrize(("line", "problem"), BAD)
def test_bad_rows_are_named_by_line(tmp_path: Path, face: np.ndarray, line: str, problem: str) -> None:
    root = write_rafdb(tmp_path, ["train_00001.jpg 5"], face)
    (root / "EmoLabel" / LIST).write_text(f"train_00001.jpg 5\n{line}\ntrain_00001.jpg 5\n")
    with pytest.raises(DataError, match=problem) as caught:
        load_dataset(root)
    assert f"{LIST}, line 2" in str(caught.value)


def test_all_bad_rows_are_skipped_when_asked(tmp_path: Path, face: np.ndarray) -> None:
    root = write_rafdb(tmp_path, ["train_00001.jpg 5"], face)
    (root / "Image" / "aligned" / "train_00003_aligned.jpg").write_bytes(b"\xff\xd8 no image")
    lines = ["train_00001.jpg 5", *(line for line, _ in BAD), "train_00003.jpg 1"]
    (root / "EmoLabel" / LIST).write_bytes("\n".join(lines).encode() + b"\ntrain_\xff.jpg 5\n")
    faces = load_dataset(root, on_bad_row="skip")
    assert faces.targets.tolist() == [4]
    assert faces.skipped.count == len(BAD) + 2
    assert [problem in text for (_, problem), text in zip(BAD, faces.skipped.first, strict=False)] == [
        True
    ] * 12
    assert f"line {len(BAD) + 3}: not UTF-8 text" in faces.skipped.first[-2]
    assert f"line {len(BAD) + 2}" in faces.skipped.first[-1]
    assert "is not an image" in faces.skipped.first[-1]


def test_missing_images_and_unknown_splits_say_what_is_there(tmp_path: Path, face: np.ndarray) -> None:
    root = write_rafdb(tmp_path, ["train_00001.jpg 5"], face)
    with pytest.raises(DataError, match=r"Fix: choose from test, train \(did you mean 'train'"):
        load_dataset(root, "Train")
    with pytest.raises(DataError, match="no usable row"):
        load_dataset(root, "test")
    (root / "Image").rename(root / "Bilder")
    with pytest.raises(DataError, match="expected Image/aligned or Image/original"):
        load_dataset(root)

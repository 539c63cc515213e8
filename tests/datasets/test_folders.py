"""Legends, class folders, and folders of images without classes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from fer_edge.datasets import load_dataset
from fer_edge.errors import DataError


def write_image(path: Path, value: int = 128) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((12, 10, 3), value, np.uint8))
    return path


@pytest.mark.parametrize("with_images_folder", [True, False])
def test_legend(tmp_path: Path, with_images_folder: bool) -> None:
    root = tmp_path / "images" if with_images_folder else tmp_path
    for name, value in (("a.png", 10), ("b.png", 20)):
        write_image(root / name, value)
    (tmp_path / "legend.csv").write_text("image,emotion\nb.png,Sad\na.png,happiness\n")
    faces = load_dataset(tmp_path)
    assert not faces.are_crops
    assert faces.class_names == ("happiness", "sadness")
    assert faces.targets.tolist() == [1, 0]
    assert [int(image.mean()) for image in faces] == [20, 10]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("../../secret.png,sad", "lies outside"),
        ("/etc/hostname,sad", "lies outside"),
        ("link.png,sad", "lies outside"),
        ("loop.png,sad", "is not a file name|does not exist"),
        ("none.png,sad", "does not exist"),
        (",sad", "does not exist"),
        ("x" * 400 + ".png,sad", "is not a file name"),
        ("a.png,bored", "unknown expression 'bored'"),
        ("a.png,", "unknown expression ''"),
        ("a.png", "expected 2 columns, found 1"),
    ],
)
def test_bad_legend_rows_are_named_by_line(tmp_path: Path, row: str, problem: str) -> None:
    folder = tmp_path / "data"
    write_image(tmp_path / "secret.png")
    write_image(folder / "images" / "a.png")
    (folder / "images" / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "images" / "loop.png").symlink_to("loop.png")
    (folder / "legend.csv").write_text(f"image,emotion\na.png,sad\n{row}\n")
    with pytest.raises(DataError, match=problem) as caught:
        load_dataset(folder)
    assert "legend.csv, line 3" in str(caught.value)


def test_legend_with_nul(tmp_path: Path) -> None:
    (tmp_path / "legend.csv").write_bytes(b"image,emotion\na\0.png,sad\n")
    with pytest.raises(DataError, match=r"legend\.csv"):
        load_dataset(tmp_path)


def test_class_folders(tmp_path: Path) -> None:
    for name in ("surprised/b.png", "surprised/a.png", "angry/c.jpg"):
        write_image(tmp_path / name)
    (tmp_path / "empty").mkdir()
    (tmp_path / "angry" / "notes.txt").write_text("no image")
    faces = load_dataset(tmp_path)
    assert faces.class_names == ("surprise", "anger")
    assert [faces.class_names[t] for t in faces.targets] == ["anger", "surprise", "surprise"]
    assert faces.labels is not None
    assert faces.labels.sum(axis=1).tolist() == [1, 1, 1]
    assert faces.are_crops


def test_unknown_class_folder_is_named(tmp_path: Path) -> None:
    write_image(tmp_path / "thumbnails" / "a.png")
    with pytest.raises(DataError, match="thumbnails: unknown expression 'thumbnails'"):
        load_dataset(tmp_path)


def test_flat_folder_has_no_labels(tmp_path: Path) -> None:
    for name in ("b.png", "a.PNG"):
        write_image(tmp_path / name)
    faces = load_dataset(tmp_path)
    assert [p.name for p in faces.images] == ["a.PNG", "b.png"]
    with pytest.raises(DataError, match="has no labels"):
        _ = faces.targets


def test_faces_in_context(shared: Path) -> None:
    folder = shared / "data" / "faces_in_context"
    faces = load_dataset(folder)
    assert len(faces) == 208
    lines = (folder / "legend.csv").read_text().split()[1:]
    named = {"happy": "happiness", "angry": "anger", "sad": "sadness"}
    expected = Counter(named.get(e.lower(), e.lower()) for e in (line.split(",")[1] for line in lines))
    assert Counter(faces.class_names[t] for t in faces.targets) == expected


def test_bad_legend_rows_are_skipped_when_asked(tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "a.png")
    (tmp_path / "images" / "broken.png").write_bytes(b"no image")
    (tmp_path / "legend.csv").write_text(
        "image,emotion\nnone.png,sad\na.png,bored\na.png,sad\nbroken.png,fear\n../legend.csv,sad\n"
    )
    faces = load_dataset(tmp_path, on_bad_row="skip")
    assert faces.class_names[int(faces.targets[0])] == "sadness"
    assert len(faces) == 1
    assert faces.skipped.count == 4
    assert [text.split("legend.csv, line ")[1][0] for text in faces.skipped.first] == ["2", "3", "6", "5"]


def test_an_image_that_cannot_be_decoded_is_named_by_line_when_it_is_read(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    (tmp_path / "legend.csv").write_text("image,emotion\na.png,sad\nbroken.png,fear\n")
    faces = load_dataset(tmp_path)
    assert faces[0].shape == (12, 10, 3)
    with pytest.raises(DataError, match=r"legend\.csv, line 3: .*broken\.png is not an image"):
        faces[1]


def test_only_the_first_twenty_skipped_rows_are_listed(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    (tmp_path / "legend.csv").write_text("image,emotion\na.png,sad\n" + "a.png,bored\n" * 30)
    faces = load_dataset(tmp_path, on_bad_row="skip")
    assert faces.skipped.count == 30
    assert len(faces.skipped.first) == 20


def test_nothing_left_is_an_error_that_shows_the_first_problem(tmp_path: Path) -> None:
    (tmp_path / "legend.csv").write_text("image,emotion\nnone.png,sad\n")
    with pytest.raises(
        DataError, match=r"no usable row, 1 are bad, the first .*line 2: .*none\.png does not exist"
    ):
        load_dataset(tmp_path, on_bad_row="skip")


def test_unknown_class_folders_and_broken_images_are_skipped_when_asked(tmp_path: Path) -> None:
    write_image(tmp_path / "thumbnails" / "a.png")
    write_image(tmp_path / "sad" / "b.png")
    (tmp_path / "sad" / "c.png").write_bytes(b"")
    faces = load_dataset(tmp_path, on_bad_row="skip")
    assert [p.name for p in faces.images] == ["b.png"]
    assert [("thumbnails" in text, "c.png" in text) for text in faces.skipped.first] == [
        (True, False),
        (False, True),
    ]


def test_subjects_come_from_file_names_only_when_asked(tmp_path: Path) -> None:
    for name in ("sad/07_a.png", "sad/12_b_c.png", "happy/07_d.png"):
        write_image(tmp_path / name)
    assert load_dataset(tmp_path).subjects is None
    faces = load_dataset(tmp_path, subjects_from_names=True)
    assert faces.subjects is not None
    assert faces.subjects.tolist() == ["07", "07", "12"]
    write_image(tmp_path / "sad" / "nobody.png")
    with pytest.raises(DataError, match=r"nobody\.png: expected SUBJECT_anything\.png"):
        load_dataset(tmp_path, subjects_from_names=True)


@pytest.mark.parametrize("extra", ["other/happy/2.png", "2020/more/happy/2.png", "2.png"])
def test_pictures_beside_a_wrapped_data_set_are_not_lost(tmp_path: Path, extra: str) -> None:
    for name in ("archive/train/happy/1.png", "archive/test/sad/1.png", extra):
        write_image(tmp_path / name)
    with pytest.raises(DataError, match="and pictures elsewhere|several folders"):
        load_dataset(tmp_path)

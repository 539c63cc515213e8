"""AffectNet: the published CSV lists and the later arrays, built from a real photograph."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest

from fer_edge.datasets import load_dataset, training_split
from fer_edge.errors import DataError

HEADER = (
    "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal"
)
ORDER = ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt")
POINTS = np.array([[150.5 + i, 60 + 2 * i] for i in range(68)])
LANDMARKS = ";".join(f"{v:.2f}" for v in POINTS.reshape(-1))


def row(
    name: str = "103/a.png", box: str = "140,40,180,190", points: str = LANDMARKS, code: object = 1
) -> str:
    return f"{name},{box},{points},{code},0.5,-0.25"


def write_lists(root: Path, astronaut: np.ndarray, **lists: list[str]) -> Path:
    images = root / "Manually_Annotated" / "Manually_Annotated_Images" / "103"
    images.mkdir(parents=True)
    cv2.imwrite(str(images / "a.png"), astronaut)
    folder = root / "Manually_Annotated_file_lists"
    folder.mkdir()
    for name, rows in lists.items():
        (folder / f"{name}.csv").write_text("\n".join([HEADER, *rows, ""]))
    return root


def test_faces_are_cut_by_their_box_and_landmarks_move_with_them(
    tmp_path: Path, astronaut: np.ndarray
) -> None:
    faces = load_dataset(write_lists(tmp_path, astronaut, training=[row()]))
    np.testing.assert_array_equal(faces[0], astronaut[40:230, 140:320])
    assert faces.are_crops
    assert faces.landmark_source == "annotated"
    np.testing.assert_allclose(faces.landmarks[0], POINTS - [140, 40], atol=1e-5)


def test_the_part_to_train_on_is_the_training_list_or_the_list_that_is_named(
    tmp_path: Path, astronaut: np.ndarray
) -> None:
    root = write_lists(tmp_path, astronaut, training=[row(code=2)], validation=[row(code=3)])
    lists = root / "Manually_Annotated_file_lists"
    for path, target in ((root, 2), (lists, 2), (lists / "validation.csv", 3)):
        assert load_dataset(path, training_split(path)).targets.tolist() == [target]


def test_the_part_to_train_on_of_arrays(tmp_path: Path, astronaut: np.ndarray) -> None:
    write_arrays(tmp_path / "train_set", astronaut, {"1": "6"})
    write_arrays(tmp_path / "val_set", astronaut, {"1": "7"})
    assert load_dataset(tmp_path, training_split(tmp_path)).targets.tolist() == [6]
    assert training_split(tmp_path / "train_set") is None


@pytest.mark.parametrize(
    ("box", "part", "shift"),
    [
        ("-20,-30,100,100", (slice(0, 70), slice(0, 80)), (0, 0)),
        ("450,460,200,300", (slice(460, 512), slice(450, 512)), (450, 460)),
    ],
)
def test_a_box_that_leaves_the_photograph_is_cut_to_it(
    tmp_path: Path,
    astronaut: np.ndarray,
    box: str,
    part: tuple[slice, slice],
    shift: tuple[int, int],
) -> None:
    faces = load_dataset(write_lists(tmp_path, astronaut, training=[row(box=box)]))
    np.testing.assert_array_equal(faces[0], astronaut[part])
    np.testing.assert_allclose(faces.landmarks[0], POINTS - shift, atol=1e-5)


def test_classes_follow_the_published_order_and_no_expression_is_left_out(
    tmp_path: Path, astronaut: np.ndarray
) -> None:
    rows = [row(code=i) for i in range(8)] + [
        row("no.png", "NULL,NULL,NULL,NULL", "NULL", c) for c in (8, 9, 9, 10)
    ]
    faces = load_dataset(write_lists(tmp_path, astronaut[:300, :330], training=rows))
    assert faces.class_names == ORDER
    assert faces.targets.tolist() == list(range(8))
    assert faces.left_out == {"no expression of the eight": 1, "uncertain": 2, "no face": 1}
    assert faces.skipped.count == 0


def test_splits_are_the_two_lists(tmp_path: Path, astronaut: np.ndarray) -> None:
    root = write_lists(tmp_path, astronaut, training=[row(code=1), row(code=2)], validation=[row(code=6)])
    assert load_dataset(root).targets.tolist() == [1, 2, 6]
    assert load_dataset(root, "training").targets.tolist() == [1, 2]
    assert load_dataset(root, "validation").name == "AffectNet validation"
    assert load_dataset(root / "Manually_Annotated_file_lists" / "validation.csv").targets.tolist() == [6]
    with pytest.raises(DataError, match=r"Fix: choose from training, validation \(did you mean 'training'"):
        load_dataset(root, "Training")


def test_the_images_may_lie_beside_the_list(tmp_path: Path, astronaut: np.ndarray) -> None:
    (tmp_path / "training.csv").write_text(f"{HEADER}\n{row('a.png')}\n")
    cv2.imwrite(str(tmp_path / "a.png"), astronaut)
    assert load_dataset(tmp_path)[0].shape == (190, 180, 3)


@pytest.mark.parametrize("points", ["", "NULL"])
def test_absent_landmarks_are_nan(tmp_path: Path, astronaut: np.ndarray, points: str) -> None:
    faces = load_dataset(write_lists(tmp_path, astronaut, training=[row(points=points), row()]))
    assert np.isnan(faces.landmarks[0]).all()
    assert np.isfinite(faces.landmarks[1]).all()


BAD = [
    (row("103/none.png"), "does not exist"),
    (row("../../../secret.png"), "lies outside"),
    (row("/etc/hostname"), "lies outside"),
    (row("a\0b.png"), "is not a file name"),
    (row(""), "does not exist"),
    (row(code=11), "expression from 0 to 10"),
    (row(code="happy"), "expression from 0 to 10"),
    (row(code=""), "expression from 0 to 10"),
    (row(code="9" * 5000), "expression from 0 to 10"),
    (row(box="140,40,0,190"), "contains no pixel"),
    (row(box="-300,40,180,190"), "contains no pixel"),
    (row(box="140,40,180," + "9" * 40), "face box in whole pixels"),
    (row(box="140,40,NaN,190"), "face box in whole pixels"),
    (row(points="1;2;3"), "found 3 values"),
    (row(points=LANDMARKS + "x"), "landmarks are not numbers"),
    (row(points=LANDMARKS.replace("150.50", "nan")), "not pixel positions"),
    (row(points=LANDMARKS.replace("150.50", "1e300")), "not pixel positions"),
    (row() + ",1", "expected 9 columns, found 10"),
    ("103/a.png", "expected 9 columns, found 1"),
]


@pytest.mark.parametrize(("line", "problem"), BAD)
def test_bad_rows_are_named_by_line(tmp_path: Path, astronaut: np.ndarray, line: str, problem: str) -> None:
    root = write_lists(tmp_path, astronaut[:300, :300], training=[row(), line])
    with pytest.raises(DataError, match=problem) as caught:
        load_dataset(root)
    assert "training.csv, line 3" in str(caught.value)


def test_all_bad_rows_are_skipped_when_asked(tmp_path: Path, astronaut: np.ndarray) -> None:
    outside = row(box="600,40,180,190")  # only the image shows that it is bad
    root = write_lists(
        tmp_path, astronaut, training=[row(), *(line for line, _ in BAD), outside, row(code=7)]
    )
    faces = load_dataset(root, on_bad_row="skip")
    assert faces.targets.tolist() == [1, 7]
    assert faces.skipped.count == len(BAD) + 1
    problems = [*(problem for _, problem in BAD), "lies outside"]
    assert all(p in text for p, text in zip(problems, faces.skipped.first, strict=True))
    assert len(faces.landmarks) == len(faces.boxes_xyxy) == len(faces.origins) == 2


def write_arrays(folder: Path, astronaut: np.ndarray, codes: dict[str, object]) -> Path:
    (folder / "annotations").mkdir(parents=True)
    (folder / "images").mkdir()
    for name, code in codes.items():
        cv2.imwrite(str(folder / "images" / f"{name}.png"), astronaut[40:264, 140:364])
        np.save(folder / "annotations" / f"{name}_exp.npy", np.array(code))
        np.save(folder / "annotations" / f"{name}_lnd.npy", POINTS.reshape(-1))
    return folder


def test_arrays_of_text_and_numbers_are_read(tmp_path: Path, astronaut: np.ndarray) -> None:
    write_arrays(tmp_path / "train_set", astronaut, {"1": "6", "2": 3, "3": 2.0, "4": "8"})
    write_arrays(tmp_path / "val_set", astronaut, {"1": "7"})
    (tmp_path / "train_set" / "annotations" / "2_lnd.npy").unlink()
    faces = load_dataset(tmp_path)
    assert faces.targets.tolist() == [6, 3, 2, 7]
    assert faces.left_out == {"no expression of the eight": 1}
    np.testing.assert_allclose(faces.landmarks[0], POINTS, atol=1e-4)
    assert np.isnan(faces.landmarks[1]).all()
    assert load_dataset(tmp_path, "validation").targets.tolist() == [7]
    assert load_dataset(tmp_path / "train_set").targets.tolist() == [6, 3, 2]
    with pytest.raises(DataError, match="Fix: choose from training, validation"):
        load_dataset(tmp_path, "test")


def array_claiming(shape: str) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((136,)))
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return buffer.getvalue()[:10] + header[:118] + bytes(64)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("2_exp.npy", b""),
        ("2_exp.npy", b"text"),
        ("2_exp.npy", b"PK\x03\x04 no archive"),
        ("2_exp.npy", bytes(1 << 17)),
        ("2_exp.npy", np.array(["12"])),
        ("2_exp.npy", np.array([1, 2])),
        ("2_exp.npy", np.array([{"code": 1}], object)),
        ("2_lnd.npy", array_claiming("(1000000000000000,)")),
        ("2_lnd.npy", np.zeros(5)),
        ("2_lnd.npy", np.full(136, np.inf)),
        ("2_lnd.npy", np.full(136, "x")),
    ],
)
def test_bad_arrays_are_named_and_skipped_when_asked(
    tmp_path: Path, astronaut: np.ndarray, name: str, content: bytes | np.ndarray
) -> None:
    folder = write_arrays(tmp_path, astronaut, {"1": "6", "2": "1"})
    path = folder / "annotations" / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content, allow_pickle=True)
    with pytest.raises(DataError, match=r"2_exp\.npy"):
        load_dataset(folder)
    faces = load_dataset(folder, on_bad_row="skip")
    assert faces.targets.tolist() == [6]
    assert faces.skipped.count == 1


def test_an_array_without_its_image_is_named(tmp_path: Path, astronaut: np.ndarray) -> None:
    folder = write_arrays(tmp_path, astronaut, {"1": "6", "2": "1"})
    (folder / "images" / "2.png").unlink()
    with pytest.raises(DataError, match=r"2_exp\.npy: .* has no image '2'"):
        load_dataset(folder)

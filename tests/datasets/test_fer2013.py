"""FER2013 with FER+ votes, and files that are damaged or hostile."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from fer_edge.datasets import load_dataset, training_split
from fer_edge.errors import DataError
from fer_edge.labels import FER2013, FERPLUS

HEADER = "emotion,pixels,Usage"
VOTES_HEADER = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
PIXELS = " ".join(str(i % 256) for i in range(2304))


def write_fer2013(folder: Path, rows: list[str], name: str = "fer2013.csv", header: str = HEADER) -> Path:
    path = folder / name
    data = "\n".join([header, *rows, ""]).encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def write_votes(folder: Path, rows: list[str], header: str = VOTES_HEADER) -> None:
    (folder / "fer2013new.csv").write_text("\n".join([header, *rows, ""]))


@pytest.mark.parametrize("name", ["fer2013.csv", "fer2013.csv.gz"])
def test_fer2013_rows_become_images_and_classes(tmp_path: Path, name: str) -> None:
    path = write_fer2013(tmp_path, [f"3,{PIXELS},Training", f"6,{PIXELS},PublicTest"], name)
    faces = load_dataset(path)
    assert faces.class_names == FER2013
    assert faces.are_crops
    assert faces.targets.tolist() == [3, 6]
    assert faces[0].dtype == np.uint8
    np.testing.assert_array_equal(faces[0], (np.arange(2304) % 256).reshape(48, 48))


def test_a_split_keeps_its_rows(tmp_path: Path) -> None:
    rows = [f"{i},{PIXELS},{u}" for i, u in enumerate(["Training", "PublicTest", "Training"])]
    faces = load_dataset(write_fer2013(tmp_path, rows), "Training")
    assert faces.targets.tolist() == [0, 2]
    assert faces.name == "FER2013 Training"


@pytest.mark.parametrize("name", ["fer2013.csv", "fer2013.csv.gz"])
@pytest.mark.parametrize("as_folder", [False, True])
def test_the_part_to_train_on_leaves_the_test_rows_out(tmp_path: Path, name: str, as_folder: bool) -> None:
    rows = [f"{i},{PIXELS},{u}" for i, u in enumerate(["Training", "PublicTest", "PrivateTest"])]
    path = write_fer2013(tmp_path, rows, name)
    path = tmp_path if as_folder else path.rename(tmp_path / f"renamed-{name}")
    assert load_dataset(path, training_split(path)).targets.tolist() == [0]


@pytest.mark.parametrize(
    ("votes", "expected"),
    [
        ((10, 0, 0, 0, 0, 0, 0, 0, 0, 0), (1, 0, 0, 0, 0, 0, 0, 0)),
        ((6, 3, 1, 0, 0, 0, 0, 0, 0, 0), (6 / 9, 3 / 9, 0, 0, 0, 0, 0, 0)),  # a single vote is dropped
        ((4, 0, 0, 2, 0, 0, 0, 1, 3, 0), (4 / 6, 0, 0, 2 / 6, 0, 0, 0, 0)),  # unknown is no class
        ((5, 0, 0, 0, 0, 0, 0, 0, 5, 0), (1, 0, 0, 0, 0, 0, 0, 0)),  # of equals the first
        ((4, 0, 0, 0, 0, 0, 0, 0, 6, 0), None),  # mostly unknown
        ((0, 2, 0, 0, 0, 0, 0, 0, 0, 8), None),  # mostly no face
        ((1, 1, 1, 1, 1, 1, 1, 1, 1, 1), None),  # nothing is left
    ],
)
def test_ferplus_rule(tmp_path: Path, votes: tuple[int, ...], expected: tuple[float, ...] | None) -> None:
    path = write_fer2013(tmp_path, [f"0,{PIXELS},Training", f"1,{PIXELS},Training"])
    write_votes(tmp_path, ["Training,a.png," + ",".join(map(str, votes)), "Training,,0,9,0,0,0,0,0,0,1,0"])
    faces = load_dataset(path)
    assert faces.class_names == FERPLUS
    assert faces.labels is not None
    assert len(faces.images) == len(faces.labels) == 1 + (expected is not None)
    if expected is not None:
        np.testing.assert_allclose(faces.labels[0], expected, atol=1e-7)
    assert faces.targets[-1] == 1


@pytest.mark.parametrize(("labels", "names"), [("auto", FERPLUS), ("ferplus", FERPLUS), ("fer2013", FER2013)])
def test_choice_of_labels(tmp_path: Path, labels: str, names: tuple[str, ...]) -> None:
    path = write_fer2013(tmp_path, [f"4,{PIXELS},Training"])
    write_votes(tmp_path, ["Training,a.png,0,0,0,8,2,0,0,0,0,0"])
    faces = load_dataset(path, labels=labels)
    assert faces.class_names == names
    assert names[faces.targets[0]] in ("sad", "sadness")


def test_labels_that_cannot_be_had(tmp_path: Path) -> None:
    path = write_fer2013(tmp_path, [f"4,{PIXELS},Training"])
    with pytest.raises(DataError, match=r"fer2013new\.csv is missing"):
        load_dataset(path, labels="ferplus")
    with pytest.raises(DataError, match="did you mean 'ferplus'"):
        load_dataset(path, labels="ferplu")


def test_unknown_split_names_those_that_exist(tmp_path: Path) -> None:
    path = write_fer2013(tmp_path, [f"4,{PIXELS},PublicTest"])
    with pytest.raises(DataError, match=r"Fix: choose from PublicTest \(did you mean 'PublicTest'"):
        load_dataset(path, "PublicTests")


def test_no_row_left_by_the_votes(tmp_path: Path) -> None:
    path = write_fer2013(tmp_path, [f"4,{PIXELS},Training"])
    write_votes(tmp_path, ["Training,a.png,0,0,0,0,0,0,0,0,10,0"])
    with pytest.raises(DataError, match="no usable row"):
        load_dataset(path)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("0,1 2 3,Training", "expected 2304 pixels"),
        (f"0,{PIXELS} 7,Training", "found 2305 values"),
        (f"0,{PIXELS[:-2]}256,Training", "pixels from 0 to 255"),
        (f"0,{PIXELS[:-3]} -1,Training", "expected 2304 pixels"),
        ("0," + "9" * 30 + " 1" * 2303 + ",Training", "pixels from 0 to 255"),
        (f"0,{PIXELS[:-2]}x,Training", "not whole numbers"),
        (f"0,{PIXELS[:-2]}1.5,Training", "not whole numbers"),
        ("0,,Training", "found 0 values"),
        (f"7,{PIXELS},Training", "class from 0 to 6"),
        (f"-1,{PIXELS},Training", "class from 0 to 6"),
        (f"²,{PIXELS},Training", "class from 0 to 6"),
        (f"{'9' * 5000},{PIXELS},Training", "class from 0 to 6"),
        (f"happy,{PIXELS},Training", "class from 0 to 6"),
        (f"0,{PIXELS}", "expected 3 columns, found 2"),
    ],
)
def test_bad_rows_are_named_by_line(tmp_path: Path, row: str, problem: str) -> None:
    path = write_fer2013(tmp_path, [f"0,{PIXELS},Training", row])
    with pytest.raises(DataError, match=problem) as caught:
        load_dataset(path)
    assert f"{path}, line 3" in str(caught.value)


@pytest.mark.parametrize(
    ("votes", "where", "problem"),
    [
        (["Training,a,9,0,0,0,0,0,0,0,1,0"], "", "has 1 rows, fer2013.csv has 2"),
        (["Training,a,9,0,0,0,0,0,0,0,1,0"] * 3, "", "has 3 rows, fer2013.csv has 2"),
        (["PublicTest,a,9,0,0,0,0,0,0,0,1,0"] * 2, ", line 2", "does not match"),
        (["Training,a,9,0,0,0,0,0,0,0,-1,0"] * 2, ", line 2", "not whole numbers"),
        (["Training,a,²,0,0,0,0,0,0,0,1,0"] * 2, ", line 2", "not whole numbers"),
        (["Training,a," + "9" * 400 + ",0,0,0,0,0,0,0,1,0"] * 2, ", line 2", "not whole numbers"),
        (["Training,a,9"] * 2, ", line 2", "expected 12 columns"),
    ],
)
def test_bad_votes_are_named(tmp_path: Path, votes: list[str], where: str, problem: str) -> None:
    path = write_fer2013(tmp_path, [f"0,{PIXELS},Training"] * 2)
    write_votes(tmp_path, votes)
    with pytest.raises(DataError, match=problem) as caught:
        load_dataset(path)
    assert f"fer2013new.csv{where}" in str(caught.value)


def test_wrong_header(tmp_path: Path) -> None:
    path = write_fer2013(tmp_path, [], header="label,pixels")
    with pytest.raises(DataError, match="line 1: expected the columns emotion,pixels,Usage"):
        load_dataset(path)


@pytest.mark.parametrize("content", [b"", HEADER.encode() + b"\n"])
def test_no_rows(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "fer2013.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"fer2013\.csv"):
        load_dataset(path)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "not gzip"])
def test_damaged_gzip(tmp_path: Path, damage: str) -> None:
    rng = np.random.default_rng(0)
    rows = [f"0,{' '.join(map(str, rng.integers(0, 256, 2304)))},Training" for _ in range(20)]
    path = write_fer2013(tmp_path, rows, "fer2013.csv.gz")
    data = bytearray(path.read_bytes())
    if damage == "truncated":
        data = data[: len(data) // 2]
    elif damage == "flipped":
        data[-6] ^= 0xFF  # in the checksum
    else:
        data = bytearray(b"plain text")
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"fer2013\.csv\.gz cannot be read beyond line \d+"):
        load_dataset(path)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "fer2013.csv"
    path.write_bytes(HEADER.encode() + b"\n0,\xff\xfe\x00,Training\n")
    with pytest.raises(DataError, match="line 2: not UTF-8 text"):
        load_dataset(path)


def test_a_field_without_end(tmp_path: Path) -> None:
    path = write_fer2013(tmp_path, ['0,"' + "1 " * 200_000])
    with pytest.raises(DataError, match="line 2: field larger than field limit"):
        load_dataset(path)


@pytest.mark.slow
@pytest.mark.parametrize(("split", "count"), [("PublicTest", 3553), ("Training", 28389)])
def test_ferplus_counts(shared: Path, split: str, count: int) -> None:
    faces = load_dataset(shared / "data" / "fer2013" / "fer2013.csv.gz", split)
    assert len(faces) == count
    assert faces.labels is not None
    np.testing.assert_allclose(faces.labels.sum(axis=1), 1, atol=1e-6)


def test_the_folder_of_the_csv_is_recognised(tmp_path: Path) -> None:
    write_fer2013(tmp_path, [f"3,{PIXELS},Training"], "fer2013.csv.gz")
    write_votes(tmp_path, ["Training,a.png,0,8,0,0,0,0,0,0,0,0"])
    assert load_dataset(tmp_path).class_names == FERPLUS


def test_bad_rows_are_skipped_and_listed_when_asked(tmp_path: Path) -> None:
    rows = [
        f"0,{PIXELS},Training",
        f"9,{PIXELS},Training",
        f"1,{PIXELS}",
        "2,1 2 3,Training",
        f"3,{PIXELS},Training",
    ]
    faces = load_dataset(write_fer2013(tmp_path, rows), on_bad_row="skip")
    assert faces.targets.tolist() == [0, 3]
    assert faces.skipped.count == 3
    where = tmp_path / "fer2013.csv"
    assert [text.partition(": ")[0] for text in faces.skipped.first] == [
        f"{where}, line {n}" for n in (3, 4, 5)
    ]


def test_votes_stay_with_their_image_when_rows_are_skipped(tmp_path: Path) -> None:
    path = write_fer2013(tmp_path, [f"{label},{PIXELS},Training" for label in (0, 9, 0, 0)])
    votes = ("8,0,0,0,0,0,0,0,0,0", "0,8,0,0,0,0,0,0,0,0", "x,0,8,0,0,0,0,0,0,0", "0,0,0,8,0,0,0,0,0,0")
    write_votes(tmp_path, [f"Training,a.png,{v}" for v in votes])
    faces = load_dataset(path, on_bad_row="skip")
    assert [faces.class_names[t] for t in faces.targets] == ["neutral", "sadness"]
    assert [text.rpartition(":")[0].rpartition("/")[2] for text in faces.skipped.first] == [
        "fer2013.csv, line 3",
        "fer2013new.csv, line 4",
    ]


def test_votes_of_other_rows_are_not_skipped_over(tmp_path: Path) -> None:
    path = write_fer2013(tmp_path, [f"0,{PIXELS},Training", f"0,{PIXELS},PublicTest"])
    write_votes(tmp_path, ["PublicTest,a.png,8,0,0,0,0,0,0,0,0,0"] * 2)
    with pytest.raises(DataError, match="line 2: usage 'PublicTest' does not match"):
        load_dataset(path, on_bad_row="skip")


def test_rows_without_a_majority_are_counted(tmp_path: Path) -> None:
    path = write_fer2013(tmp_path, [f"0,{PIXELS},Training"] * 2)
    write_votes(tmp_path, ["Training,a.png,8,0,0,0,0,0,0,0,0,0", "Training,a.png,0,0,0,0,0,0,0,0,9,0"])
    faces = load_dataset(path)
    assert len(faces) == 1
    assert list(faces.left_out.values()) == [1]

"""Data sets: FER2013 with FER+ votes, legends, class folders, and files that are damaged or hostile."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from fer_edge.datasets import FaceDataset, load_dataset, read_image
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


def write_image(path: Path, value: int = 128) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((12, 10, 3), value, np.uint8))
    return path


def png_claiming(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")


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
    with pytest.raises(DataError, match="it has PublicTest; did you mean 'PublicTest'"):
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
    with pytest.raises(DataError, match="cannot be read beyond line"):
        load_dataset(path)


def test_a_field_without_end(tmp_path: Path) -> None:
    path = write_fer2013(tmp_path, ['0,"' + "1 " * 200_000])
    with pytest.raises(DataError, match="cannot be read beyond line"):
        load_dataset(path)


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
        ("loop.png,sad", "is no file name|does not exist"),
        ("none.png,sad", "does not exist"),
        (",sad", "does not exist"),
        ("x" * 400 + ".png,sad", "is no file name"),
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


@pytest.mark.parametrize("kind", ["missing", "empty", "split", "text file"])
def test_paths_that_hold_no_data(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    if kind in ("empty", "split"):
        path.mkdir()
    elif kind == "text file":
        path.write_text("hello")
    with pytest.raises(DataError, match=kind):
        load_dataset(path, "Training" if kind == "split" else None)


@pytest.mark.parametrize(
    "content",
    [b"", b"not an image", b"\x89PNG\r\n\x1a\n", bytes(range(256)) * 4096, png_claiming(65535, 65535)],
    ids=["empty", "text", "header", "garbage", "huge"],
)
def test_what_is_no_image(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.png is not an image"):
        read_image(path)


@pytest.mark.parametrize("name", ["none.png", "."])
def test_images_that_cannot_be_opened(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="cannot read"):
        read_image(tmp_path / name)


def test_gray_and_transparent_images_become_bgr(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "gray.png"), np.full((4, 5), 7, np.uint8))
    cv2.imwrite(str(tmp_path / "alpha.png"), np.full((4, 5, 4), 7, np.uint8))
    for name in ("gray.png", "alpha.png"):
        image = read_image(tmp_path / name)
        assert image.shape == (4, 5, 3)
        assert (image == 7).all()


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


def test_faces_in_context(shared: Path) -> None:
    folder = shared / "data" / "faces_in_context"
    faces = load_dataset(folder)
    assert len(faces) == 208
    lines = (folder / "legend.csv").read_text().split()[1:]
    named = {"happy": "happiness", "angry": "anger", "sad": "sadness"}
    expected = Counter(named.get(e.lower(), e.lower()) for e in (line.split(",")[1] for line in lines))
    assert Counter(faces.class_names[t] for t in faces.targets) == expected


@pytest.mark.slow
@pytest.mark.parametrize(("split", "count"), [("PublicTest", 3553), ("Training", 28389)])
def test_ferplus_counts(shared: Path, split: str, count: int) -> None:
    faces = load_dataset(shared / "data" / "fer2013" / "fer2013.csv.gz", split)
    assert len(faces) == count
    assert faces.labels is not None
    np.testing.assert_allclose(faces.labels.sum(axis=1), 1, atol=1e-6)

"""Data sets as commonly distributed: other columns, folders, archives and names than in the papers."""

from __future__ import annotations

import gzip
import zipfile
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest

from fer_edge.datasets import load_dataset, training_split
from fer_edge.errors import DataError, UsageError

PIXELS = " ".join(str(i % 256) for i in range(2304))
HAPPY_SAD = ["happiness", "sadness"]
VOTES = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
AFFECTNET = (
    "face_width,face_height,facial_landmarks,expression,valence,arousal,subDirectory_filePath,face_x,face_y"
)


def picture(value: int = 128) -> bytes:
    encoded, data = cv2.imencode(".png", np.full((12, 10, 3), value, np.uint8))
    assert encoded
    return data.tobytes()


def zipped(files: Mapping[str, str | bytes]) -> bytes:
    from io import BytesIO

    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def write(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    """Write files; an empty text stands for a picture if the name is that of one."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content == "" and path.suffix in (".png", ".jpg"):
            content = picture()
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


FER2013 = f"emotion,pixels,Usage\n3,{PIXELS},Training\n4,{PIXELS},PublicTest\n"
ICML = f"emotion, Usage, pixels\n3, Training,{PIXELS}\n4, PublicTest, {PIXELS}\n"
KAGGLE_TRAIN = f"emotion,pixels\n3,{PIXELS}\n4,{PIXELS}\n"
LEGEND = "image,emotion\na.png,happy\nb.png,sad\n"
TWO = {"a.png": "", "b.png": ""}
CLASSES = {"happy/a.png": "", "sad/b.png": ""}

#: What it is → files, what is given below their folder, and the classes of the faces that are read.
READ: dict[str, tuple[dict[str, str | bytes], str, list[str]]] = {
    "fer2013.csv": ({"fer2013.csv": FER2013}, "", ["happy", "sad"]),
    "icml_face_data.csv": ({"icml_face_data.csv": ICML}, "icml_face_data.csv", ["happy", "sad"]),
    "icml_face_data.csv, its folder": ({"icml_face_data.csv": ICML}, "", ["happy", "sad"]),
    "train.csv of Kaggle": ({"train.csv": KAGGLE_TRAIN}, "train.csv", ["happy", "sad"]),
    "train.csv of Kaggle, its folder": ({"train.csv": KAGGLE_TRAIN}, "", ["happy", "sad"]),
    "another name": ({"My Faces.CSV": FER2013}, "", ["happy", "sad"]),
    "byte order mark": ({"fer2013.csv": "\ufeff" + FER2013}, "", ["happy", "sad"]),
    "index column": ({"fer2013.csv": f",emotion,pixels,Usage\n0,3,{PIXELS},Training\n"}, "", ["happy"]),
    "blank lines": (
        {"fer2013.csv": "\n" + FER2013.replace("\n", "\n\n") + "  \n,,\n"}, "", ["happy", "sad"],
    ),
    "semicolons": ({"fer2013.csv": FER2013.replace(",", ";")}, "", ["happy", "sad"]),
    "tabs": ({"fer2013.tsv": FER2013.replace(",", "\t")}, "", ["happy", "sad"]),
    "lines of Windows": ({"fer2013.csv": FER2013.replace("\n", "\r\n")}, "", ["happy", "sad"]),
    "lines of old Macs": ({"fer2013.csv": FER2013.replace("\n", "\r")}, "", ["happy", "sad"]),
    "quoted and in capitals": (
        {"fer2013.csv": f'"EMOTION","PIXELS","USAGE"\n"3","{PIXELS}","Training"\n'}, "", ["happy"],
    ),
    ".gz": ({"fer2013.csv.gz": gzip.compress(FER2013.encode())}, "", ["happy", "sad"]),
    "zip": ({"archive.zip": zipped({"fer2013.csv": FER2013})}, "archive.zip", ["happy", "sad"]),
    "zip, its folder": ({"archive.zip": zipped({"fer2013.csv": FER2013})}, "", ["happy", "sad"]),
    "zip with a folder and leavings of a Mac": (
        {"a.zip": zipped({"x/fer2013.csv": FER2013, "__MACOSX/x/._fer2013.csv": b"\0", "x/README": "x"})},
        "", ["happy", "sad"],
    ),
    "unpacked beside its zip": (
        {"a.zip": zipped({"fer2013.csv": FER2013}), "fer2013.csv": FER2013}, "", ["happy", "sad"],
    ),
    "zip with the votes of FER+": (
        {"a.zip": zipped({"d/fer2013.csv": FER2013, "d/fer2013new.csv":
            f"{VOTES}\nTraining,a,0,0,9,0,0,0,0,0,0,0\nPublicTest,b,0,0,0,0,9,0,0,0,0,0\n"})},
        "", ["surprise", "anger"],
    ),
    "one folder down": ({"fer2013/fer2013.csv": FER2013, "README.md": "x"}, "", ["happy", "sad"]),
    "legend of muxspace": (
        {"data/legend.csv": "user.id,image,emotion\n7,a.png,HAPPINESS\n8,b.png,sadness\n",
         "images/a.png": "", "images/b.png": ""}, "", HAPPY_SAD,
    ),
    "legend of muxspace, the file": (
        {"data/legend.csv": "user.id,image,emotion\n7,a.png,HAPPINESS\n8,b.png,sadness\n",
         "images/a.png": "", "images/b.png": ""}, "data/legend.csv", HAPPY_SAD,
    ),
    "legend with an index and other columns": (
        {"legend.csv": "\ufeff, File , Label\n0,a.png, Happy \n1,b.png,SAD\n", **TWO}, "", HAPPY_SAD,
    ),
    "legend with another name": (
        {"labels.csv": LEGEND.replace("image,emotion", "path;expression").replace(",", ";"), **TWO},
        "", HAPPY_SAD,
    ),
    "legend of Windows, with the folder in the names": (
        {"legend.csv": "filename,class\r\nimages\\a.png,happy\r\nimages\\b.png,sad\r\n",
         "images/a.png": "", "images/b.png": ""}, "", HAPPY_SAD,
    ),
    "class folders": ({"Happy/a.png": "", "SAD/b.png": ""}, "", HAPPY_SAD),
    "class folders with numbers before the names": ({"3_happy/a.png": "", "4. Sad/b.png": ""}, "", HAPPY_SAD),
    "splits": ({f"{s}/{n}": "" for s in ("train", "test") for n in CLASSES}, "", HAPPY_SAD * 2),
    "splits of other names": (
        {f"{s}/{n}": "" for s in ("Training", "TESTING", "Validation") for n in CLASSES}, "", HAPPY_SAD * 3,
    ),
    "splits below images": (
        {f"images/{s}/{n}": "" for s in ("train", "validation") for n in CLASSES}, "", HAPPY_SAD * 2,
    ),
    "splits two folders down": ({f"a/b/train/{n}": "" for n in CLASSES}, "", HAPPY_SAD),
    "splits and one stray picture": (
        {"stray.png": "", **{f"{s}/{n}": "" for s in ("train", "test") for n in CLASSES}}, "", HAPPY_SAD * 2,
    ),
    "leavings of other programs": (
        {**CLASSES, "happy/._a.png": b"x", "sad/.DS_Store": b"x", "__MACOSX/happy/a.png": b"x", "sad/Thumbs.db": b"x",
         ".ipynb_checkpoints/a.png": b"x", "happy/@eaDir/a.png": b"x", "desktop.ini": b"x"}, "", HAPPY_SAD,
    ),
    "numbered folders of RAF-DB": (
        {"DATASET/train/4/train_00001_aligned.jpg": "", "DATASET/train/5/train_00002_aligned.jpg": "",
         "train_labels.csv": "image,label\ntrain_00001_aligned.jpg,4\n"}, "", HAPPY_SAD,
    ),
    "RAF-DB with a third column": (
        {"EmoLabel/list_patition_label.txt": "train_1.jpg 4 0.9\ntrain_2.jpg 5 0.8\n",
         "Image/aligned/train_1_aligned.jpg": "", "Image/aligned/train_2_aligned.jpg": ""}, "", HAPPY_SAD,
    ),
    "RAF-DB with aligned names in a list that is spelled right": (
        {"EmoLabel/list_partition_label.txt": "\ufefftrain_1_aligned.jpg 4\ntrain_2_aligned.jpg 5\n",
         "Image/aligned/train_1_aligned.jpg": "", "Image/aligned/train_2_aligned.jpg": ""}, "", HAPPY_SAD,
    ),
    "RAF-DB with aligned names and photographs": (
        {"EmoLabel/labels.txt": "train_1_aligned.jpg 4\ntrain_2_aligned.jpg 5\n",
         "Image/original/train_1.jpg": "", "Image/original/train_2.jpg": ""}, "", HAPPY_SAD,
    ),
    "AffectNet with its columns in another order": (
        {"training.csv": f"{AFFECTNET}\n10,12,,1,0,0,a.png,0,0\n10,12,,2,0,0,b.png,0,0\n", **TWO},
        "", ["happiness", "sadness"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_it_is_read(tmp_path: Path, name: str) -> None:
    files, given, classes = READ[name]
    faces = load_dataset(write(tmp_path, files) / given)
    # happy and happiness are one class, under FER2013's name and FER+'s.
    assert [faces.class_names[t] for t in faces.targets] == classes
    assert all(image.size for image in faces)


#: What it is → files, what is given, and what the message says.
REFUSED: dict[str, tuple[dict[str, str | bytes], str, list[str]]] = {
    "two CSV files": (
        {"fer2013.csv": FER2013, "icml_face_data.csv": ICML}, "",
        ["2 matching tables", "fer2013.csv", "icml_face_data.csv"],
    ),
    "the folder of Kaggle's challenge": (
        {"train.csv": KAGGLE_TRAIN, "test.csv": f"pixels\n{PIXELS}\n"}, "", ["train.csv", "test.csv"],
    ),
    "two CSV files in a zip": (
        {"a.zip": zipped({"fer2013.csv": FER2013, "b/icml_face_data.csv": ICML})}, "a.zip",
        ["a.zip (fer2013.csv)", "a.zip (b/icml_face_data.csv)"],
    ),
    "a CSV file beside class folders": (
        {"fer2013.csv": FER2013, **CLASSES}, "", ["fer2013.csv and folders of pictures", "happy, sad"],
    ),
    "two legends": ({"a.csv": LEGEND, "b.csv": LEGEND, **TWO}, "", ["a.csv", "b.csv"]),
    "a column twice": (
        {"fer2013.csv": FER2013.replace("emotion,", "pixels ,")}, "", ["2 columns could be the pixels"],
    ),
    "two columns for the image": (
        {"legend.csv": "image,path,emotion\na.png,a.png,sad\n", **TWO}, "", ["could be the image (image, path)"],
    ),
    "labels under another name": (
        {"fer2013.csv": f"label,pixels\n3,{PIXELS}\n"}, "", ["expected the columns emotion,pixels,Usage"],
    ),
    "other columns": (
        {"faces.csv": "name;age\na.png;3\n"}, "faces.csv", ["faces.csv with the columns 'name,age'", "emotion,pixels"],
    ),
    "zip in a zip": ({"a.zip": zipped({"b.zip": zipped({"fer2013.csv": FER2013})})}, "a.zip", ["no CSV file in a.zip"]),
    "a damaged zip": ({"a.zip": zipped({"fer2013.csv": FER2013})[:-9]}, "a.zip", ["a.zip cannot be read"]),
    "a damaged zip, its folder": ({"a.zip": zipped({"fer2013.csv": FER2013})[:-9]}, "", ["holds no pictures", "a.zip cannot be read"]),
    "train and Training": (
        {f"{s}/{n}": "" for s in ("train", "Training") for n in CLASSES}, "",
        ["train and Training, which could both be the split train"],
    ),
    "pictures too deep": (
        {"p1/x/happy/a.png": "", "p2/x/sad/a.png": "", "stray.png": ""}, "",
        ["is not understood", "2 folders (p1, p2)", "1 file (1 × .png; first stray.png)", "a subfolder of pictures per class"],
    ),
    "many pictures beside a class folder": (
        {**{f"{i}.png": "" for i in range(3)}, "happy/a.png": ""}, "", ["3 pictures lie beside subfolders with 1"],
    ),
    "no pictures": (
        {"happy/a.heic": "x", "notes.txt": "x"}, "", ["holds no pictures", "found 1 folder (happy)", "1 × .txt", "notes.txt"],
    ),
    "numbered folders": (
        {f"{i}/a.png": "" for i in range(7)}, "", ["numbered 0, 1, 2, 3, 4, 5, 6", "class_order", "0_angry"],
    ),
    "a numbered legend": ({"legend.csv": "image,emotion\na.png,3\n", **TWO}, "", ["numbered 3", "class_order"]),
    "numbered folders, of which one has other pictures than RAF-DB": (
        {"train/1/train_1_aligned.jpg": "", "train/2/mine.jpg": ""}, "", ["numbered 1, 2", "class_order"],
    ),
    "an unknown class": ({"suprise/a.png": "", **CLASSES}, "", ["'suprise'", "did you mean 'surprise'", "--skip-bad"]),
    "two lists of RAF-DB": (
        {"list_patition_label.txt": "train_1.jpg 4\n", "list_partition_label.txt": "train_1.jpg 4\n"}, "", ["2 label lists"],
    ),
    "an empty file": ({"fer2013.csv": ""}, "fer2013.csv", ["fer2013.csv with the columns ''"]),
    "an empty folder": ({"a/b/c": "x"}, "a", ["holds no pictures", "found 1 folder (b)"]),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_in_words_that_help(tmp_path: Path, name: str) -> None:
    files, given, words = REFUSED[name]
    with pytest.raises(DataError) as caught:
        load_dataset(write(tmp_path, files) / given)
    text = str(caught.value)
    assert all(word in text for word in words), text
    assert "\n" not in text


def test_kaggles_test_has_no_labels_and_its_train_no_splits(tmp_path: Path) -> None:
    write(tmp_path, {"train.csv": KAGGLE_TRAIN, "test.csv": f"pixels\n{PIXELS}\n"})
    faces = load_dataset(tmp_path / "test.csv")
    assert (faces.labels, faces[0].shape) == (None, (48, 48))
    with pytest.raises(DataError, match="has no labels"):
        _ = faces.targets
    assert training_split(tmp_path / "train.csv") is None
    with pytest.raises(DataError, match="no column Usage, and so no splits"):
        load_dataset(tmp_path / "train.csv", "Training")


@pytest.mark.parametrize(
    ("split", "classes"),
    [("train", ["happiness"]), ("Training", ["happiness"]), ("TEST", ["sadness"]), ("validation", ["fear"]),
     (None, ["happiness", "sadness", "fear"])],
)  # fmt: skip
def test_folders_named_as_splits_are_splits(tmp_path: Path, split: str | None, classes: list[str]) -> None:
    write(tmp_path, {"train/happy/a.png": "", "test/sad/a.png": "", "valid/fear/a.png": "", "docs/b.png": ""})
    faces = load_dataset(tmp_path, split)
    assert [faces.class_names[t] for t in faces.targets] == classes
    assert faces.left_out == {"pictures beside the folders of the splits": 1}
    assert training_split(tmp_path) == "train"
    with pytest.raises(DataError, match="Fix: choose from train, test, val"):
        load_dataset(tmp_path, "PublicTest")


def test_a_split_without_classes_is_read_without_labels(tmp_path: Path) -> None:
    write(tmp_path, {"train/happy/a.png": "", "test/1.png": ""})
    assert load_dataset(tmp_path, "test").labels is None
    assert load_dataset(tmp_path).labels.tolist() == [[1], [0]]


def test_order_is_natural(tmp_path: Path) -> None:
    names = [f"{c}_{n}/{i}.png" for c, n in ((1, "happy"), (2, "sad"), (10, "fear")) for i in (1, 2, 10, 11)]
    faces = load_dataset(write(tmp_path, dict.fromkeys(names, "")))
    assert [f"{p.parent.name}/{p.name}" for p in faces.images] == names


@pytest.mark.parametrize(
    ("order", "numbers", "classes"),
    [
        ("happy,sad", "01", ["happiness", "sadness"]),
        ("happy, Sad", "12", ["happiness", "sadness"]),
        ("fear,sad,happy", "02", ["fear", "happiness"]),
        ("fear,sad,happy", "13", ["fear", "happiness"]),
        ("fear,sad,happy", "03", "expected classes 0 to 2 or 1 to 3, found 0, 3"),
        ("fear,sad,happy", "12", "it is unknown whether numbers begin at 0 or 1"),
    ],
)
def test_numbered_classes_take_the_order_that_is_given(
    tmp_path: Path, order: str, numbers: str, classes: list[str] | str
) -> None:
    write(tmp_path / "folders", {f"{number}/a.png": "" for number in numbers})
    legend = "".join(f"{number}.png,{number}\n" for number in numbers)
    write(tmp_path / "legend", {"legend.csv": f"image,label\n{legend}", **{f"{n}.png": "" for n in numbers}})
    for path in (tmp_path / "folders", tmp_path / "legend"):
        if isinstance(classes, str):
            with pytest.raises(DataError, match=classes):
                load_dataset(path, class_order=order)
        else:
            faces = load_dataset(path, class_order=order)
            assert [faces.class_names[t] for t in faces.targets] == classes


@pytest.mark.parametrize(
    ("files", "order", "problem"),
    [
        (CLASSES, "happy,sad", "class_order is for numbered classes"),
        ({"legend.csv": LEGEND, **TWO}, "happy,sad", "class_order is for numbered classes"),
        ({"fer2013.csv": FER2013}, "happy,sad", "class_order is for folders and legends"),
        ({"0/a.png": ""}, "happy,joy", "names a class twice"),
        ({"0/a.png": ""}, "hapy", "did you mean 'happy'"),
    ],
)
def test_an_order_that_does_not_fit(
    tmp_path: Path, files: dict[str, str | bytes], order: str, problem: str
) -> None:
    with pytest.raises(UsageError, match=problem):
        load_dataset(write(tmp_path, files), class_order=order)


def test_what_is_no_picture_is_counted(tmp_path: Path) -> None:
    files = {
        "stray.png": "",
        "happy/b.heic": "x",
        "happy/c.HEIC": "x",
        "happy/more/d.png": "",
        "sad/notes": "x",
    }
    faces = load_dataset(write(tmp_path, {**CLASSES, **files}))
    assert len(faces) == 2
    assert faces.left_out == {
        "pictures beside the class folders": 1,
        "pictures in folders below a class folder": 1,
        "files that are no pictures (.heic)": 2,
        "files that are no pictures (no suffix)": 1,
    }


@pytest.mark.parametrize(
    "suffix", ["bmp", "gif", "jfif", "jp2", "jpe", "pbm", "pgm", "png", "pnm", "ppm", "tif", "webp"]
)
def test_every_kind_of_picture_is_decoded_or_named(tmp_path: Path, suffix: str) -> None:
    gray = np.indices((64, 48)).sum(0).astype(np.uint8)
    kind = {"jfif": "jpg", "jpe": "jpg", "pnm": "pgm"}.get(suffix, suffix)
    if suffix == "gif":
        # The smallest GIF: OpenCV below 4.11 neither writes nor reads it.
        data = bytes.fromhex(
            "47494638396101000100800100ffffff00000021f90401000001002c00000000010001000002024c01003b"
        )
    else:
        _, encoded = cv2.imencode(f".{kind}", gray if kind in ("pgm", "pbm") else cv2.merge([gray] * 3))
        data = encoded.tobytes()
    faces = load_dataset(write(tmp_path, {f"sad/a.{suffix.upper()}": data}))
    if suffix == "gif" and cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) is None:
        with pytest.raises(DataError, match=r"a\.GIF is not an image .*GIF needs OpenCV 4\.11"):
            faces[0]
    else:
        assert faces[0].shape == ((1, 1, 3) if suffix == "gif" else (64, 48, 3))

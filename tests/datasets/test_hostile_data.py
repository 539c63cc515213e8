"""Damaged and hostile data for every loader: faces or a FerEdgeError, never another error, and never a hang.

The cases are the same at every run.
"""

from __future__ import annotations

import gzip
import io
import os
import shutil
import signal
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest

from fer_edge.datasets import load_dataset, training_split
from fer_edge.errors import FerEdgeError

Files = dict[bytes, bytes]
Rng = np.random.Generator

LIMIT_S = 5.0
PICTURE = cv2.imencode(".png", np.full((12, 10, 3), 99, np.uint8))[1].tobytes()
PIXELS = b" ".join(b"%d" % (i % 256) for i in range(2304))
FER2013 = b"emotion,pixels,Usage\n" + b"".join(b"%d,%s,Training\n" % (i, PIXELS) for i in range(3))
VOTES = (
    b"Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF\n"
    + b"Training,a.png,9,0,0,0,1,0,0,0,0,0\n" * 3
)
AFFECTNET = (
    b"subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal\n"
    + b"a.png,1,1,8,8,%s,1,0,0\n" % b";".join([b"3"] * 136) * 2
)
POINTS = b"   1.5e+00   2.5e+00\n" * 68
#: Text that decides something somewhere.
TOKENS = (
    b",", b";", b"\t", b"\n", b"\r", b'"', b"\0", b"\xff", b"\xef\xbb\xbf", b"../", b"/etc/passwd", b"\\", b"-1", b"1e999",
    b"nan", b"9" * 5000, b"emotion", b"pixels", b"image", b"train_", b"_aligned", b" ", b"\n\n\n", b"\xd9\xa3", b"7", b"happy",
)  # fmt: skip
NAMES = (
    b"happy", b"Sad", b"0", b"1", b"7", b"12", b"train", b"TEST", b"val", b"training", b"images", b"data", b"a.png", b"b.JPG",
    b"c.gif", b"._a.png", b"__MACOSX", b"fer2013.csv", b"legend.csv", b"a.zip", b"x.heic", b"train_1_aligned.jpg", b"\xff\xfe.png",
    b"new\nline.png", b"\xf0\x9f\x98\x80.png", b"x" * 255, b"y" * 251 + b".png", b"9" * 250, b" ", b"-rf", b"%s.csv", b"aligned",
    b"EmoLabel", b"cohn-kanade-images", b"Emotion", b"annotations", b"1_exp.npy", b"training.csv", b"list_patition_label.txt",
)  # fmt: skip


def array(values: object) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array(values))
    return buffer.getvalue()


def zipped(files: Files) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name.decode(), content)
    return buffer.getvalue()


def damaged(data: bytes, rng: Rng) -> bytes:
    """Flip, cut, repeat, insert, truncate: one to four times."""
    content = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        at = (
            int(rng.integers(0, len(content) + 1))
            if rng.random() < 0.5
            else int(rng.integers(0, min(200, len(content) + 1)))
        )
        length = int(rng.integers(1, 40))
        kind = rng.integers(0, 6)
        if kind == 0 and content:
            content[at % len(content)] = int(rng.integers(0, 256))
        elif kind == 1:
            del content[at : at + length]
        elif kind == 2:
            content[at:at] = content[at : at + length] * int(rng.integers(1, 50))
        elif kind == 3:
            content[at:at] = TOKENS[rng.integers(len(TOKENS))]
        elif kind == 4:
            content[at:at] = rng.bytes(length)
        elif rng.random() < 0.3:
            del content[at:]
    return bytes(content)


def one_of(files: Files, *names: bytes) -> Callable[[Path, Rng], Path]:
    """Write ``files``, one of them or of ``names`` damaged; return the folder or that file."""

    def make(folder: Path, rng: Rng) -> Path:
        hit = (names or tuple(files))[rng.integers(len(names or files))]
        for name, content in files.items():
            path = folder / os.fsdecode(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(damaged(content, rng) if name == hit else content)
        return folder if rng.random() < 0.6 else folder / os.fsdecode(hit)

    return make


def compressed(folder: Path, rng: Rng) -> Path:
    """A damaged archive or ``.gz``, or one with damaged content."""
    inside = rng.random() < 0.5
    content = damaged(FER2013, rng) if inside else FER2013
    if rng.random() < 0.3:
        data, name = gzip.compress(content, 1), "fer2013.csv.gz"
    else:
        files = {b"d/fer2013.csv": content, b"fer2013new.csv": VOTES, b"__MACOSX/._fer2013.csv": b"x"}
        data, name = zipped(dict(list(files.items())[: rng.integers(1, 4)])), "a.zip"
    if not inside:
        # Headers lie at both ends.
        at = len(data) - 400 if rng.random() < 0.6 else 0
        data = data[: max(at, 0)] + damaged(data[max(at, 0) :], rng)
    (folder / name).write_bytes(data)
    return folder if rng.random() < 0.5 else folder / name


def tree(folder: Path, rng: Rng) -> Path:
    """Folders, pictures, pipes and links with odd names."""

    def fill(place: Path, depth: int) -> None:
        for index in rng.choice(len(NAMES), rng.integers(1, 7), replace=False):
            path = place / os.fsdecode(NAMES[index])
            kind = rng.integers(0, 12)
            if kind < 4 and depth:
                path.mkdir()
                fill(path, depth - 1)
            elif kind < 8:
                path.write_bytes(PICTURE)
            elif kind == 8:
                path.write_bytes(damaged((PICTURE, FER2013, VOTES)[rng.integers(3)], rng))
            elif kind == 9:
                os.mkfifo(path)
            elif kind == 10:
                path.symlink_to((path.name, "..", "/", "/dev/zero", "nowhere", "a.png")[rng.integers(6)])
            else:
                path.touch()

    fill(folder, 4)
    return folder


READERS: dict[str, Callable[[Path, Rng], Path]] = {
    "fer2013": one_of({b"fer2013.csv": FER2013}),
    "ferplus": one_of({b"fer2013.csv": FER2013, b"fer2013new.csv": VOTES}),
    "compressed": compressed,
    "legend": one_of(
        {b"legend.csv": b"user.id,image,emotion\n1,a.png,HAPPY\n2,b.png,sad\n", b"a.png": PICTURE, b"b.png": PICTURE}
    ),
    "raf-db": one_of({b"EmoLabel/list_patition_label.txt": b"train_1.jpg 4\ntest_2.jpg 5\n",
                      b"Image/aligned/train_1_aligned.jpg": PICTURE, b"Image/aligned/test_2_aligned.jpg": PICTURE}),
    "affectnet": one_of({b"training.csv": AFFECTNET, b"a.png": PICTURE}),
    "affectnet-arrays": one_of({b"annotations/1_exp.npy": array("3"), b"annotations/1_lnd.npy": array([1.0] * 136),
                                b"images/1.png": PICTURE}),
    "ck+": one_of({b"Emotion/S1/001/S1_001_2_emotion.txt": b"   3.0000000e+00\n",
                   b"Landmarks/S1/001/S1_001_2_landmarks.txt": POINTS,
                   b"cohn-kanade-images/S1/001/S1_001_1.png": PICTURE, b"cohn-kanade-images/S1/001/S1_001_2.png": PICTURE}),
    "folder": tree,
}  # fmt: skip


@contextmanager
def no_waiting() -> Iterator[None]:
    def late(*_: object) -> None:
        raise TimeoutError(f"more than {LIMIT_S} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def use(path: Path, rng: Rng) -> bool:
    """Load and decode the data as the commands do; return ``True`` if there were faces."""
    split = (None, None, "train", "Training", "x\n")[rng.integers(5)]
    order = (None, None, "angry,disgust,fear,happy,sad,surprise,neutral")[rng.integers(3)]
    bad = ("error", "skip")[rng.integers(2)]
    try:
        training_split(path)
        faces = load_dataset(path, split, on_bad_row=bad, class_order=order)
        for index in range(min(3, len(faces))):
            assert faces[index].dtype == np.uint8
        assert faces.labels is None or len(faces.labels) == len(faces.images)
    except FerEdgeError:
        return False
    return True


def try_cases(name: str, count: int, folder: Path) -> tuple[int, float]:
    """Return the number of cases with faces, and the longest time."""
    rng = np.random.default_rng([*name.encode()])
    good, longest = 0, 0.0
    for case in range(count):
        place = folder / str(case)
        place.mkdir()
        path = READERS[name](place, rng)
        start = time.perf_counter()
        try:
            with no_waiting():
                good += use(path, rng)
        except BaseException as error:
            raise AssertionError(f"{name}, case {case}: {error!r}") from error
        longest = max(longest, time.perf_counter() - start)
        shutil.rmtree(place)
    return good, longest


@pytest.mark.parametrize("name", READERS)
def test_hostile_data_give_an_error_of_ours(name: str, tmp_path: Path) -> None:
    good, _ = try_cases(name, 40, tmp_path)
    assert good < 40


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_much_hostile_data_give_an_error_of_ours(name: str, tmp_path: Path) -> None:
    good, _ = try_cases(name, 3000, tmp_path)
    assert 0 < good < 3000

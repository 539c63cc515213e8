"""Duplicates of a face are recognised; other faces are not."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from fer_edge.datasets import duplicates, load_dataset
from fer_edge.datasets.duplicates import copies_of, hash_faces, repeats
from fer_edge.synthetic import render_faces


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(data, cv2.IMREAD_UNCHANGED)


def resized(side: int, interpolation: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda image: cv2.resize(image, (side, side), interpolation=interpolation)


COPIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "the same": lambda image: image.copy(),
    "jpeg 90": lambda image: jpeg(image, 90),
    "jpeg 40": lambda image: jpeg(image, 40),
    "larger, nearest": resized(100, cv2.INTER_NEAREST),
    "larger, cubic": resized(224, cv2.INTER_CUBIC),
    "smaller": resized(32, cv2.INTER_AREA),
    "larger, then jpeg": lambda image: jpeg(cv2.resize(image, (96, 96)), 70),
    "colour": lambda image: image if image.ndim == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2BGR),
    "mirrored": lambda image: np.ascontiguousarray(image[:, ::-1]),
    "mirrored jpeg": lambda image: jpeg(np.ascontiguousarray(image[:, ::-1]), 60),
    "darker": lambda image: (0.7 * image).astype(np.uint8),
}


@pytest.mark.parametrize("copy", COPIES)
def test_copies_are_recognised_and_other_faces_are_not(copy: str) -> None:
    faces = render_faces(80, 5)
    hashes, copied = hash_faces(faces[:40]), hash_faces([COPIES[copy](face) for face in faces[:40]])
    assert copies_of(copied, hashes, shifted=False).all()
    for i in range(0, 40, 8):  # of the face itself, and of no other
        found = copies_of(hashes, copied.subset(np.array([i])), shifted=True)
        assert np.flatnonzero(found).tolist() == [i]
    assert not copies_of(hash_faces(faces[40:]), copied, shifted=True).any()
    assert not repeats(hashes, shifted=True).any()
    assert repeats(hashes.followed_by(copied), shifted=False).tolist() == [False] * 40 + [True] * 40


@pytest.mark.slow
def test_real_faces_of_other_pictures_are_no_copies(shared: Path) -> None:
    """An independent measure: the pixels of duplicates correlate more than those of any two persons."""
    faces = load_dataset(shared / "data/fer2013/fer2013.csv.gz", "PublicTest", "fer2013").images
    hashes = hash_faces(faces)
    vectors = np.stack([cv2.resize(face, (16, 16), interpolation=cv2.INTER_AREA) for face in faces])
    vectors = vectors.reshape(len(faces), -1).astype(np.float64)
    vectors -= vectors.mean(axis=1, keepdims=True)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    mirrored = vectors.reshape(-1, 16, 16)[:, :, ::-1].reshape(len(faces), -1)
    repeated = np.flatnonzero(repeats(hashes, shifted=False))
    assert 20 <= len(repeated) <= 0.03 * len(faces)
    for i in repeated:
        nearest = max(float((vectors[:i] @ vectors[i]).max()), float((mirrored[:i] @ vectors[i]).max()))
        assert nearest > 0.85
    digests = [hashlib.sha256(face.tobytes()).hexdigest() for face in faces]
    assert hashes.sha256 == hashlib.sha256(faces.tobytes()).hexdigest()
    twins = {i for i, digest in enumerate(digests) if digest in digests[:i]}
    assert twins <= set(repeated.tolist())


@pytest.mark.parametrize("shifted", [False, True])
def test_blocks_of_rows_change_nothing(shifted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    faces = np.concatenate([render_faces(20, 1), render_faces(12, 1), render_faces(10, 2)])
    hashes, others = hash_faces(faces), hash_faces(render_faces(15, 2))
    expected = repeats(hashes, shifted=shifted), copies_of(hashes, others, shifted=shifted)
    assert expected[0].sum() == 12
    assert expected[1].sum() == 10
    for name in ("_ROWS", "_SHIFTED_ROWS"):
        monkeypatch.setattr(duplicates, name, 7)
    found = repeats(hashes, shifted=shifted), copies_of(hashes, others, shifted=shifted)
    for a, b in zip(expected, found, strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize(
    ("left", "top", "side"), [(140, 20, 180), (147, 13, 180), (134, 26, 180), (135, 15, 189)]
)
def test_a_face_that_is_cut_a_little_beside_is_found_with_shifts(
    astronaut: np.ndarray, left: int, top: int, side: int
) -> None:
    first, again = astronaut[20:200, 140:320], astronaut[top : top + side, left : left + side]
    hashes, cut = hash_faces([first]), hash_faces([jpeg(again, 60), again[:, ::-1]])
    assert copies_of(cut, hashes, shifted=True).all()
    assert copies_of(hashes, cut, shifted=True).all()
    assert repeats(hashes.followed_by(cut), shifted=True).tolist() == [False, True, True]
    others = hash_faces([*render_faces(20, 3), np.flipud(first).copy()])
    assert not copies_of(others, hashes, shifted=True).any()


def test_a_shift_of_nothing_is_the_face_itself() -> None:
    hashes = hash_faces(render_faces(8))
    for gray, bits in zip(hashes.gray, hashes.bits, strict=True):
        middle = duplicates._shifts_of(gray)[25 * 2 + 12]
        assert (middle != bits).sum() <= 1  # rounding where a frequency is zero


def test_nothing_has_no_copies() -> None:
    none = hash_faces([])
    assert (len(none), repeats(none, shifted=True).shape, copies_of(none, none, shifted=True).shape) == (
        0,
        (0,),
        (0,),
    )
    assert not copies_of(hash_faces(render_faces(2)), none, shifted=True).any()

"""``self_test.npz``: round trip, and damaged or invalid files."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from fer_edge.backends.self_test_data import SelfTestData, read_self_test, write_self_test
from fer_edge.errors import BundleError
from fer_edge.spec import ModelSpec

SPEC = ModelSpec("net", 8, 8, "gray", 1, (0.0,), (1.0,), ("happy", "sad", "angry"))
RNG = np.random.default_rng(3)
DATA = SelfTestData(
    RNG.integers(0, 256, (4, 12, 10, 3)).astype(np.uint8),
    {key: RNG.normal(size=(4, 3)).astype(np.float32) for key in ("fp32", "int8.cpu")},
)


def content_of(data: SelfTestData, path: Path) -> bytes:
    write_self_test(path, data)
    return path.read_bytes()


def archive(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in members.items():
            opened.writestr(f"{name.replace('__', '.')}.npy", content)
    return file.getvalue()


def array(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values, allow_pickle=True)
    return file.getvalue()


def header(text: str, data: bytes = b"") -> bytes:
    padded = text.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded + data


def test_round_trip_with_equal_bytes(tmp_path: Path) -> None:
    content = content_of(DATA, tmp_path / "a.npz")
    assert content_of(DATA, tmp_path / "b.npz") == content
    found = read_self_test(content, SPEC)
    np.testing.assert_array_equal(found.crops, DATA.crops)
    assert found.logits.keys() == DATA.logits.keys()
    for key, values in DATA.logits.items():
        np.testing.assert_array_equal(found.logits[key], values)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as numpy_reads_it:
        np.testing.assert_array_equal(numpy_reads_it["crops"], DATA.crops)


def test_no_pickle_runs() -> None:
    canary = np.array([pickle.loads], object)
    with pytest.raises(BundleError, match="cannot be read"):
        read_self_test(archive(crops=array(canary)), SPEC)


CROPS = array(DATA.crops)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK",
        b"no archive",
        archive(),
        archive(crops=b""),
        archive(crops=b"\x93NUMPY"),
        archive(crops=array(DATA.crops.astype(np.int64))),
        archive(crops=array(DATA.crops[0])),
        archive(crops=array(DATA.crops[..., :1])),
        archive(crops=array(np.empty((0, 8, 8, 3), np.uint8))),
        archive(crops=array(np.zeros((65, 2, 2, 3), np.uint8))),
        archive(crops=array(np.zeros((1, 513, 2, 3), np.uint8))),
        archive(crops=array(np.zeros((1, 8000, 8000, 3), np.uint8))),
        archive(crops=array(np.asfortranarray(DATA.crops))),
        archive(crops=CROPS, logits__fp32=array(np.zeros((3, 3), np.float32))),
        archive(crops=CROPS, logits__fp32=array(np.zeros((4, 2), np.float32))),
        archive(crops=CROPS, logits__fp32=array(np.full((4, 3), np.nan, np.float32))),
        archive(crops=CROPS, logits__fp32=array(np.zeros((4, 3)))),
        archive(crops=CROPS, **{f"a{i}": CROPS for i in range(20)}),
        archive(crops=header("{'descr': '|u1', 'fortran_order': False, 'shape': (1, 999999, 999999, 3), }")),
        archive(
            crops=header("{'descr': '|u1', 'fortran_order': False, 'shape': (1, -2, -2, 3), }", bytes(12))
        ),
        archive(
            crops=header("{'descr': '|u1', 'fortran_order': False, 'shape': (True, 2, 2, 3), }", bytes(12))
        ),
        archive(crops=header("{'descr': '|u1', 'fortran_order': False, 'shape': (1e3,), }")),
        archive(
            crops=header("{'descr': [('a', '|u1')], 'fortran_order': False, 'shape': (12,), }", bytes(12))
        ),
        archive(crops=header("{" * 100)),
        archive(crops=header("'''")),
        archive(crops=header("__import__('os').system('true')")),
        archive(crops=header("{'shape': " + "(" * 90)),
    ],
    ids=range(28),
)
def test_files_that_claim_the_impossible(content: bytes) -> None:
    with pytest.raises(BundleError, match="Fix: build the bundle again"):
        read_self_test(content, SPEC)


def test_damaged_files_are_refused_or_hold_what_was_written(tmp_path: Path) -> None:
    content = content_of(DATA, tmp_path / "a.npz")
    random = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(content)
        for position in random.integers(0, len(content), random.integers(1, 4)):
            damaged[position] ^= 1 << random.integers(0, 8)
        try:
            found = read_self_test(bytes(damaged[: random.integers(1, len(content) + 1)]), SPEC)
        except BundleError:
            continue
        assert found.crops.shape[3] == 3

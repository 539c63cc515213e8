"""Untrusted NumPy files: values, and damaged, hostile or huge files."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from fer_edge.errors import WeightsError
from fer_edge.export.checkpoints import arrays
from fer_edge.export.checkpoints.arrays import NpzArrays, is_npz, read_npy


def header(shape: tuple[int, ...], descr: str = "<f4") -> bytes:
    """Return an .npy header that declares ``shape``."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"shape": shape, "fortran_order": False, "descr": descr})
    return file.getvalue()


def pack(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_values_shapes_and_first_rows(tmp_path: Path, write: object) -> None:
    rng = np.random.default_rng(0)
    wanted = {
        "rows": rng.random((5, 68, 2)),
        "turned": np.asfortranarray(rng.random((3, 4)).astype(np.float32)),
        "number": np.array(3, np.int64),
        "empty": np.zeros((0, 4), np.float32),
    }
    path = tmp_path / "a.npz"
    write(path, **wanted)  # type: ignore[operator]
    found = NpzArrays(path)
    assert {name: value.shape for name, value in found.headers.items()} == {
        name: value.shape for name, value in wanted.items()
    }
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value)
    np.testing.assert_array_equal(found.first("rows"), wanted["rows"][0])
    for name in ("turned", "empty"):
        with pytest.raises(WeightsError, match=f"{name} in .* is empty or in column-major order"):
            found.first(name)
    np.save(tmp_path / "a.npy", wanted["turned"])
    np.testing.assert_array_equal(read_npy(tmp_path / "a.npy"), wanted["turned"])


def test_npz_files_are_told_from_other_files(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    torch.save({"x": torch.zeros(3)}, tmp_path / "a.pth")
    (tmp_path / "a.txt").write_text("text")
    assert [is_npz(tmp_path / name) for name in ("a.npz", "a.pth", "a.txt", "absent")] == [
        True, False, False, False,
    ]  # fmt: skip


class Exploit:
    """Creates a folder when unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.target),)


def test_pickled_objects_are_refused_and_not_run(tmp_path: Path) -> None:
    target = tmp_path / "made-by-the-exploit"
    path = pack(tmp_path / "a.npz", {"x.npy": header((), "|O") + pickle.dumps(Exploit(target))})
    with pytest.raises(
        WeightsError, match="expected numbers in x.npy in .*, found pickled objects, which could run code"
    ):
        NpzArrays(path)
    (tmp_path / "x.npy").write_bytes(header((), "|O") + pickle.dumps(Exploit(target)))
    with pytest.raises(WeightsError, match="expected numbers in .*, found pickled objects"):
        read_npy(tmp_path / "x.npy")
    assert not target.exists()
    np.load(path, allow_pickle=True)["x"]
    assert target.exists()  # plain unpickling runs the exploit


def test_huge_and_inconsistent_declarations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = {
        "vast.npy": header((1 << 20, 1 << 20)),
        "short.npy": header((5,)) + bytes(16),
        "bomb.npy": header((4,)) + bytes(1 << 20),
        "negative.npy": header((-1, 4)) + bytes(16),
        "text.npy": header((2,), "<U4") + bytes(32),
        "complex.npy": header((2,), "<c8") + bytes(16),
    }
    found = NpzArrays(pack(tmp_path / "a.npz", members))
    for name, match in (
        ("vast", r"vast in .* declares \(1048576, 1048576\) float32, expected at most 1024 MiB"),
        ("short", "short in .* is truncated after 16 of 20 bytes"),
        ("negative", "negative"),
        ("text", "holds <U4, expected real numbers"),
        ("complex", "holds complex64, expected real numbers"),
    ):
        with pytest.raises(WeightsError, match=match):
            found[name]
    assert found["bomb"].tolist() == [0, 0, 0, 0]  # the rest is never unpacked
    monkeypatch.setattr(arrays, "MAX_ARRAY_BYTES", 8)
    with pytest.raises(WeightsError, match="bomb in .* declares"):
        found["bomb"]


@pytest.mark.parametrize("kept", [0.99, 0.5, 0.1])
def test_cut_files(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, x=np.arange(1000))
    os.truncate(path, int(path.stat().st_size * kept))
    with pytest.raises(
        WeightsError, match="cannot be read as an .npz file .BadZipFile.* Fix: fetch it again"
    ):
        NpzArrays(path)


def test_damaged_members_and_headers(tmp_path: Path) -> None:
    for name, data, match in (
        ("magic", b"no array", "magic string"),
        ("version", b"\x93NUMPY\x03\x00" + header((1,))[8:], "array format .3, 0., expected 1.0 or 2.0"),
        ("code", header((1,)).replace(b"'<f4'", b"f(4) "), "cannot be read as an .npz file"),
        ("empty", b"", "cannot be read"),
    ):
        with pytest.raises(WeightsError, match=match):
            NpzArrays(pack(tmp_path / f"{name}.npz", {"x.npy": data}))
    path = tmp_path / "flipped.npz"
    np.savez(path, x=np.arange(1000.0))
    data = bytearray(path.read_bytes())
    data[4000] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError, match="Bad CRC-32"):
        NpzArrays(path)["x"]
    with pytest.raises(WeightsError, match="is not an existing file"):
        NpzArrays(tmp_path)
    (tmp_path / "text.npy").write_text("text")
    with pytest.raises(WeightsError, match="cannot be read as an .npy file"):
        read_npy(tmp_path / "text.npy")


@pytest.mark.parametrize(
    "text",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1,}",
        "(" * 500,
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'more': 1}",
        "{'descr': '<f4', 'fortran_order': 1, 'shape': (1,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (True,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': 3}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (" + "1," * 33 + ")}",
        "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}",
        "{'descr': ('<f4', 3), 'fortran_order': False, 'shape': (1,)}",
        "{'descr': 'f4,f4', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '<q9', 'fortran_order': False, 'shape': (1,)}",
        "{[]: 1}",
        "\0",
        "'''",
        "-" * 900,
        " " * 2000,
    ],
)
def test_headers_that_are_no_plain_array(tmp_path: Path, text: str) -> None:
    head = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + bytes(4)
    (tmp_path / "x.npy").write_bytes(head)
    with pytest.raises(WeightsError, match=r"x\.npy") as caught:
        read_npy(tmp_path / "x.npy")
    assert "\n" not in str(caught.value)
    with pytest.raises(WeightsError, match="x"):
        NpzArrays(pack(tmp_path / "a.npz", {"x.npy": head}))


def test_compression_that_numpy_does_not_write(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("x.npy", header((1,)) + bytes(4))
    with pytest.raises(WeightsError, match="compression is not one that NumPy writes"):
        NpzArrays(tmp_path / "a.npz")

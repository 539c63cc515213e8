"""Input of the fuzz tests: one good file of every kind, and damage to it from a seed."""

from __future__ import annotations

import io
import json
import resource
import sys
import time
import tracemalloc
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from author_files import entry, masked_crc, write_table

from fer_edge._utils.file_kinds import refuse_foreign
from fer_edge.errors import FerEdgeError
from fer_edge.export.checkpoints.arrays import NpzArrays, read_npy
from fer_edge.export.checkpoints.files import read_author_file
from fer_edge.export.checkpoints.tensorflow_bundle import TensorFlowCheckpoint
from fer_edge.export.weights import load_weights

#: Text that parsers stumble over, put in place of text of the file.
_TEXTS = (
    b"{", b"[" * 200, b"(" * 300, b"-1", b"True", b"None", b"1e999", b"NaN", b"99999999999999999999", b"'''",
    b"\\N", b"f(4)", b"0x", b"1_", b"{[(", b"\0", b"\xff", b"lambda:0", b"{1:2}", b"'O'", b"[('a','O')]",
)  # fmt: skip
_LONG_SIZES = (b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff", b"\0\0\0\x80", b"\xff\xff\xff\xff\xff\xff\xff\x7f")


def _torch_file(folder: Path, zipped: bool) -> Path:
    state = OrderedDict((f"layer{i}.weight", torch.ones(3, i + 1)) for i in range(4))
    content = {"net": state, "epoch": 3, "best": np.float64(2), "args": {"a": [1, (2.5, "x")], "b": None}}
    path = folder / "file"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def _npz(folder: Path) -> Path:
    np.savez(folder / "file.npz", a=np.ones((3, 2)), b=np.arange(5), c=np.zeros((), "<f4"))
    return (folder / "file.npz").rename(folder / "file")


def _npy(folder: Path) -> Path:
    np.save(folder / "file.npy", np.ones((3, 2)))
    return (folder / "file.npy").rename(folder / "file")


def _safetensors(folder: Path) -> Path:
    header = {"spec": {"network": "conv-attention"}, "options": {"stem_width": 4}, "provenance": {"a": 1.0}}
    tensors = {"a": torch.ones(3), "b": torch.zeros(2, 2)}
    safetensors.torch.save_file(tensors, folder / "file", {"fer_edge": json.dumps(header)})
    return folder / "file"


def _index(folder: Path) -> Path:
    data = np.arange(4, dtype="<f4").tobytes()
    (folder / "file.data-00000-of-00001").write_bytes(data)
    row = entry(1, (2, 2), 0, 16, masked_crc(data))
    write_table(folder / "file.index", {b"": b"\x08\x01"} | {b"v%d" % i: row for i in range(9)})
    return folder / "file.index"


def _read_arrays(path: Path) -> None:
    for _ in NpzArrays(path).values():
        pass


def _read_index(path: Path) -> None:
    for _ in TensorFlowCheckpoint(path.with_suffix("")).values():
        pass


#: Kind → what writes a good file, and the readers that a user can give it to.
KINDS: dict[str, tuple[Callable[[Path], Path], tuple[Callable[[Path], object], ...]]] = {
    "torch-zip": (lambda folder: _torch_file(folder, True), (read_author_file, refuse_foreign)),
    "torch-legacy": (lambda folder: _torch_file(folder, False), (read_author_file,)),
    "npz": (_npz, (_read_arrays, read_author_file)),
    "npy": (_npy, (read_npy, refuse_foreign)),
    "safetensors": (_safetensors, (load_weights, read_author_file)),
    "tensorflow-index": (_index, (_read_index,)),
}


def damaged(kind: str, data: bytes, rng: np.random.Generator) -> bytes:
    """Return ``data`` with flipped, cut, repeated or replaced bytes; checksums are made right half of the time."""
    if kind in ("torch-zip", "npz") and rng.random() < 0.6:
        return _repacked(data, rng)
    if kind == "tensorflow-index" and rng.random() < 0.7:
        return _resealed(data, rng)
    return _edited(data, rng)


def _edited(data: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        at = int(rng.integers(0, max(len(changed), 1)))
        kind = rng.integers(0, 7)
        if kind == 0:
            changed[at : at + 1] = rng.bytes(1)
        elif kind == 1:
            del changed[at : at + int(rng.integers(1, 40))]
        elif kind == 2:
            changed[at:at] = changed[at : at + int(rng.integers(1, 40))]
        elif kind == 3:
            text = _TEXTS[rng.integers(len(_TEXTS))]
            changed[at : at + len(text) * int(rng.integers(0, 2))] = text
        elif kind == 4:
            size = _LONG_SIZES[rng.integers(len(_LONG_SIZES))]
            changed[at : at + len(size)] = size
        elif kind == 5:
            changed[at:at] = rng.bytes(int(rng.integers(1, 9)))
        elif rng.random() < 0.2:
            del changed[at:]
    return bytes(changed)


def _repacked(data: bytes, rng: np.random.Generator) -> bytes:
    """Damage one member of a ZIP and write it with the right checksum."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(out, "w") as target:
        names = source.namelist()
        chosen = names[0] if rng.random() < 0.7 else names[rng.integers(len(names))]
        for name in names:
            content = source.read(name)
            target.writestr(name, _edited(content, rng) if name == chosen else content)
    return out.getvalue()


def _resealed(data: bytes, rng: np.random.Generator) -> bytes:
    """Damage the entries of an index and write it with the right checksums."""
    header, row = b"\x08\x01", entry(1, (2, 2), 0, 16, 0)
    rows = {b"": _edited(header, rng) if rng.random() < 0.2 else header}
    for i in range(4):
        rows[rng.bytes(int(rng.integers(0, 9)))] = _edited(row, rng) if i else row
    part = io.BytesIO()

    class Memory:
        def write_bytes(self, content: bytes) -> None:
            part.write(content)

    write_table(Memory(), rows)  # type: ignore[arg-type]
    return part.getvalue()


def fuzz(kind: str, cases: int, folder: Path, seed: int = 0) -> dict[str, float]:
    """Give damaged files to every reader; an error that is not of ours leaves this function.

    Returns
    -------
    dict
        Numbers of cases, refusals, and lines of a message, the longest time in seconds and the largest traced memory in MiB.
    """
    write, readers = KINDS[kind]
    path = write(folder)
    data = path.read_bytes()
    rng = np.random.default_rng(seed)
    refused, lines, longest_s = 0, 0, 0.0
    tracemalloc.start()
    try:
        for case in range(cases):
            path.write_bytes(damaged(kind, data, rng))
            for reader in readers:
                start = time.perf_counter()
                try:
                    reader(path)
                except FerEdgeError as error:
                    refused += 1
                    lines = max(lines, str(error).count("\n") + 1)
                except BaseException as error:
                    raise AssertionError(f"{kind}, case {case}, {reader}: {error!r}") from error
                longest_s = max(longest_s, time.perf_counter() - start)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    return {
        "cases": cases,
        "refused": refused,
        "lines": lines,
        "longest_s": longest_s,
        "peak_mib": peak / (1 << 20),
    }


if __name__ == "__main__":  # a process of its own, so that a limit on memory ends nothing else
    limit = resource.getrlimit(resource.RLIMIT_AS)[1]
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), limit))
    print(json.dumps(fuzz(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))))

"""Files of torch.save that name code or grow when they are read: nothing runs, and work is bounded."""

from __future__ import annotations

import importlib
import io
import os
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fer_edge._utils import inert_pickle
from fer_edge._utils.inert_pickle import LimitedReader, NotReadable, read_pickle
from fer_edge.errors import WeightsError
from fer_edge.export.checkpoints.torch_file import TorchFile

P = b"\x80\x02"


def name(path: str) -> bytes:
    module, _, last = path.rpartition(".")
    return b"c" + f"{module}\n{last}\n".encode()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def pack(path: Path, pickled: bytes, data: bytes = bytes(16)) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickled)
        archive.writestr("a/data/0", data)
    return path


def call(function: str, *args: bytes) -> bytes:
    return name(function) + b"(" + b"".join(args) + b"tR"


def refuse(path: Path, match: str) -> None:
    with pytest.raises(WeightsError, match=match) as caught:
        TorchFile(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "function",
    [
        "os.mkdir", "posix.mkdir", "builtins.eval", "builtins.exec", "builtins.getattr", "builtins.__import__",
        "subprocess.Popen", "shutil.rmtree", "runpy.run_path", "importlib.import_module", "webbrowser.open",
        "torch.load", "torch.hub.load", "torch.jit.load", "numpy.load", "numpy.testing.runstring", "pip.main",
        "functools.reduce", "operator.attrgetter", "ctypes.CDLL", "code.InteractiveInterpreter", "pathlib.os.mkdir",
        "pathlib.Path.unlink", "argparse._sys.exit", "collections.namedtuple",
    ],
)  # fmt: skip
def test_calls_are_refused_and_never_run(tmp_path: Path, function: str) -> None:
    canary = tmp_path / "canary"
    value = P + b"}" + text("x") + call(function, text(str(canary))) + b"s."
    with pytest.raises(WeightsError, match=f"found the object {function}, which could run code.*state_dict"):
        TorchFile(pack(tmp_path / "file", value))
    assert not canary.exists()


CANARY = "canary_module_of_a_checkpoint"


@pytest.mark.parametrize(
    "made",
    [
        lambda: name(f"{CANARY}.Config") + b")\x81" + b"}" + text("a") + b"K\x01sb",
        lambda: call(f"{CANARY}.Config", text("x")),
        lambda: name(f"{CANARY}.function"),
        lambda: call("functools.partial", name(f"{CANARY}.function")),
        lambda: name("argparse.Namespace") + b")\x81}" + text("__class__") + name(f"{CANARY}.Config") + b"sb",
        lambda: name("collections.OrderedDict") + b")R}" + text("__class__") + name(f"{CANARY}.Config") + b"sb",
        lambda: call("collections.defaultdict", name(f"{CANARY}.function")),
        lambda: call("pathlib.PosixPath", text("/etc/passwd")),
        lambda: call("builtins.bytearray", b"J\xff\xff\xff\x7f"),
    ],
)  # fmt: skip
def test_names_are_never_imported_nor_given_a_state(
    tmp_path: Path, made: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The module creates a folder when imported, and its class when an instance is created or restored."""
    mark = tmp_path / "ran"
    (tmp_path / f"{CANARY}.py").write_text(
        f"import os\nos.mkdir({str(mark)!r})\nclass Config:\n"
        f"    def __setstate__(self, state): os.mkdir({str(mark / 'state')!r})\ndef function(*a): os.mkdir('x')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    content = P + b"}" + text("x") + made() + b"s."
    with TorchFile(pack(tmp_path / "file", content)) as file:
        assert "x" in file.value
    assert not mark.exists()
    assert CANARY not in sys.modules
    importlib.import_module(CANARY)
    assert mark.exists()  # importing the module creates the folder
    del sys.modules[CANARY]


@pytest.mark.parametrize(
    "content",
    [
        b"]" * 100_000 + b".",  # never one value
        b"}" * 510_000,
        b"(" * 510_000,
        b"]q\0" + b"h\0a" * 260_000 + b".",  # a list in itself
        b"]q\0(" + b"]" * 100_000 + b"e0" + call("collections.OrderedDict", b"h\0") * 70_000 + b".",
        b")" + b"\x86" * 3 + b".",
    ],
    ids=["lists", "dicts", "marks", "itself", "pairs", "short-stack"],
)
def test_pickles_that_grow_are_stopped(content: bytes) -> None:
    with pytest.raises(NotReadable):
        read_pickle(LimitedReader(io.BytesIO(P + content), len(content) + 2))


def test_keys_are_not_hashed_by_the_files_choice() -> None:
    """A tuple of itself twice, 60 times over, would take 2^60 steps to hash; numbers can be made to collide."""
    nested = b")" + b"q\0h\0\x86" * 60
    found = read_pickle(LimitedReader(io.BytesIO(P + b"}" + nested + b"K\x01s."), 500)).value
    assert [type(key) for key in found] == [inert_pickle._Key]
    wide = pickle.dumps({i << 61: 1 for i in range(100)}, 2)
    found = read_pickle(LimitedReader(io.BytesIO(wide), len(wide))).value
    assert {type(key) for key in found} == {int, inert_pickle._Key}


def storage(count: int, kind: str = "torch.FloatStorage") -> bytes:
    number = b"\x8a\x08" + struct.pack("<q", count)
    return b"(" + text("storage") + name(kind) + text("0") + text("cpu") + number + b"tQ"


def tensor(count: int, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> bytes:
    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(b"\x8a\x08" + struct.pack("<q", v) for v in values) + b"t"

    offsets = b"\x8a\x08" + struct.pack("<q", offset)
    args = (storage(count), offsets, numbers(shape), numbers(strides), b"\x89", b"}")
    return call("torch._utils._rebuild_tensor_v2", *args)


@pytest.mark.parametrize(
    ("count", "offset", "shape", "strides", "match"),
    [
        (1 << 30, 0, (4,), (1,), "declares 1073741824 values of torch.float32 but has 16 bytes"),
        (4, 0, (5,), (1,), r"\(5,\) reaches beyond its storage 0"),
        (4, 3, (2,), (1,), "reaches beyond"),
        (4, 0, (2, 2), (1 << 40, 1), "reaches beyond"),
        (4, -1, (2,), (1,), "invalid sizes"),
        (4, 0, (2,), (-1,), "invalid sizes"),
        (4, 0, (-2,), (1,), "invalid sizes"),
        (4, 0, (1,) * 17, (1,) * 17, "invalid sizes"),
        (4, 0, (1, 1), (1,), "invalid sizes"),
    ],
)  # fmt: skip
def test_tensors_stay_within_their_storage(
    tmp_path: Path, count: int, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], match: str
) -> None:
    """``torch.load`` trusts the declared number of values, and reads beyond what the file holds."""
    content = P + b"}" + text("a") + tensor(count, offset, shape, strides) + b"s."
    with TorchFile(pack(tmp_path / "file", content)) as file, pytest.raises(WeightsError, match=match):
        file.tensor(file.value["a"])


def test_sharded_tensors_are_named(tmp_path: Path) -> None:
    content = P + b"}" + text("a") + name("torch.distributed.tensor.DTensor") + b")\x81s."
    refuse(
        pack(tmp_path / "file", content),
        "only a shard of the weights .* Fix: gather them with get_model_state_dict",
    )


def test_damaged_values_are_noticed(tmp_path: Path) -> None:
    torch.save({"a": torch.arange(1000.0)}, tmp_path / "file")
    data = bytearray((tmp_path / "file").read_bytes())
    data[data.index(struct.pack("<f", 500.0))] ^= 1
    (tmp_path / "file").write_bytes(data)
    with TorchFile(tmp_path / "file") as file:
        found: Any = file.tensor(file.value["a"])
        with pytest.raises(WeightsError, match="its values are damaged .*Bad CRC-32.* Fix: fetch it again"):
            found.read()


def test_a_file_larger_than_itself_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "file", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(os.cpu_count() or 1) + bytes(1 << 20))
    refuse(tmp_path / "file", "unpacks to .* bytes, expected at most its size")

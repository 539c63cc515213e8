"""Every command names the kind of a file that is not a checkpoint, and the remedy."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from onnx import helper

import fer_edge.models
from fer_edge._utils.file_kinds import refuse_foreign
from fer_edge.cli import main
from fer_edge.errors import WeightsError
from fer_edge.export.checkpoints import load_any


def archive(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as target:
        for name, data in members.items():
            target.writestr(name, data)
    return file.getvalue()


def tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as target:
        target.addfile(tarfile.TarInfo("notes"))
    return file.getvalue()


def script() -> bytes:
    """Return the parts of a TorchScript archive that identify it."""
    names = ("m/data.pkl", "m/constants.pkl", "m/code/__torch__.py")
    return archive(dict.fromkeys(names, b"x"))


def cut() -> bytes:
    file = io.BytesIO()
    torch.save({"a": torch.ones(1000)}, file)
    return file.getvalue()[:3000]


def onnx_model(producer: str) -> bytes:
    model = helper.make_model(helper.make_graph([], "g", [], []), producer_name=producer)
    data: bytes = model.SerializeToString()
    return data


FILES: dict[str, tuple[bytes, str]] = {
    "page": (b"\n <!DOCTYPE html><html>Quota exceeded</html>", "a web page .HTML.*download the file itself"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 551700000\n", "Git LFS pointer.*551700000 bytes.*git lfs pull"),
    "onnx": (onnx_model(""), "an exported ONNX model.*give the weights themselves"),
    "onnx-2": (onnx_model("pytorch"), "an exported ONNX model"),
    "saved-model": (b"\x08\x01\x12\x03abc", "a TensorFlow SavedModel"),
    "graph": (b"\x0a\x03abc\x0a\x01a\x22\x00", "a TensorFlow graph"),
    "tflite": (b"\x1c\0\0\0TFL3" + bytes(50), "TensorFlow Lite"),
    "h5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5 file, as Keras"),
    "keras": (archive({"config.json": b"{}", "model.weights.h5": b"x"}), "a Keras model"),
    "gguf": (b"GGUF\x03\0\0\0" + bytes(50), "a GGUF file"),
    "zip": (archive({"notes.txt": b"x"}), "a ZIP archive with notes.txt.*unpack it"),
    "tar": (tar(), "a tar archive.*unpack it"),
    "gz": (b"\x1f\x8b\x08" + bytes(20), "a gzip archive.*unpack it"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(20), "a 7z archive"),
    "rar": (b"Rar!\x1a\x07\x01\0" + bytes(20), "a RAR archive"),
    "pickle": (pickle.dumps({"a": [1]}), "a pickle, but not from torch.save"),
    "pickle-of-object": (pickle.dumps(Path("x")), r"found the object pathlib\.\w+, which could run code"),
    "json": (b'{"a": 1}', "a JSON file"),
    "json-index": (b'{"weight_map": {"a": "model-00001.safetensors"}}', "index of weights in 1 files .model-00001"),
    "deep-json": (b"[" * 100_000, "a JSON file"),
    "text": ("grüße\n".encode() * 2000, "a text file .'grüße grüße"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(9), "a PNG picture"),
    "empty": (b"", "empty, 0 bytes.*download it again"),
    "zeros": (bytes(1000), "of no known kind: 1000 bytes"),
    "cut": (cut(), "truncated or damaged ZIP.* of its 3000 bytes the last.*download it again"),
    "cut-safetensors": (b'\x40\0\0\0\0\0\0\0{"a"', "it is truncated: 12 bytes, expected a header of 72"),
    "huge-header": (b"\xff\xff\xff\xff\x0f\0\0\0{" + bytes(20), "its header has 68719476735 bytes"),
    "script": (script(), r"a TorchScript archive.*torch\.jit\.load.*torch\.save\(model\.state_dict\(\)"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "match"), FILES.values(), ids=FILES)
def test_files(tmp_path: Path, data: bytes, match: str) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(data)
    for network in ("resmasking", "conv-attention", None):
        with pytest.raises(WeightsError, match=match) as caught:
            load_any(path, network)
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith(f"{path} cannot be read (it is ")


def fill(names: str) -> Callable[[Path], None]:
    def create(folder: Path) -> None:
        for name in names.split():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).touch()

    return create


@pytest.mark.parametrize(
    ("create", "match"),
    [
        (fill("config.json model.safetensors README.md"), "a folder.*give one file in it: model.safetensors"),
        (fill("config.json model.safetensors.index.json model-1.safetensors"), "weights in several files .model.safe"),
        (fill("saved_model.pb variables/variables.index"), "SavedModel folder.*give its checkpoint, .*variables.index"),
        (fill("saved_model.pb"), "SavedModel folder.*cannot be converted"),
        (fill(".metadata __0_0.distcp"), "sharded checkpoint of torch.distributed.*dcp_to_torch"),
        (fill("data.pkl data/0"), "unpacked file of torch.save"),
        (fill("manifest.json model.onnx"), "a FER-Edge bundle.*fer-edge run"),
        (fill(""), "a folder with nothing"),
    ],
)  # fmt: skip
def test_folders(tmp_path: Path, create: Callable[[Path], None], match: str) -> None:
    create(tmp_path)
    with pytest.raises(WeightsError, match=match):
        load_any(tmp_path, "resmasking")


@pytest.mark.parametrize("kind", ["page", "script", "cut", "cut-safetensors"])
def test_every_command_says_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    path, out = tmp_path / "weights.safetensors", str(tmp_path / "out")
    path.write_bytes(FILES[kind][0])
    with pytest.raises(WeightsError) as caught:
        refuse_foreign(path)
    picture = str(tmp_path / "p.png")
    cv2.imwrite(picture, np.zeros((64, 64, 3), np.uint8))
    for command in (
        ["export", "--model", "resmasking", "--weights", str(path), "--output", f"{out}.onnx"],
        ["build", "--model", "resmasking", "--weights", str(path), "--output", out],
        ["explain", str(path), picture, "--output", f"{out}.png"],
        [
            "train",
            "--data",
            str(tmp_path),
            "--recipe",
            "conv-attention-fer2013",
            "--initial",
            str(path),
            "--output",
            out,
        ],
    ):
        assert main(command) != 0, command
        assert str(caught.value) in capsys.readouterr().err, command
    assert not Path(out).exists()


def test_a_file_is_judged_without_pytorch(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(FILES["page"][0])
    code = f"""
import sys
from pathlib import Path
from fer_edge._utils.file_kinds import refuse_foreign
from fer_edge.errors import WeightsError
try:
    refuse_foreign(Path({str(tmp_path / "x")!r}))
except WeightsError:
    print("refused", "torch" in sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "refused False\n"


def test_what_may_be_weights_passes() -> None:
    (root,) = fer_edge.models.__path__
    refuse_foreign(Path(root) / "conv-attention.safetensors")
    with pytest.raises(WeightsError, match="an exported ONNX model"):
        refuse_foreign(Path(root) / "conv-attention.fer" / "model.onnx")
    with pytest.raises(WeightsError, match="a FER-Edge bundle"):
        refuse_foreign(Path(root) / "conv-attention.fer")

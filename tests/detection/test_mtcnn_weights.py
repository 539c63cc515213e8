"""The converted networks against PyTorch, and the cache that holds them."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fer_edge.backends import BACKENDS, SessionOptions
from fer_edge.detection.base import DetectorOptions
from fer_edge.detection.input_size import open_network
from fer_edge.detection.mtcnn import detector as mtcnn
from fer_edge.detection.mtcnn import weights as mtcnn_weights
from fer_edge.detection.mtcnn.weights import NETWORKS, mtcnn_models, read_weights, weights_folder
from fer_edge.errors import DetectorError, MissingExtraError


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("FER_EDGE_CACHE", str(folder))
    return folder


def reference(name: str, batch: np.ndarray) -> dict[str, np.ndarray]:
    """Run the network as defined by its paper and Keras: PReLU, softmax, a flatten over [W, H, C]."""
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    arrays = [torch.from_numpy(array.copy()) for array in read_weights(name)]

    def layer(x, weight, bias):
        if weight.ndim == 4:
            return F.conv2d(x, weight.permute(3, 2, 0, 1), bias)
        return x @ weight + bias

    x = torch.from_numpy(batch)
    # "same" pads the larger half at the end: here one row and column, or none.
    pools = {"pnet": [2, 0, 0], "rnet": [3, 3, 0, 0], "onet": [3, 3, 2, 0, 0]}[name]
    for pool in pools:
        weight, bias, slope = arrays[:3]
        del arrays[:3]
        if weight.ndim == 2:
            x = x.permute(0, 3, 2, 1).flatten(1)
        x = F.prelu(layer(x, weight, bias), slope.flatten())
        if pool:
            missing = [(-(size - pool)) % 2 for size in (x.shape[3], x.shape[2])]
            x = F.max_pool2d(F.pad(x, (0, missing[0], 0, missing[1]), value=-torch.inf), pool, 2)
    heads = {key: layer(x, *arrays[2 * i : 2 * i + 2]) for i, key in enumerate(NETWORKS[name].heads)}
    heads["score"] = heads["score"].softmax(dim=1)[:, 1:]
    return {key: value.numpy() for key, value in heads.items()}


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("pnet", (1, 3, 12, 12)),
        ("pnet", (2, 3, 37, 50)),
        ("rnet", (1, 3, 24, 24)),
        ("rnet", (7, 3, 24, 24)),
        ("onet", (5, 3, 48, 48)),
    ],
)
def test_networks_compute_what_pytorch_computes(cache, name, shape, backend):
    state = BACKENDS[backend].available()
    if not state.ok:
        pytest.skip(state.reason)
    batch = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    session = open_network(mtcnn_models()[name], BACKENDS[backend], SessionOptions(threads=1))
    outputs = session.run(batch)
    expected = reference(name, batch)
    assert set(outputs) == set(expected)
    for key, value in expected.items():
        np.testing.assert_allclose(outputs[key], value, rtol=1e-4, atol=1e-5, err_msg=key)


@pytest.mark.parametrize("name", NETWORKS)
def test_arrays_are_those_that_joblib_reads(name):
    joblib = pytest.importorskip("joblib")
    arrays = read_weights(name)
    expected = joblib.load(weights_folder() / f"{name}.lz4")
    assert len(arrays) == len(expected)
    for array, other in zip(arrays, expected, strict=True):
        np.testing.assert_array_equal(array, other)


def test_missing_package_says_what_to_install(cache, monkeypatch):
    find = importlib.metadata.distribution

    def missing(name):
        if name == "mtcnn":
            raise importlib.metadata.PackageNotFoundError(name)
        return find(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(MissingExtraError, match=r"extra mtcnn.*Fix: python -m pip install mtcnn==1\.0\.0"):
        mtcnn_models()


def with_weights(folder: Path, monkeypatch) -> None:
    """Return a copy of the published files in place of the package."""
    copy = folder / "mtcnn" / "assets" / "weights"
    copy.mkdir(parents=True)
    for name in NETWORKS:
        (copy / f"{name}.lz4").write_bytes((weights_folder() / f"{name}.lz4").read_bytes())
    package = SimpleNamespace(locate_file=lambda path: folder / path)
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: package)


def test_altered_weights_are_refused(cache, tmp_path, monkeypatch):
    with_weights(tmp_path, monkeypatch)
    path = weights_folder() / "rnet.lz4"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(
        DetectorError, match=r"rnet\.lz4 is not the published file: expected sha256 cb00e6460f3c"
    ):
        mtcnn_models()
    assert not cache.exists()


def test_missing_weights_file_is_named(cache, tmp_path, monkeypatch):
    with_weights(tmp_path, monkeypatch)
    (weights_folder() / "onet.lz4").unlink()
    with pytest.raises(DetectorError, match=r"onet\.lz4 .*No such file"):
        mtcnn_models()


def test_converted_files_need_the_package_no_more(cache, monkeypatch):
    before = mtcnn_models()
    monkeypatch.setattr(mtcnn_weights, "weights_folder", lambda: Path("nowhere"))
    assert mtcnn_models() == before


def test_the_hashes_in_the_code_are_those_of_the_converted_files(cache):
    found = {name: hashlib.sha256(content).hexdigest() for name, content in mtcnn_models().items()}
    assert found == {name: network.onnx_sha256 for name, network in NETWORKS.items()}


@pytest.mark.parametrize("damage", ["truncated", "flipped", "deleted", "a folder", "with a hash of its own"])
def test_damaged_cache_is_built_again(cache, damage):
    contents = mtcnn_models()
    (path,) = cache.glob("*/onet.onnx")
    content = path.read_bytes()
    path.unlink()
    if damage == "truncated":
        path.write_bytes(content[:1000])
    elif damage == "flipped":
        path.write_bytes(content[:-100] + bytes(100))
    elif damage == "a folder":
        path.mkdir()
    elif damage == "with a hash of its own":  # a hash in the cache is not trusted
        path.write_bytes(content[:-100] + bytes(100))
        hashes = {p.stem: hashlib.sha256(p.read_bytes()).hexdigest() for p in path.parent.iterdir()}
        path.with_name("sha256.json").write_text(json.dumps(hashes))
    if damage == "a folder":
        with pytest.raises(DetectorError, match="the detector's networks cannot be written"):
            mtcnn_models()
        return
    assert mtcnn_models() == contents
    assert path.read_bytes() == content


def test_a_file_that_is_exchanged_while_a_detector_opens_is_not_loaded(cache, monkeypatch):
    """A backend gets the bytes that were hashed, even if the cache changes in between."""
    mtcnn_models()
    (folder,) = cache.iterdir()
    opened = []

    class Exchanging(type(BACKENDS["onnxruntime"])):
        def open(self, model, options):
            for path in folder.iterdir():
                path.write_bytes(b"exchanged")
            opened.append(model.sha256)
            return super().open(model, options)

    monkeypatch.setattr(mtcnn, "choose_backend", lambda name: Exchanging())
    detector = mtcnn.MtcnnDetector(DetectorOptions())
    assert opened == [network.onnx_sha256 for network in NETWORKS.values()]
    detector.close()


def test_cache_that_cannot_be_written_names_the_way_out(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FER_EDGE_CACHE", str(tmp_path / "file"))
    with pytest.raises(DetectorError, match="set FER_EDGE_CACHE"):
        mtcnn_models()


def test_processes_convert_at_the_same_time(cache):
    program = (
        "import hashlib, json; from fer_edge.detection.mtcnn.weights import mtcnn_models; "
        "print(json.dumps({n: hashlib.sha256(c).hexdigest() for n, c in mtcnn_models().items()}))"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=os.environ)
        for _ in range(4)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert len(set(outputs)) == 1
    (folder,) = cache.iterdir()
    assert sorted(p.name for p in folder.iterdir()) == ["onet.onnx", "pnet.onnx", "rnet.onnx"]
    assert {p.stem: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()} == json.loads(
        outputs[0]
    )

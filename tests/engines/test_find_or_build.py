"""Engines found in the bundle or the cache, or compiled, on a simulated GPU."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from played_gpu import WEIGHT, PlayedGpu, save_model

from fer_edge.backends import (
    BACKENDS,
    SessionOptions,
)
from fer_edge.bundle import (
    ENGINES,
    ModelFile,
    open_bundle,
)
from fer_edge.engines import find_or_build
from fer_edge.engines.build import builder
from fer_edge.engines.build.ahead_of_time import compile_ahead
from fer_edge.engines.build.options import EngineOptions
from fer_edge.engines.cache.key import EngineKey, GpuKey, PluginKey
from fer_edge.engines.cache.store import EngineCache
from fer_edge.engines.find_or_build import EngineRequest, request_engine
from fer_edge.errors import BackendError
from fer_edge.models.catalogue import shipped_bundle


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_model(tmp_path)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> PlayedGpu:
    return PlayedGpu(monkeypatch, tmp_path)


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx"])
def test_a_model_is_built_once_and_run(machine: PlayedGpu, model: Path, name: str) -> None:
    batch = np.random.default_rng(0).random((19, 3, 2, 2)).astype(np.float32)
    options = SessionOptions(precision="fp32")
    for opened in (False, True):
        assert BACKENDS[name].is_ready(model, options) == opened
        session = BACKENDS[name].open(model, options)
        outputs = session.run(batch)
        assert outputs["logits"].dtype == np.float32  # the engine's is float16
        np.testing.assert_allclose(outputs["logits"], batch.reshape(19, -1) @ WEIGHT, atol=2e-3)
        assert session.rebuilt_because is None
        session.close()
        with pytest.raises(BackendError, match="this session is closed"):
            session.run(batch)
    assert [(o.flavour, o.precision, o.max_batch) for o in machine.built] == [(name, "fp32", 16)]
    assert not BACKENDS[name].is_ready(model, SessionOptions(precision="fp32", max_batch=1))
    assert all(device.left() == {} and device.hazards == [] for device in machine.devices)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"driver": "540.4.0, CUDA 13.0"},
            "built for 10.3.0 sm87 driver 540.4.0, CUDA 12.6, here 10.3.0 sm87 driver 540.4.0, CUDA 13.0",
        ),
        (
            {"name": "Orin, 16 multiprocessors, 61 GiB"},
            "built for 10.3.0 sm87 on Orin, 8 multiprocessors, 7 GiB, here 10.3.0 sm87 on Orin, 16 multiprocessors, 61 GiB",
        ),
    ],
)
def test_an_engine_of_another_device_is_built_again_and_says_why(
    changes: dict[str, str], reason: str, machine: PlayedGpu, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    BACKENDS["tensorrt"].open(model, SessionOptions()).close()
    machine.gpu = dataclasses.replace(machine.gpu, **changes)
    session = BACKENDS["tensorrt"].open(model, SessionOptions())
    assert session.rebuilt_because == reason
    assert caplog.messages == [
        "compiling net.onnx for this device with tensorrt, which may take minutes and is done once",
        "compiling net.onnx for this device with tensorrt, which may take minutes and is done once",
        f"the engine of net.onnx was rebuilt: {reason}",
    ]
    session.close()
    assert [o.precision for o in machine.built] == ["fp32", "fp32"]  # found by looking


def test_who_waits_for_another_build_is_told(
    machine: PlayedGpu, model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def build_slowly(*arguments: Any) -> None:
        begun.set()
        assert go_on.wait(60)
        machine.build(*arguments)

    monkeypatch.setattr(builder, "build_engine", build_slowly)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(BACKENDS["tensorrt"].open, model, SessionOptions())
        assert begun.wait(60)
        second = pool.submit(BACKENDS["tensorrt"].open, model, SessionOptions())
        while not any("waiting" in message for message in caplog.messages):
            assert not wait([first, second], timeout=0.01).done
        time.sleep(0.3)  # several turns: it is said once
        go_on.set()
        for session in (first.result(), second.result()):
            session.close()
    told = [record for record in caplog.records if "waiting" in record.message]
    assert [record.levelname for record in told] == ["WARNING"]
    assert told[0].message == (
        f"waiting 0 s so far, 3600 s at most: process {os.getpid()} is building this engine"
    )
    assert len(machine.built) == 1


def test_a_wait_is_told_of_every_minute(caplog: pytest.LogCaptureFixture) -> None:
    tell = find_or_build._wait_logger()
    for second in range(150):
        for _ in range(20):
            tell("process 7 is building this engine", second, 3600)
    assert [int(message.split()[1]) for message in caplog.messages] == [0, 60, 120]


def test_an_engine_that_was_compiled_elsewhere_is_taken(machine: PlayedGpu, model: Path) -> None:
    """TensorRT-RTX compiles it without name, driver and free memory of the device."""
    pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX: pip install 'fer-edge[rtx]'")
    (report,) = compile_ahead(model, model.parent / ENGINES, "fp32", [(8, 6)])
    machine.gpu = GpuKey(
        (8, 6), "NVIDIA GeForce RTX 3060, 28 multiprocessors, 12 GiB", "580.95.05, CUDA 13.0"
    )
    machine.version = report.versions["tensorrt_rtx"]
    for most in (None, 1):  # one for the usual batches takes single faces too
        BACKENDS["tensorrt-rtx"].open(model, SessionOptions(max_batch=most)).close()
    assert machine.built == []
    machine.gpu = dataclasses.replace(machine.gpu, compute_capability=(8, 9))
    session = BACKENDS["tensorrt-rtx"].open(model, SessionOptions())
    assert "sm86 on any GPU driver none" in str(session.rebuilt_because)
    session.close()
    BACKENDS["tensorrt-rtx"].open(model, SessionOptions(max_batch=32)).close()
    assert [options.max_batch for options in machine.built] == [16, 32]


class Attention(NamedTuple):
    """Models beside an installed plugin."""

    plugin: Path
    operator: Path
    constant: Path


@pytest.fixture
def attention(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Attention:
    plugin = tmp_path / "plugin.so"
    plugin.write_bytes(b"a library")
    monkeypatch.setenv("FER_EDGE_PLUGIN", str(plugin))
    constant = onnx.load(save_model(tmp_path))
    constant.graph.initializer[0].name = constant.graph.node[1].input[1] = "SelfAttention"
    onnx.save(constant, tmp_path / "constant.onnx")
    return Attention(
        plugin, open_bundle(shipped_bundle()).model_path("fp32", "tensorrt"), tmp_path / "constant.onnx"
    )


def test_the_plugin_is_decided_once(
    machine: PlayedGpu, attention: Attention, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decided by the nodes, for the key and the build; the name elsewhere in the file does not count."""
    for path, plugin in ((attention.operator, attention.plugin), (attention.constant, None)):
        model = ModelFile(path, path.read_bytes())
        request = request_engine(model, EngineOptions(), "10.3.0")
        assert request.plugin == plugin
        assert (request.key.plugin is None) == (plugin is None)
        assert request.find_or_build().built
    assert [options.plugin for options in machine.built] == ["required", "none"]
    monkeypatch.delenv("FER_EDGE_PLUGIN")
    monkeypatch.setattr("fer_edge.engines.plugin._candidates", list)
    model = ModelFile(attention.operator, attention.operator.read_bytes())
    request = request_engine(model, EngineOptions(plugin="required"), "10.3.0")
    assert (request.plugin, request.key.plugin, request.options.plugin) == (None, None, "none")


def test_a_library_that_was_named_and_is_missing(machine: PlayedGpu, attention: Attention) -> None:
    attention.plugin.unlink()
    with pytest.raises(
        BackendError, match=r"tensorrt cannot load .*plugin\.so does not exist. Fix: set FER_EDGE_PLUGIN"
    ):
        BACKENDS["tensorrt"].open(attention.operator, SessionOptions())


def place(request: EngineRequest, **changes: Any) -> Path:
    """Write an engine that was compiled ahead of time into the folder of the bundle, and return its file."""
    usual = {name: value for name, value in request.key.options.items() if name != "workspace_share"}
    key: EngineKey = dataclasses.replace(request.key, gpu=None, driver=None, options=usual)
    cache = EngineCache(request.model.path.parent / ENGINES)
    return cache.get_or_build(
        dataclasses.replace(key, **changes), lambda path: path.write_bytes(b"an engine") and None
    ).path


def request_for(model: Path, engines: dict[Path, str] | None = None) -> EngineRequest:
    return request_engine(ModelFile(model, model.read_bytes(), engines), EngineOptions(), "10.3.0")


def test_an_engine_that_the_manifest_does_not_list_is_refused(machine: PlayedGpu, model: Path) -> None:
    """An engine is code: whoever can add a file to a bundle must not have it run."""
    path = place(request_for(model))
    header = next(p for p in path.parent.iterdir() if p.suffix == ".json")
    listed = {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in (path, header)}
    found = request_for(model, listed).find()
    assert found is not None
    assert found.path == path
    assert request_for(model, None).find() is not None  # a file without a manifest
    for engines in ({}, dict.fromkeys(listed, "0" * 64), {model: listed[path]}):
        request = request_for(model, engines)
        assert request.find() is None
        assert request.find_or_build().path.parent == request.cache.folder
        request.cache.find(request.key).path.unlink()  # type: ignore[union-attr]
    assert len(machine.built) == 3


PLUGIN = PluginKey("plugin", "1", "0" * 64)


@pytest.mark.parametrize(
    "changes",
    [
        {"onnx_sha256": "0" * 64},
        {"precision": "int8"},
        {"flavour": "tensorrt-rtx"},
        {"flavour_version": "10.4.0"},
        {"compute_capability": (8, 6)},
        {"gpu": "Orin, 16 multiprocessors, 61 GiB"},
        {"driver": "540.4.0, CUDA 13.0"},
        {"plugin": PLUGIN},
        {"batches": (1, 1, 1)},
        {"options": {"level": 5}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_an_engine_compiled_ahead_of_time_for_anything_else_is_refused(
    changes: dict[str, Any], machine: PlayedGpu, model: Path
) -> None:
    request = request_for(model)
    place(request, **changes)
    assert request.find() is None
    assert request.find_or_build().built
    assert len(machine.built) == 1


@pytest.mark.parametrize("max_batch", [1, 16, 32])
def test_an_engine_compiled_ahead_of_time_is_taken_for_batches_that_it_holds(
    max_batch: int, machine: PlayedGpu, model: Path
) -> None:
    path = place(request_for(model))
    options = EngineOptions(max_batch=max_batch, opt_batch=min(max_batch, EngineOptions.opt_batch))
    found = request_engine(ModelFile(model, model.read_bytes()), options, "10.3.0").find()
    assert (None if found is None else found.path) == (path if max_batch <= 16 else None)

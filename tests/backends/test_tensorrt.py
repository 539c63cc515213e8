"""GPU backends without a GPU: they report the reason and are never chosen.

Cache, runner and session are tested with a simulated GPU; tests/gpu use a real one.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from played_gpu import WEIGHT, PlayedGpu, save_model

from fer_edge import Runtime
from fer_edge.backends import (
    BACKENDS,
    SessionOptions,
    available_backends,
    choose_backend,
    load_session,
    tensorrt,
)
from fer_edge.backends.base import NO_GPU
from fer_edge.bundle import FP16_MODEL, FP32_MODEL, Bundle, Manifest, open_bundle, write_bundle
from fer_edge.cli import main
from fer_edge.cuda.gpus import require_gpu
from fer_edge.errors import BackendError, EngineError, UsageError
from fer_edge.models.catalogue import shipped_bundle
from fer_edge.spec import ModelSpec

GPU_BACKENDS = ("tensorrt", "tensorrt-rtx", "onnxruntime-tensorrt", "onnxruntime-cuda")


def has_gpu() -> bool:
    try:
        require_gpu()
    except EngineError:
        return False
    return True


no_gpu = pytest.mark.skipif(has_gpu(), reason="this machine has a GPU: tests/gpu covers it")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_model(tmp_path)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> PlayedGpu:
    return PlayedGpu(monkeypatch, tmp_path)


@no_gpu
@pytest.mark.parametrize("name", GPU_BACKENDS)
def test_without_a_gpu_they_say_so(name: str, model: Path) -> None:
    with pytest.raises(BackendError, match=f"backend {name} is not available: {NO_GPU}. Fix: .*nvidia-smi"):
        choose_backend(name)
    with pytest.raises(BackendError):
        BACKENDS[name].open(model, SessionOptions())
    with pytest.raises(BackendError, match=f"backend {name} is not available: {NO_GPU}. Fix: .*nvidia-smi"):
        load_session(open_bundle(shipped_bundle()), BACKENDS[name], "fp32")
    assert name not in available_backends()


@no_gpu
def test_machines_without_a_gpu_choose_as_before() -> None:
    assert choose_backend().name in ("openvino", "onnxruntime")


def test_the_order_of_auto() -> None:
    assert list(BACKENDS)[:4] == ["tensorrt", "tensorrt-rtx", "openvino", "onnxruntime"]


@pytest.mark.parametrize(
    ("name", "missing", "fix"),
    [
        (
            "tensorrt",
            "tensorrt",
            "on a Jetson, .*--system-site-packages; never pip install",
        ),
        ("tensorrt-rtx", "tensorrt_rtx", ".*python3? -m pip install 'tensorrt-rtx-cu13"),
        ("tensorrt-rtx", "cuda", ".*python3? -m pip install cuda-python"),
    ],
)
def test_what_is_missing_beside_a_gpu(
    name: str, missing: str, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt, "require_gpu", lambda: None)
    present = object()
    found = lambda module, *rest: None if module == missing else present  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", found)
    with pytest.raises(BackendError, match=f"{name} is not available: .* is not installed. Fix: {fix}"):
        choose_backend(name)


def test_a_dla_has_an_engine_of_its_own(
    machine: PlayedGpu, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    BACKENDS["tensorrt"].open(model, SessionOptions(precision="fp16")).close()
    for allowed, reason in (
        (False, "here 10.3.0 sm87 batches 1/1/1 dla_core=1"),
        (True, "gpu_fallback=True"),
    ):
        options = SessionOptions(precision="fp16", dla_core=1, gpu_fallback=allowed)
        session = BACKENDS["tensorrt"].open(model, options)
        assert str(session.rebuilt_because).endswith(reason)
        session.close()
    assert [(o.max_batch, o.dla_core, o.gpu_fallback) for o in machine.built] == [
        (16, None, False),
        (1, 1, False),
        (1, 1, True),
    ]
    assert machine.dla_cores == [None, 1, 1]
    told = [message for message in caplog.messages if "DLA" in message]
    assert told == ["TensorRT assigns 3 of 5 layers to the DLA"] * 2


def test_a_dla_that_cannot_be(machine: PlayedGpu, model: Path, tmp_path: Path) -> None:
    for name, options, message in (
        ("tensorrt", SessionOptions(precision="fp32", dla_core=0), "a DLA computes only FP16 and INT8"),
        ("tensorrt-rtx", SessionOptions(precision="fp16", dla_core=0), "tensorrt-rtx does not support DLAs"),
        ("tensorrt", SessionOptions(gpu_fallback=True), "gpu_fallback needs a DLA"),
    ):
        with pytest.raises(UsageError, match=message):
            BACKENDS[name].open(model, options)
    bundle = open_bundle(shipped_bundle())
    for name in ("onnxruntime", "openvino", "onnxruntime-tensorrt"):
        with pytest.raises(UsageError, match=f"a DLA needs the backend tensorrt, found {name}"):
            load_session(bundle, BACKENDS[name], "fp32", SessionOptions(dla_core=0))
        with pytest.raises(UsageError, match=r"Fix: use --backend tensorrt, or drop dla_core"):
            load_session(bundle, BACKENDS[name], "fp32", SessionOptions(gpu_fallback=True))
    assert machine.built == []


@pytest.mark.parametrize("by_command", [False, True], ids=["Runtime", "fer-edge run"])
def test_the_dla_that_was_asked_for_computes(
    machine: PlayedGpu,
    model: Path,
    astronaut_file: Path,
    by_command: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = model.parent / "net.fer"
    spec = ModelSpec("net", 2, 2, "rgb", 3, (0.0,) * 3, (1.0,) * 3, tuple("abcde"))
    files = {FP32_MODEL: model, FP16_MODEL: model}
    write_bundle(folder, Manifest(spec, "fp16", {"weights": "trained"}), files)
    if by_command:
        arguments = ["run", str(folder), "--source", str(astronaut_file), "--backend", "tensorrt", "--json"]
        assert main([*arguments, "--dla-core", "1", "--gpu-fallback"]) == 0
        assert json.loads(capsys.readouterr().out)["faces"] == 1
    else:
        with Runtime(folder, backend="tensorrt", dla_core=1, gpu_fallback=True) as runtime:
            assert len(runtime(cv2.imread(str(astronaut_file))).faces) == 1
    assert [(o.precision, o.dla_core, o.gpu_fallback) for o in machine.built] == [("fp16", 1, True)]
    assert machine.dla_cores == [1]


@pytest.mark.parametrize("given", [["--dla-core", "0"], ["--gpu-fallback"]])
def test_a_dla_asked_of_a_cpu(
    given: list[str], astronaut_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--source", str(astronaut_file), "--backend", "onnxruntime", *given]) == 2
    assert (
        "a DLA needs the backend tensorrt, found onnxruntime. Fix: use --backend tensorrt, or drop dla_core "
        "and gpu_fallback (--dla-core, --gpu-fallback)"
    ) in " ".join(capsys.readouterr().err.split())


def test_device_arrays_stay_on_the_device(machine: PlayedGpu, model: Path) -> None:
    batch = np.random.default_rng(0).random((3, 3, 2, 2)).astype(np.float32)
    session = BACKENDS["tensorrt"].open(model, SessionOptions())
    given = machine.devices[-1].put(batch)
    np.testing.assert_allclose(session.run(given)["logits"], batch.reshape(3, -1) @ WEIGHT, atol=2e-3)
    session.close()


@pytest.mark.parametrize(
    "batch", [np.zeros((1, 3, 2, 2)), np.zeros((0, 3, 2, 2), np.float32), np.zeros((1, 3, 2, 3), np.float32)]
)
def test_batches_that_do_not_fit(machine: PlayedGpu, model: Path, batch: np.ndarray) -> None:
    session = BACKENDS["tensorrt"].open(model, SessionOptions())
    with pytest.raises(BackendError, match=r"\(" + ", ".join(map(str, batch.shape))):
        session.run(batch)
    session.close()


def test_what_the_builder_refuses(machine: PlayedGpu, model: Path) -> None:
    machine.refuse = "net.onnx cannot be parsed: no such operator"
    with pytest.raises(BackendError, match=r"tensorrt cannot load .*net\.onnx: .*no such operator"):
        BACKENDS["tensorrt"].open(model, SessionOptions())
    for content in (b"", b"garbage"):
        model.write_bytes(content)
        with pytest.raises(BackendError, match=r"tensorrt cannot load .*net\.onnx"):
            BACKENDS["tensorrt"].open(model, SessionOptions())
    with pytest.raises(BackendError, match=r"tensorrt cannot load .*gone\.onnx"):
        BACKENDS["tensorrt"].open(model.with_name("gone.onnx"), SessionOptions())


def test_crops_on_the_device_need_the_kernels(
    machine: PlayedGpu, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without kernels the call raises and the session stays usable; tests/gpu test the kernel."""
    spec = ModelSpec("net", 2, 2, "rgb", 3, (0.0,) * 3, (1.0,) * 3, tuple("abcde"))
    session = BACKENDS["tensorrt"].open(model, SessionOptions())
    device = machine.devices[-1]
    frame = device.put(np.zeros((8, 8, 3), np.uint8))
    monkeypatch.setattr(
        tensorrt, "availability", lambda: tensorrt.Availability(False, reason="no kernels", fix="build")
    )
    with pytest.raises(BackendError, match="needs the CUDA kernels: no kernels. Fix: build"):
        session.run_crops(frame, [(0, 0, 4, 4)], spec)

    seen: list[tuple[Any, ...]] = []

    def kernel(pixels: Any, rectangles: Any, spec: Any, out: Any, *, stream: int, chroma: Any) -> None:
        seen.append((pixels.address, list(rectangles), out.shape, stream))
        size = int(np.prod(out.shape)) * 4
        values = np.array([r[0] for r in rectangles], np.float32)[:, None] * np.ones(12, np.float32)
        device.run_on(
            stream,
            lambda: np.copyto(device.view(out.address, size), values.reshape(-1).view(np.uint8)),
            [(out.address, size)],
        )

    monkeypatch.setattr(tensorrt, "availability", lambda: tensorrt.Availability(True))
    monkeypatch.setattr(tensorrt, "crop_resize_normalize", kernel)
    rectangles = [(i, 0, i + 4, 4) for i in range(18)]
    found = session.run_crops(frame, rectangles, spec)["logits"]
    expected = np.arange(18, dtype=np.float32)[:, None] * np.ones(12, np.float32) @ WEIGHT
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-2)
    stream = session.runner.input_stream
    address = frame.memory.ctypes.data
    assert seen == [
        (address, rectangles[:16], (16, 3, 2, 2), stream),
        (address, rectangles[16:], (2, 3, 2, 2), stream),
    ]
    session.close()


def test_auto_takes_a_backend_whose_model_the_bundle_holds(
    machine: PlayedGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = ModelSpec("net", 8, 8, "rgb", 3, (0.0,) * 3, (1.0,) * 3, tuple("abcde"))

    def bundle(*files: str) -> Bundle:
        return Bundle(tmp_path, Manifest(spec, "int8", {}, files=dict.fromkeys(files)))  # type: ignore[arg-type]

    everything = bundle("model.onnx", "model.int8.cpu.onnx", "model.int8.tensorrt.onnx")
    cpu_only = bundle("model.onnx", "model.int8.cpu.onnx")
    assert choose_backend("auto", everything).name == "tensorrt"
    assert choose_backend("auto", cpu_only).name in ("openvino", "onnxruntime")
    assert choose_backend("auto", cpu_only, "fp32").name == "tensorrt"
    assert choose_backend("auto", bundle("model.onnx")).name == "onnxruntime"

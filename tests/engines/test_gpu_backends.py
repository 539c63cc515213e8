"""Backends of a GPU where there is none: they say why, are never chosen, and never compute on the CPU instead.

What they do once there is a GPU is played through on a fake one: cache, runner, session. Real ones: tests/gpu.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import threading
import time
import types
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from fake_device import FakeDevice, FakeNetwork
from onnx import TensorProto, helper, numpy_helper

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
from fer_edge.backends.onnx_file import precision_of, read_graph
from fer_edge.backends.onnxruntime import (
    CUDA_OPTIONS,
    OnnxRuntimeGpuBackend,
    OnnxRuntimeSession,
    make_tensorrt_options,
)
from fer_edge.backends.tensorrt import TensorRtBackend
from fer_edge.bundle import ENGINES, FP16_MODEL, FP32_MODEL, Bundle, Manifest, open_bundle, write_bundle
from fer_edge.cli import main
from fer_edge.cuda.gpus import require_gpu
from fer_edge.engines import find_or_build
from fer_edge.engines.build import builder
from fer_edge.engines.build.ahead_of_time import compile_ahead
from fer_edge.engines.build.builder import EngineOptions
from fer_edge.engines.cache.key import GpuKey
from fer_edge.engines.run.engine import TensorInfo
from fer_edge.errors import BackendError, EngineError, UsageError
from fer_edge.models.catalogue import shipped_bundle
from fer_edge.spec import ModelSpec

GPU_BACKENDS = ("tensorrt", "tensorrt-rtx", "onnxruntime-tensorrt", "onnxruntime-cuda")
WEIGHT = np.random.default_rng(2).normal(size=(12, 5)).astype(np.float32)


def has_gpu() -> bool:
    try:
        require_gpu()
    except EngineError:
        return False
    return True


no_gpu = pytest.mark.skipif(has_gpu(), reason="this machine has a GPU: tests/gpu covers it")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Input [N, 3, 2, 2], output logits [N, 5]."""
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["logits"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 2, 2])
    y = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 5])
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(WEIGHT, "w")])
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@no_gpu
@pytest.mark.parametrize("name", GPU_BACKENDS)
def test_without_a_gpu_they_say_so(name: str, model: Path) -> None:
    with pytest.raises(BackendError, match=f"backend {name} is not available: {NO_GPU}; run: nvidia-smi"):
        choose_backend(name)
    with pytest.raises(BackendError):
        BACKENDS[name].open(model, SessionOptions())
    with pytest.raises(BackendError, match=f"backend {name} is not available: {NO_GPU}; run: nvidia-smi"):
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
            "on a Jetson it comes with JetPack .*--system-site-packages; never pip install",
        ),
        ("tensorrt-rtx", "tensorrt_rtx", "python -m pip install 'tensorrt-rtx-cu13"),
        ("tensorrt-rtx", "cuda", "pip install cuda-python"),
    ],
)
def test_what_is_missing_beside_a_gpu(
    name: str, missing: str, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt, "require_gpu", lambda: None)
    present = object()
    found = lambda module, *rest: None if module == missing else present  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", found)
    with pytest.raises(BackendError, match=f"{name} is not available: .* is not installed; run: {fix}"):
        choose_backend(name)


def test_an_onnx_runtime_without_the_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fer_edge.backends.onnxruntime.require_gpu", lambda: None)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(
        BackendError, match="this ONNX Runtime has no CUDAExecutionProvider; run: .*onnxruntime-gpu"
    ):
        choose_backend("onnxruntime-cuda")
    with pytest.raises(BackendError, match="has no TensorrtExecutionProvider"):
        choose_backend("onnxruntime-tensorrt")


class TestOnnxRuntimeNeverFallsBack:
    """On the real ONNX Runtime, with providers that it lists here or does not."""

    def test_a_provider_that_does_not_start(self, model: Path) -> None:
        """ONNX Runtime warns, and would go on with the CPU."""
        if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            pytest.skip("this ONNX Runtime has the provider")
        with (
            pytest.warns(UserWarning, match="CUDAExecutionProvider"),
            pytest.raises(BackendError, match="onnxruntime-cuda cannot load .*net.onnx"),
        ):
            OnnxRuntimeSession(
                model, SessionOptions(), {"CUDAExecutionProvider": CUDA_OPTIONS}, "onnxruntime-cuda"
            )

    def test_a_provider_that_takes_no_operator(self, model: Path) -> None:
        if "AzureExecutionProvider" not in onnxruntime.get_available_providers():
            pytest.skip("needs a provider beside the CPU's: this ONNX Runtime has none")
        with pytest.raises(
            BackendError, match=r"azure cannot load .*net.onnx: .*fallback to CPU EP has been explicitly"
        ):
            OnnxRuntimeSession(model, SessionOptions(), {"AzureExecutionProvider": {}}, "azure")

    def test_the_cpu_when_it_is_asked_for(self, model: Path) -> None:
        batch = np.ones((2, 3, 2, 2), np.float32)
        session = OnnxRuntimeSession(model, SessionOptions(threads=1))
        np.testing.assert_allclose(session.run(batch)["logits"], batch.reshape(2, -1) @ WEIGHT, rtol=1e-5)


#: Of the pages "TensorRT Execution Provider" and "CUDA Execution Provider" of ONNX Runtime's documentation.
DOCUMENTED = {
    "tensorrt": {
        "trt_fp16_enable",
        "trt_int8_enable",
        "trt_profile_min_shapes",
        "trt_profile_opt_shapes",
        "trt_profile_max_shapes",
    },
    "cuda": {"use_tf32"},
}


class TestOptionsOfOnnxRuntimesProviders:
    @pytest.mark.parametrize(
        ("precision", "max_batch", "batches", "enabled"),
        [
            ("fp32", None, (1, 8, 16), {}),
            ("int8", 64, (1, 8, 64), {"trt_int8_enable": "1"}),
            ("fp16", 3, (1, 3, 3), {"trt_fp16_enable": "1"}),
            ("fp32", 1, (1, 1, 1), {}),
        ],
    )
    def test_one_profile_for_all_batches(
        self, model: Path, precision: str, max_batch: int | None, batches: tuple[int, ...], enabled: Any
    ) -> None:
        options, largest = make_tensorrt_options(read_graph(model), precision, max_batch)
        ends = zip(("min", "opt", "max"), batches, strict=True)
        assert options == {f"trt_profile_{end}_shapes": f"x:{size}x3x2x2" for end, size in ends} | enabled
        assert largest == batches[-1]

    def test_a_fixed_batch_needs_no_profile(self, model: Path) -> None:
        graph = read_graph(model)
        graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
        assert make_tensorrt_options(graph, "fp32", 16) == ({}, 4)

    def test_open_sizes_and_several_inputs_are_refused(self, model: Path) -> None:
        graph = read_graph(model)
        graph.input[0].type.tensor_type.shape.dim[3].dim_param = "W"
        with pytest.raises(EngineError, match=r"but the batch must be fixed, found \[\?, 3, 2, \?\]"):
            make_tensorrt_options(graph, "fp32")
        graph.input.add(name="y")
        with pytest.raises(EngineError, match="it has 2 inputs, not one"):
            make_tensorrt_options(graph, "fp32")

    def test_an_initializer_may_be_listed_as_an_input(self, model: Path) -> None:
        graph = read_graph(model)
        graph.input.add(name="w")
        assert make_tensorrt_options(graph, "fp32")[0]["trt_profile_min_shapes"] == "x:1x3x2x2"

    @pytest.mark.parametrize("provider", list(DOCUMENTED))
    def test_the_names_are_those_of_the_library(self, provider: str, model: Path) -> None:
        graph = read_graph(model)
        used = {name for p in ("fp32", "fp16", "int8") for name in make_tensorrt_options(graph, p)[0]}
        assert DOCUMENTED[provider] == (used if provider == "tensorrt" else set(CUDA_OPTIONS))
        library = Path(onnxruntime.__file__).parent / "capi" / f"libonnxruntime_providers_{provider}.so"
        if not library.exists():
            pytest.skip("this ONNX Runtime has no providers for GPUs: pip install onnxruntime-gpu")
        content = library.read_bytes()
        for name in DOCUMENTED[provider]:
            assert name.encode() + b"\0" in content


class PlayedProviders(onnxruntime.InferenceSession):
    """ONNX Runtime on the CPU that says it started the providers asked for; ``refuse`` is what they say instead."""

    given: ClassVar[list[list[tuple[str, dict[str, str]]]]] = []
    refuse = ""

    def __init__(self, model: str, settings: Any, providers: Any, enable_fallback: int) -> None:
        assert settings.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
        assert not enable_fallback
        self.given.append(providers)
        if self.refuse:
            raise RuntimeError(self.refuse)
        super().__init__(model, providers=["CPUExecutionProvider"])

    def get_providers(self) -> list[str]:
        return [name for name, _ in self.given[-1]]


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> type[PlayedProviders]:
    monkeypatch.setattr(PlayedProviders, "given", [])
    monkeypatch.setattr(onnxruntime, "InferenceSession", PlayedProviders)
    monkeypatch.setattr(OnnxRuntimeGpuBackend, "available", lambda self: tensorrt.Availability(True))
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    return PlayedProviders


def test_cuda_computes_fp32_in_fp32(
    played: type[PlayedProviders], model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    BACKENDS["onnxruntime-cuda"].open(model, SessionOptions(max_batch=4)).close()
    assert played.given == [[("CUDAExecutionProvider", {"use_tf32": "0"})]]
    assert caplog.messages == []


def test_the_tensorrt_provider_gets_a_profile_and_says_what_it_cannot_do(
    played: type[PlayedProviders],
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    backend = BACKENDS["onnxruntime-tensorrt"]
    compiling = "compiling net.onnx for this device, as at each start; it may take minutes"
    tf32 = "FP32 in net.onnx is computed in TF32, of ten bits; with NVIDIA_TF32_OVERRIDE=0, or the backend tensorrt, it is not"
    half = "what net.onnx keeps in FP32 may be computed in FP16; with the backend tensorrt it is not"
    for precision, told in ((None, tf32), ("int8", tf32), ("fp16", half)):
        caplog.clear()
        backend.open(model, SessionOptions(precision=precision)).close()
        assert caplog.messages == [compiling, told]
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    caplog.clear()
    backend.open(model, SessionOptions(max_batch=4)).close()
    assert caplog.messages == [compiling]
    expected = make_tensorrt_options(read_graph(model), "fp32", 4)[0]
    assert played.given[-1] == [
        ("TensorrtExecutionProvider", expected),
        ("CUDAExecutionProvider", {"use_tf32": "0"}),
    ]


def test_batches_beyond_the_profile_are_run_in_parts(played: type[PlayedProviders], model: Path) -> None:
    """The file's batch is fixed, so ONNX Runtime itself refuses any other."""
    content = onnx.load(model)
    for value in (content.graph.input[0], content.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(content, model)
    batch = np.random.default_rng(1).random((12, 3, 2, 2)).astype(np.float32)
    session = BACKENDS["onnxruntime-tensorrt"].open(model, SessionOptions())
    np.testing.assert_allclose(session.run(batch)["logits"], batch.reshape(12, -1) @ WEIGHT, rtol=1e-5)
    with pytest.raises(BackendError, match=r"onnxruntime-tensorrt failed on \(3, 3, 2, 2\)"):
        session.run(batch[:3])
    session.close()


def test_what_the_tensorrt_provider_refuses(
    played: type[PlayedProviders], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The words are those of ONNX Runtime 1.31.1."""
    refusal = (
        "User needs to provide all the dynamic shape inputs with associated profiles if they want to explicitly "
        "set profiles through provider options.\nPlease note that main graph could be partitioned"
    )
    for said, hint in ((refusal, "; TensorRT takes this network in parts only: use the backend onnxruntime-cuda"),
                       ("TensorRT EP could not build engine", "")):  # fmt: skip
        monkeypatch.setattr(played, "refuse", said)
        with pytest.raises(BackendError) as caught:
            BACKENDS["onnxruntime-tensorrt"].open(model, SessionOptions())
        first = said.split("\n")[0]
        assert str(caught.value) == f"onnxruntime-tensorrt cannot load {model}: {first}{hint}"
    for content, reason in ((b"garbage", "it is no ONNX file"), (b"", "it has 0 inputs, not one")):
        model.write_bytes(content)
        with pytest.raises(BackendError, match=f"onnxruntime-tensorrt cannot load .*net.onnx: {reason}"):
            BACKENDS["onnxruntime-tensorrt"].open(model, SessionOptions())


def test_the_precision_of_a_file(model: Path, tmp_path: Path) -> None:
    assert precision_of(read_graph(model)) == "fp32"
    graph = onnx.load(model)
    half = onnx.load(model)
    half.graph.initializer[0].CopyFrom(numpy_helper.from_array(WEIGHT.astype(np.float16), "w"))
    onnx.save(half, tmp_path / "half.onnx")
    assert precision_of(read_graph(tmp_path / "half.onnx")) == "fp16"
    graph.graph.node.append(helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]))
    onnx.save(graph, tmp_path / "q.onnx")
    assert precision_of(read_graph(tmp_path / "q.onnx")) == "int8"
    (tmp_path / "bad.onnx").write_bytes(b"garbage")
    with pytest.raises(EngineError, match="it is no ONNX file"):
        read_graph(tmp_path / "bad.onnx")


class Machine:
    """A GPU and its compiler, played: engines hold the name of their model, a fake device runs them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.devices: list[Any] = []
        self.built: list[EngineOptions] = []
        self.dla_cores: list[int | None] = []
        self.gpu = GpuKey((8, 7), "Orin, 8 multiprocessors, 7 GiB", "540.4.0, CUDA 12.6")
        self.version = "10.3.0"
        self.refuse = ""
        monkeypatch.setenv("FER_EDGE_CACHE", str(folder / "cache"))
        monkeypatch.setattr(find_or_build, "identify_gpu", lambda: self.gpu)
        monkeypatch.setattr(tensorrt, "TensorRtDevice", self.open_device)
        monkeypatch.setattr(builder, "build_engine", self.build)
        available = lambda backend: tensorrt.Availability(True, self.version)  # noqa: E731
        monkeypatch.setattr(TensorRtBackend, "available", available)

    def build(self, model: Path, output: Path, options: EngineOptions) -> Any:
        if self.refuse:
            raise EngineError(self.refuse)
        self.built.append(options)
        output.write_bytes(b"engine of " + model.name.encode())
        return types.SimpleNamespace(layers=5, dla_layers=0 if options.dla_core is None else 3)

    def open_device(
        self,
        flavour: str,
        plugin: Path | None = None,
        dla_core: int | None = None,
        plugin_sha256: str | None = None,
    ) -> Any:
        self.dla_cores.append(dla_core)

        def compute(batch: np.ndarray) -> dict[str, np.ndarray]:
            return {"logits": (batch.reshape(len(batch), -1) @ WEIGHT).astype(np.float16)}

        network = FakeNetwork(
            compute,
            TensorInfo("x", np.dtype(np.float32), (3, 2, 2)),
            (TensorInfo("logits", np.dtype(np.float16), (5,)),),
        )
        self.devices.append(FakeDevice(network, lambda: 0.0))
        return self.devices[-1]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    return Machine(monkeypatch, tmp_path)


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx"])
def test_a_model_is_built_once_and_run(machine: Machine, model: Path, name: str) -> None:
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
    changes: dict[str, str], reason: str, machine: Machine, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    BACKENDS["tensorrt"].open(model, SessionOptions()).close()
    machine.gpu = dataclasses.replace(machine.gpu, **changes)
    session = BACKENDS["tensorrt"].open(model, SessionOptions())
    assert session.rebuilt_because == reason
    assert caplog.messages == [
        "compiling net.onnx for this device with tensorrt, once; it may take minutes",
        "compiling net.onnx for this device with tensorrt, once; it may take minutes",
        f"the engine of net.onnx was built again: {reason}",
    ]
    session.close()
    assert [o.precision for o in machine.built] == ["fp32", "fp32"]  # found by looking


def test_who_waits_for_another_build_is_told(
    machine: Machine, model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
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
        f"waiting, 0 s so far and 3600 at most: process {os.getpid()} builds this engine"
    )
    assert len(machine.built) == 1


def test_a_wait_is_told_of_every_minute(caplog: pytest.LogCaptureFixture) -> None:
    tell = find_or_build._wait_logger()
    for second in range(150):
        for _ in range(20):
            tell("process 7 builds this engine", second, 3600)
    assert [int(message.split()[1]) for message in caplog.messages] == [0, 60, 120]


def test_an_engine_that_was_compiled_elsewhere_is_taken(machine: Machine, model: Path) -> None:
    """TensorRT-RTX compiles it here; it knows neither name nor driver nor free memory of the device."""
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


def test_a_dla_has_an_engine_of_its_own(
    machine: Machine, model: Path, caplog: pytest.LogCaptureFixture
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
    assert told == ["TensorRT gives 3 of 5 layers to the DLA"] * 2


def test_a_dla_that_cannot_be(machine: Machine, model: Path, tmp_path: Path) -> None:
    for name, options, message in (
        ("tensorrt", SessionOptions(precision="fp32", dla_core=0), "a DLA computes FP16 and INT8"),
        ("tensorrt-rtx", SessionOptions(precision="fp16", dla_core=0), "tensorrt-rtx serves no DLA"),
        ("tensorrt", SessionOptions(gpu_fallback=True), "gpu_fallback is for a DLA"),
    ):
        with pytest.raises(UsageError, match=message):
            BACKENDS[name].open(model, options)
    bundle = open_bundle(shipped_bundle())
    for name in ("onnxruntime", "openvino", "onnxruntime-tensorrt"):
        with pytest.raises(UsageError, match=f"a DLA needs the backend tensorrt, found {name}"):
            load_session(bundle, BACKENDS[name], "fp32", SessionOptions(dla_core=0))
        with pytest.raises(UsageError, match=r"choose that \(--backend tensorrt\), or leave dla_core"):
            load_session(bundle, BACKENDS[name], "fp32", SessionOptions(gpu_fallback=True))
    assert machine.built == []


@pytest.mark.parametrize("by_command", [False, True], ids=["Runtime", "fer-edge run"])
def test_the_dla_that_was_asked_for_computes(
    machine: Machine, model: Path, astronaut_file: Path, by_command: bool, capsys: pytest.CaptureFixture[str]
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
        "a DLA needs the backend tensorrt, found onnxruntime: choose that (--backend tensorrt), or leave dla_core "
        "and gpu_fallback (--dla-core, --gpu-fallback) out"
    ) in " ".join(capsys.readouterr().err.split())


def test_device_arrays_stay_on_the_device(machine: Machine, model: Path) -> None:
    batch = np.random.default_rng(0).random((3, 3, 2, 2)).astype(np.float32)
    session = BACKENDS["tensorrt"].open(model, SessionOptions())
    given = machine.devices[-1].put(batch)
    np.testing.assert_allclose(session.run(given)["logits"], batch.reshape(3, -1) @ WEIGHT, atol=2e-3)
    session.close()


@pytest.mark.parametrize(
    "batch", [np.zeros((1, 3, 2, 2)), np.zeros((0, 3, 2, 2), np.float32), np.zeros((1, 3, 2, 3), np.float32)]
)
def test_batches_that_do_not_fit(machine: Machine, model: Path, batch: np.ndarray) -> None:
    session = BACKENDS["tensorrt"].open(model, SessionOptions())
    with pytest.raises(BackendError, match=r"\(" + ", ".join(map(str, batch.shape))):
        session.run(batch)
    session.close()


def test_what_the_builder_refuses(machine: Machine, model: Path) -> None:
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
    machine: Machine, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there are none the call says so, and the session lives on; the kernel itself: tests/gpu."""
    spec = ModelSpec("net", 2, 2, "rgb", 3, (0.0,) * 3, (1.0,) * 3, tuple("abcde"))
    session = BACKENDS["tensorrt"].open(model, SessionOptions())
    device = machine.devices[-1]
    frame = device.put(np.zeros((8, 8, 3), np.uint8))
    monkeypatch.setattr(
        tensorrt, "availability", lambda: tensorrt.Availability(False, reason="no kernels", fix="build")
    )
    with pytest.raises(BackendError, match="need the CUDA kernels: no kernels; run: build"):
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
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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

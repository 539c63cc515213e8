"""GPU providers of ONNX Runtime: they report limitations and never fall back to the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import onnxruntime
import pytest
from played_gpu import WEIGHT, save_model

from fer_edge._utils.onnx_files import read_graph
from fer_edge.backends import (
    BACKENDS,
    SessionOptions,
    choose_backend,
    tensorrt,
)
from fer_edge.backends.onnxruntime import (
    CUDA_OPTIONS,
    OnnxRuntimeGpuBackend,
    OnnxRuntimeSession,
    make_tensorrt_options,
)
from fer_edge.errors import BackendError, EngineError


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_model(tmp_path)


def test_an_onnx_runtime_without_the_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fer_edge.backends.onnxruntime.require_gpu", lambda: None)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(
        BackendError, match="this ONNX Runtime lacks CUDAExecutionProvider. Fix: .*onnxruntime-gpu"
    ):
        choose_backend("onnxruntime-cuda")
    with pytest.raises(BackendError, match="lacks TensorrtExecutionProvider"):
        choose_backend("onnxruntime-tensorrt")


class TestOnnxRuntimeNeverFallsBack:
    """With the real ONNX Runtime and providers that it lists or does not list."""

    def test_a_provider_that_does_not_start(self, model: Path) -> None:
        """ONNX Runtime warns, and would fall back to the CPU."""
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
        with pytest.raises(EngineError, match=r"except the batch must be fixed, found \[\?, 3, 2, \?\]"):
            make_tensorrt_options(graph, "fp32")
        graph.input.add(name="y")
        with pytest.raises(EngineError, match="it has 2 inputs, expected one"):
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
    """CPU ONNX Runtime that reports the requested providers as started; ``refuse`` is the error of a failed start."""

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
    compiling = "compiling net.onnx for this device, which may take minutes and is repeated at each start"
    tf32 = "FP32 in net.onnx is computed in TF32 (10-bit mantissa); set NVIDIA_TF32_OVERRIDE=0 or use the backend tensorrt for true FP32"
    half = "layers of net.onnx in FP32 may be computed in FP16; the backend tensorrt keeps them in FP32"
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
    """The file has a static batch, so ONNX Runtime itself rejects any other."""
    content = onnx.load(model)
    for value in (content.graph.input[0], content.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(content, model)
    batch = np.random.default_rng(1).random((12, 3, 2, 2)).astype(np.float32)
    session = BACKENDS["onnxruntime-tensorrt"].open(model, SessionOptions())
    np.testing.assert_allclose(session.run(batch)["logits"], batch.reshape(12, -1) @ WEIGHT, rtol=1e-5)
    with pytest.raises(BackendError, match=r"onnxruntime-tensorrt failed on a batch \(3, 3, 2, 2\)"):
        session.run(batch[:3])
    session.close()


def test_what_the_tensorrt_provider_refuses(
    played: type[PlayedProviders], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The messages are those of ONNX Runtime 1.31.1."""
    refusal = (
        "User needs to provide all the dynamic shape inputs with associated profiles if they want to explicitly "
        "set profiles through provider options.\nPlease note that main graph could be partitioned"
    )
    for said, hint in ((refusal, "; TensorRT supports only parts of this network. Fix: use --backend onnxruntime-cuda"),
                       ("TensorRT EP could not build engine", ". Fix: build the bundle again with fer-edge build, or choose another backend (--backend)")):  # fmt: skip
        monkeypatch.setattr(played, "refuse", said)
        with pytest.raises(BackendError) as caught:
            BACKENDS["onnxruntime-tensorrt"].open(model, SessionOptions())
        first = said.split("\n")[0]
        assert str(caught.value) == f"onnxruntime-tensorrt cannot load {model}: {first}{hint}"
    for content, reason in ((b"garbage", "it is not an ONNX file"), (b"", "it has 0 inputs, expected one")):
        model.write_bytes(content)
        with pytest.raises(BackendError, match=f"onnxruntime-tensorrt cannot load .*net.onnx: {reason}"):
            BACKENDS["onnxruntime-tensorrt"].open(model, SessionOptions())

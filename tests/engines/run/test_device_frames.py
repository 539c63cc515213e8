"""Device frames in the runtime on a simulated GPU, with emulated kernels and the real network.

The reference is the same frame on the host: crops of the CPU, in the same session and in ONNX Runtime.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from emulated_kernels import Emulation
from fake_device import Dlpack, FakeArray, FakeDevice, FakeNetwork, random_delays
from fixed_detector import FixedDetector
from turning import turn_picture

from fer_edge import Runtime
from fer_edge._utils.images import read_image
from fer_edge.backends import BACKENDS, CropSession, SessionOptions, available_backends, tensorrt
from fer_edge.backends.tensorrt import TensorRtBackend, TensorRtSession
from fer_edge.bundle import Bundle, open_bundle
from fer_edge.cuda import kernels
from fer_edge.cuda.arrays import DeviceArray
from fer_edge.engines.run.engine import TensorInfo
from fer_edge.engines.run.runner import EngineRunner
from fer_edge.errors import BackendError, DataError, FerEdgeError, SelfTestError, UsageError
from fer_edge.frames import Frame
from fer_edge.models.catalogue import shipped_bundle
from fer_edge.results import FrameResult

FACE = (180.0, 60.0, 270.0, 175.0)  # of the astronaut
FLOAT32 = np.dtype(np.float32)


class Gpu:
    """Simulated device of the backend ``tensorrt``, with emulated kernels."""

    def __init__(self, emulation: Emulation, monkeypatch: pytest.MonkeyPatch) -> None:
        self.emulation, self.devices = emulation, list[FakeDevice]()
        self.delay: Callable[[], float] | None = None
        self.change: Callable[[dict[str, np.ndarray]], Any] = dict  # of what the network computes
        self.bundle = open_bundle(shipped_bundle())
        self._session = BACKENDS["onnxruntime"].open(
            self.bundle.path / "model.onnx", SessionOptions(threads=1)
        )
        monkeypatch.setattr(tensorrt, "crop_resize_normalize", self._crop)
        monkeypatch.setattr(TensorRtBackend, "open", lambda *_: TensorRtSession(self._run_engine()))
        monkeypatch.setattr(TensorRtBackend, "available", lambda self: tensorrt.Availability(True, "10.3.0"))

    @property
    def device(self) -> FakeDevice:
        return self.devices[-1]

    def put(self, frame: np.ndarray, **how: Any) -> FakeArray:
        return self.device.put(frame, **how)

    def _run_engine(self) -> EngineRunner:
        return EngineRunner(self._open_device, Path("fake.engine"))

    def _open_device(self) -> FakeDevice:
        shape = self.bundle.spec.input_shape
        outputs = self._session.run(np.zeros((1, *shape), np.float32))
        infos = tuple(TensorInfo(name, FLOAT32, values.shape[1:]) for name, values in outputs.items())
        network = FakeNetwork(self._compute, TensorInfo("input", FLOAT32, shape), infos)
        self.devices.append(FakeDevice(network, self.delay))
        return self.devices[-1]

    def _compute(self, batch: np.ndarray) -> Any:
        return self.change(dict(self._session.run(batch)))

    def _crop(self, frame: DeviceArray, rectangles: Any, spec: Any, out: DeviceArray, **how: Any) -> None:
        """Call the real binding and kernel as stream work that reads the frame and writes the batch."""
        self.emulation.place_address(frame.address)
        self.emulation.place_address(out.address)
        height, width, _ = frame.shape
        pitch = frame.strides[0] if frame.strides else 3 * width
        self.device.run_on(
            how["stream"],
            lambda: kernels.crop_resize_normalize(frame, rectangles, spec, out, **how),
            writes=[(out.address, int(np.prod(out.shape)) * 4)],
            reads=[(frame.address, (height - 1) * pitch + 3 * width)],
        )


@pytest.fixture
def gpu(emulation: Emulation, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    """Simulated GPU; every device that a test opens must be freed completely."""
    opened = Gpu(emulation, monkeypatch)
    yield opened
    for device in opened.devices:
        assert device.hazards == []
        assert device.left() == {}
        assert device.closed


def assert_same(found: FrameResult, expected: FrameResult, atol: float = 0.0) -> None:
    assert len(found.faces) == len(expected.faces)
    for face, other in zip(found.faces, expected.faces, strict=True):
        for name in ("box_xyxy", "detection_score", "label", "reason", "crop_xyxy"):
            assert getattr(face, name) == getattr(other, name)
        assert list(face.probabilities) == list(other.probabilities)
        np.testing.assert_allclose(
            list(face.probabilities.values()), list(other.probabilities.values()), rtol=0, atol=atol
        )
        assert (face.attention is None) == (other.attention is None)
        if face.attention is not None:
            np.testing.assert_allclose(face.attention, other.attention, rtol=0, atol=atol)


def test_a_photograph_gives_what_it_gives_on_the_host(gpu: Gpu, astronaut: np.ndarray) -> None:
    pair = np.hstack([astronaut, astronaut[:, ::-1]])
    with (
        Runtime(backend="onnxruntime", attention=True) as cpu,
        Runtime(backend="tensorrt", attention=True) as gpu_runtime,
    ):
        for frame in (astronaut, pair):
            found = gpu_runtime(gpu.put(frame))
            assert [face.label for face in found.faces] == ["happiness"] * (frame.shape[1] // 512)
            assert_same(found, gpu_runtime(frame))
            assert_same(found, cpu(frame), atol=1e-5)


def test_turned_faces_are_cropped_on_the_host(gpu: Gpu, astronaut: np.ndarray) -> None:
    """The kernel crops upright rectangles; a turned face needs the copy of the frame that the detector has."""
    frame, _ = turn_picture(astronaut, 50)
    with Runtime(backend="onnxruntime") as cpu, Runtime(backend="tensorrt") as runtime:
        found = runtime(gpu.put(frame))
        assert [face.label for face in found.faces] == ["happiness"]
        assert_same(found, runtime(frame))
        assert_same(found, cpu(frame), atol=1e-5)


def test_photographs_of_people(gpu: Gpu, shared: Path) -> None:
    files = sorted((shared / "data" / "faces_in_context" / "images").glob("*.jpg"))[::40]
    faces = 0
    with Runtime(backend="tensorrt") as runtime:
        for file in files:
            frame = read_image(file)
            found = runtime(gpu.put(frame))
            assert_same(found, runtime(frame))
            faces += sum(face.label is not None for face in found.faces)
    assert faces >= len(files) // 2


@pytest.mark.parametrize("kind", ["interface", "dlpack", "rows apart", "one row in two"])
def test_frames_of_every_kind(gpu: Gpu, astronaut: np.ndarray, kind: str) -> None:
    with Runtime(backend="tensorrt") as runtime:
        expected = runtime(astronaut)
        given: Any = gpu.put(astronaut)
        if kind == "dlpack":
            given = Dlpack(given)
        elif kind != "interface":
            step = 2 if kind == "one row in two" else 1
            padded = np.full((512 * step, 530, 3), 77, np.uint8)
            padded[::step, :512] = astronaut
            memory = gpu.put(padded).memory
            given = DeviceArray(
                memory.ctypes.data, astronaut.shape, np.dtype(np.uint8), strides=(step * 530 * 3, 3, 1)
            )
        assert_same(runtime(given), expected)
        if isinstance(given, Dlpack):  # its library lets the stream wait that copies and crops
            session = runtime._pipeline.device.session
            assert set(given.streams) == {session.runner.input_stream}  # type: ignore[attr-defined]


def test_pixels_of_crops_stay_on_the_device(gpu: Gpu, astronaut: np.ndarray) -> None:
    """Only the frame, once, and the outputs of each part are copied."""
    with Runtime(backend="tensorrt") as runtime:
        runtime._pipeline.detector = FixedDetector(*[FACE] * 20)
        frame = gpu.put(astronaut)
        runtime(frame)  # the first compares crops with those of the host
        copied: list[int] = []
        real = gpu.device.copy

        def copy(target: int, source: int, size_bytes: int, stream: int) -> None:
            copied.append(size_bytes)
            real(target, source, size_bytes, stream)

        gpu.device.copy = copy  # type: ignore[method-assign]
        result = runtime(frame)
    assert len(result.faces) == 20
    assert copied[0] == astronaut.nbytes
    assert len(copied) == 1 + 2  # 20 faces are 16 and 4
    assert max(copied[1:]) < 16 * 48 * 48


def test_a_frame_that_is_still_being_filled(gpu: Gpu, astronaut: np.ndarray) -> None:
    """The device is slow, and the stream of the producing library is slower."""
    gpu.delay = random_delays(3)
    with Runtime(backend="tensorrt") as runtime:
        runtime._pipeline.detector = FixedDetector(FACE, (10, 10, 16, 16), FACE)
        expected = runtime(astronaut)
        stream = gpu.device.new_stream()
        for _ in range(5):
            assert_same(runtime(gpu.put(astronaut, stream=stream, late_s=0.02)), expected)


def test_faces_that_are_too_small_or_leave_the_frame(gpu: Gpu, astronaut: np.ndarray) -> None:
    boxes = ((10, 10, 16, 16), FACE, (508, 508, 512, 512), (-30, -40, 60, 70), (470, 420, 512, 512))
    with Runtime(backend="tensorrt", attention=True) as runtime:
        for edge in ("replicate", "clip"):
            runtime.spec = dataclasses.replace(
                runtime.spec, crop=dataclasses.replace(runtime.spec.crop, edge=edge)
            )
            for shown in (boxes, boxes[:1]):
                runtime._pipeline.detector = FixedDetector(*shown)
                found = runtime(gpu.put(astronaut))
                assert_same(found, runtime(astronaut))
                assert [face.reason == "too_small" for face in found.faces] == [
                    True,
                    False,
                    True,
                    False,
                    False,
                ][: len(shown)]


def test_a_frame_without_faces(gpu: Gpu) -> None:
    with Runtime(backend="tensorrt") as runtime:
        assert runtime(gpu.put(np.full((240, 320, 3), 90, np.uint8))).faces == ()


@pytest.mark.parametrize("max_batch", [1, 3, 64])
def test_more_faces_than_a_batch_holds(gpu: Gpu, astronaut: np.ndarray, max_batch: int) -> None:
    with Runtime(backend="tensorrt", max_batch=max_batch) as runtime:
        runtime._pipeline.detector = FixedDetector(*[(180.0 - i, 60.0, 270.0, 175.0 + i) for i in range(19)])
        found = runtime(gpu.put(astronaut))
        assert_same(found, runtime(astronaut))
    assert len({tuple(face.probabilities.values()) for face in found.faces}) == 19


def test_an_output_that_is_not_finite(gpu: Gpu, astronaut: np.ndarray) -> None:
    with Runtime(backend="tensorrt") as runtime:
        gpu.change = lambda outputs: {**outputs, "logits": np.full_like(outputs["logits"], np.nan)}
        (face,) = runtime(gpu.put(astronaut)).faces
    assert (face.label, face.reason) == (None, "not_finite")
    assert runtime.non_finite == 1


def test_a_source_may_give_frames_of_the_device(gpu: Gpu, astronaut: np.ndarray) -> None:
    class Camera:
        is_live, frame_count, fps, closed = True, None, None, False

        def __iter__(self) -> Iterator[Frame]:
            for index in range(3):
                yield Frame(gpu.put(astronaut), index, time.monotonic(), dropped=index, name="camera")

        def close(self) -> None:
            self.closed = True

    camera = Camera()
    with Runtime(backend="tensorrt") as runtime:
        results = list(runtime.stream(camera))
    assert [(r.index, r.dropped, r.source) for r in results] == [(i, i, "camera") for i in range(3)]
    assert all(r.faces[0].label == "happiness" for r in results)
    assert all(r.timings_ms["total"] >= r.timings_ms["detect"] > 0 for r in results)
    assert camera.closed


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (np.zeros((20, 30, 3), np.float32), r"uint8 BGR pixels \[H, W, 3\], found float32 \[20, 30, 3\]"),
        (np.zeros((20, 30, 4), np.uint8), r"found uint8 \[20, 30, 4\]"),
        (np.zeros((1, 20, 30, 3), np.uint8), r"found uint8 \[1, 20, 30, 3\]"),
        (np.zeros((1, 32767, 3), np.uint8), "at most 32766 pixels per side"),
    ],
    ids=["float", "four channels", "batch", "too wide"],
)
def test_frames_of_another_form_are_refused_as_on_the_host(
    gpu: Gpu, astronaut: np.ndarray, frame: np.ndarray, message: str
) -> None:
    with Runtime(backend="tensorrt") as runtime:
        for given in (gpu.put(frame), frame):
            with pytest.raises(DataError, match=message):
                runtime(given)
        assert runtime(gpu.put(astronaut)).faces[0].label == "happiness"


def test_gray_is_a_frame_on_the_host_alone(gpu: Gpu, astronaut: np.ndarray) -> None:
    gray = np.ascontiguousarray(astronaut[..., 1])
    with Runtime(backend="tensorrt") as runtime:
        with pytest.raises(
            DataError, match=r"found uint8 \[512, 512\]. Fix: convert it .* or give it in host memory"
        ):
            runtime(gpu.put(gray))
        assert runtime(gray).faces[0].label == "happiness"


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"strides": (512, 1, 512 * 512)},
            DataError,
            r"row by row, found strides \[512, 1, 262144\]",
        ),
        ({"strides": (-1536, 3, 1)}, DataError, "interleaved pixels, row by row"),
        ({"shape": (0, 512, 3)}, DataError, r"found uint8 \[0, 512, 3\]"),
        ({"stream": 0}, BackendError, "has stream 0"),
        ({"data": (0, False)}, BackendError, "frame must have an address, found a null pointer"),
        ({"shape": None}, BackendError, "must have a valid __cuda_array_interface__"),
    ],
    ids=str,
)
def test_memory_that_is_no_frame(
    gpu: Gpu, astronaut: np.ndarray, changes: dict[str, Any], error: type[FerEdgeError], message: str
) -> None:
    with Runtime(backend="tensorrt") as runtime:
        given = gpu.put(astronaut)
        given.__cuda_array_interface__ |= changes
        with pytest.raises(error, match=message):
            runtime(given)
        assert runtime(gpu.put(astronaut)).faces[0].label == "happiness"


def test_a_tensor_of_the_host(gpu: Gpu, astronaut: np.ndarray) -> None:
    with (
        Runtime(backend="tensorrt") as runtime,
        pytest.raises(BackendError, match=r"\(the CPU\). Fix: give it as a NumPy array"),
    ):
        runtime(torch.from_numpy(astronaut))


@pytest.mark.parametrize("backend", available_backends("cpu"))
def test_a_backend_of_the_cpu_says_what_to_do(backend: str, astronaut: np.ndarray) -> None:
    interface = dict(astronaut.__array_interface__, version=3, stream=None)
    on_device = type("Array", (), {"__cuda_array_interface__": interface})()
    message = f"backend {backend} accepts only NumPy frames, found %s. Fix: copy it to the host with "
    with Runtime(backend=backend) as runtime:
        assert not isinstance(runtime._pipeline.host.session, CropSession)
        for frame in (on_device, torch.from_numpy(astronaut)):
            with pytest.raises(UsageError, match=message % type(frame).__name__) as error:
                runtime(frame)
            assert ".get() (CuPy, pycuda) or .cpu().numpy() (PyTorch), or use --backend tensorrt" in str(
                error.value
            )
        assert runtime(astronaut).faces[0].label == "happiness"


def test_without_the_kernels_the_first_frame_says_so(
    gpu: Gpu, astronaut: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for a frame without faces; frames in host memory need no kernels."""
    monkeypatch.setitem(sys.modules, "fer_edge._kernels", None)
    with Runtime(backend="tensorrt") as runtime:
        runtime._pipeline.detector = FixedDetector()
        with pytest.raises(
            BackendError, match="needs the CUDA kernels: .*FER_EDGE_KERNELS=1 .* -m pip install"
        ):
            runtime(gpu.put(astronaut))
        runtime._pipeline.detector = FixedDetector(FACE)
        assert runtime(astronaut).faces[0].label == "happiness"


def test_crops_of_the_device_are_compared_with_those_of_the_host_once(
    gpu: Gpu, astronaut: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Runtime(gpu.bundle, backend="tensorrt") as runtime:
        assert not runtime.info["self_test"]["device_crops"]
        first = runtime(gpu.put(astronaut))
        assert runtime.info["self_test"]["device_crops"]
        batches = len(gpu.device.batches)
        assert runtime(gpu.put(astronaut)).faces[0].probabilities == first.faces[0].probabilities
        assert len(gpu.device.batches) == batches + 1


def test_crops_of_the_device_that_are_others_are_refused(
    gpu: Gpu, astronaut: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    crop = gpu._crop

    def shifted(frame: DeviceArray, rectangles: Any, *given: Any, **how: Any) -> None:
        crop(frame, [(x0 - 40, y0, x1 - 40, y1) for x0, y0, x1, y1 in rectangles], *given, **how)

    monkeypatch.setattr(tensorrt, "crop_resize_normalize", shifted)
    with Runtime(gpu.bundle, backend="tensorrt") as runtime:
        with pytest.raises(SelfTestError, match="logits for crops made on the device differ"):
            runtime(gpu.put(astronaut))
        assert runtime(astronaut).faces[0].label == "happiness"
    with Runtime(gpu.bundle, backend="tensorrt", self_test=False) as runtime:
        runtime(gpu.put(astronaut))


def test_interpolation_that_the_kernel_has_not(gpu: Gpu, astronaut: np.ndarray) -> None:
    spec = dataclasses.replace(gpu.bundle.spec, interpolation="area")
    bundle = Bundle(gpu.bundle.path, dataclasses.replace(gpu.bundle.manifest, spec=spec))
    with Runtime(bundle, backend="tensorrt", self_test=False) as runtime:  # its references are bilinear
        with pytest.raises(
            UsageError, match="only bilinear interpolation, found area.*Fix: use frames in host memory"
        ):
            runtime(gpu.put(astronaut))
        assert runtime(astronaut).faces[0].label == "happiness"

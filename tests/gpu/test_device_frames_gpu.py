"""The runtime on frames that lie on a real GPU: the same faces as of the same frame on the host."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from gpu_arrays import Gpu

from fer_edge import Runtime
from fer_edge.backends.tensorrt import TensorRtBackend
from fer_edge.cuda.arrays import DeviceArray
from fer_edge.cuda.kernels import availability
from fer_edge.errors import DataError
from fer_edge.results import FrameResult


@pytest.fixture
def runtime(gpu: Gpu, backend: TensorRtBackend) -> Iterator[Runtime]:
    """The bundle that ships, with crops on the device."""
    state = availability()
    if not state.ok:
        pytest.skip(f"{state.reason}. Fix: {state.fix}")
    with Runtime(backend=backend.name, precision="fp32", attention=True) as opened:
        yield opened


@pytest.fixture
def pair(astronaut: np.ndarray) -> np.ndarray:
    """Two faces, ``[512, 1024, 3]``."""
    return np.ascontiguousarray(np.hstack([astronaut, astronaut[:, ::-1]]))


def assert_same(found: FrameResult, expected: FrameResult) -> None:
    """Crops are the same to the last bit, and so is what one engine makes of them."""
    assert len(found.faces) == len(expected.faces)
    for face, other in zip(found.faces, expected.faces, strict=True):
        assert (face.box_xyxy, face.label, face.reason) == (other.box_xyxy, other.label, other.reason)
        assert face.crop_xyxy == other.crop_xyxy
        assert face.probabilities == pytest.approx(other.probabilities, abs=1e-6)
        np.testing.assert_allclose(face.attention, other.attention, atol=1e-5)


def test_a_photograph_gives_what_it_gives_on_the_host(runtime: Runtime, gpu: Gpu, pair: np.ndarray) -> None:
    found = runtime(gpu.put(pair))
    assert [face.label for face in found.faces] == ["happiness", "happiness"]
    assert_same(found, runtime(pair))
    with Runtime(backend="onnxruntime", precision="fp32") as cpu:
        for face, other in zip(found.faces, cpu(pair).faces, strict=True):
            assert face.label == other.label
            assert face.probabilities == pytest.approx(other.probabilities, abs=0.01)


def test_rows_that_lie_apart(runtime: Runtime, gpu: Gpu, pair: np.ndarray) -> None:
    padded = np.full((512, 1100, 3), 77, np.uint8)
    padded[:, :1024] = pair
    whole = gpu.put(padded)
    frame = DeviceArray(
        whole.address, pair.shape, whole.dtype, producer=gpu.stream, strides=(padded.strides[0], 3, 1)
    )
    assert_same(runtime(frame), runtime(pair))


def test_a_frame_that_is_still_being_filled(runtime: Runtime, gpu: Gpu, pair: np.ndarray) -> None:
    ballast = [gpu.empty((1 << 28,), np.uint8).address for _ in range(2)]
    frame, source, zeros = gpu.put(pair), gpu.put(pair), gpu.put(np.zeros_like(pair))
    expected = runtime(pair)
    for _ in range(10):
        gpu.device.copy(frame.address, zeros.address, pair.nbytes, gpu.stream)
        for _ in range(8):
            gpu.device.copy(*ballast, 1 << 28, gpu.stream)
        gpu.device.copy(frame.address, source.address, pair.nbytes, gpu.stream)
        assert_same(runtime(frame), expected)


@pytest.mark.parametrize("library", ["torch", "cupy"])
def test_frames_of_other_libraries(runtime: Runtime, pair: np.ndarray, library: str) -> None:
    """On a stream of their own, where the frame is inverted twice just before."""
    module = pytest.importorskip(library, reason=f"needs {library} with CUDA")
    if library == "torch" and not module.cuda.is_available():
        pytest.skip("this PyTorch has no CUDA")
    expected = runtime(pair)
    if library == "torch":
        with module.cuda.stream(module.cuda.Stream()):
            frame: Any = 255 - (255 - module.from_numpy(pair).cuda())
            found = runtime(frame)
            with pytest.raises(DataError, match="pixels lie row by row"):
                runtime(frame.permute(2, 0, 1).contiguous().permute(1, 2, 0))
    else:
        with module.cuda.Stream(non_blocking=True):
            found = runtime(255 - (255 - module.asarray(pair)))
    assert_same(found, expected)


def test_frames_without_faces_and_of_another_form(runtime: Runtime, gpu: Gpu, pair: np.ndarray) -> None:
    assert runtime(gpu.put(np.full((240, 320, 3), 90, np.uint8))).faces == ()
    with pytest.raises(DataError, match=r"found float32 \[512, 1024, 3\]"):
        runtime(gpu.put(pair.astype(np.float32)))
    assert len(runtime(gpu.put(pair)).faces) == 2


def test_host_memory_and_device_memory_stay_as_they_are(runtime: Runtime, gpu: Gpu, pair: np.ndarray) -> None:
    frame = gpu.put(pair)
    for _ in range(5):
        runtime(frame)
    free = gpu.free_bytes()
    for _ in range(200):
        runtime(frame)
    assert free - gpu.free_bytes() < 1 << 20

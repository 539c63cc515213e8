"""The compiled kernels on a real GPU: crops bit for bit as on the CPU, attention as in double precision."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from gpu_arrays import Gpu

from fer_edge.backends import BACKENDS, load_session
from fer_edge.backends.tensorrt import TensorRtBackend
from fer_edge.bundle import open_bundle
from fer_edge.cuda.arrays import DeviceArray
from fer_edge.cuda.kernels import availability, crop_resize_normalize, self_attention
from fer_edge.models.catalogue import shipped_bundle
from fer_edge.preprocess import crop_face, crop_rectangle, prepare_batch
from fer_edge.spec import CropRule, ModelSpec

BOXES = [
    (180.0, 60.0, 280.0, 190.0),
    (0.0, 0.0, 40.0, 40.0),
    (470.5, 480.2, 530.0, 540.0),
    (100.0, 100.0, 113.0, 117.0),
]
COLORS = [
    ("gray", 1, (0.0,), (255.0,)),
    ("rgb", 3, (123.7, 116.3, 103.5), (58.4, 57.1, 57.4)),
    ("bgr", 3, (91.5, 103.9, 131.1), (1.0, 1.0, 1.0)),
]


@pytest.fixture(autouse=True)
def kernels(gpu: Gpu) -> None:
    state = availability()
    if not state.ok:
        pytest.skip(f"{state.reason}. Fix: {state.fix}")


def spec_of(
    color: str, channels: int, mean: tuple[float, ...], std: tuple[float, ...], side: int
) -> ModelSpec:
    return ModelSpec("net", side, side, color, channels, mean, std, tuple("abcdefg"))


@pytest.mark.parametrize("side", [48, 112, 224])
@pytest.mark.parametrize(("color", "channels", "mean", "std"), COLORS, ids=[c[0] for c in COLORS])
def test_crops_are_those_of_the_cpu(
    gpu: Gpu,
    astronaut: np.ndarray,
    color: str,
    channels: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    side: int,
) -> None:
    spec = spec_of(color, channels, mean, std, side)
    height, width = astronaut.shape[:2]
    rectangles = [crop_rectangle(box, spec.crop, height, width) for box in BOXES]
    crops = [crop_face(astronaut, box, spec.crop) for box in BOXES]
    expected = prepare_batch([crop for crop in crops if crop is not None], spec)
    out = gpu.empty((len(BOXES), *spec.input_shape), np.float32)
    crop_resize_normalize(gpu.put(astronaut), rectangles, spec, out, stream=gpu.stream)
    np.testing.assert_array_equal(gpu.get(out), expected)


def test_crops_of_a_frame_whose_rows_lie_apart(gpu: Gpu, astronaut: np.ndarray) -> None:
    spec = spec_of(*COLORS[1], 64)
    height, width = astronaut.shape[:2]
    padded = np.zeros((height, width + 37, 3), np.uint8)
    padded[:, :width] = astronaut
    whole = gpu.put(padded)
    frame = DeviceArray(
        whole.address, astronaut.shape, whole.dtype, producer=gpu.stream, strides=(padded.strides[0], 3, 1)
    )
    out = gpu.empty((1, *spec.input_shape), np.float32)
    rectangle = crop_rectangle(BOXES[0], spec.crop, height, width)
    crop_resize_normalize(frame, [rectangle], spec, out, stream=gpu.stream)
    crop = crop_face(astronaut, BOXES[0], spec.crop)
    assert crop is not None
    np.testing.assert_array_equal(gpu.get(out), prepare_batch([crop], spec))


def test_crops_of_nv12(gpu: Gpu, astronaut: np.ndarray) -> None:
    """The reference is OpenCV's conversion of the same planes."""
    spec = spec_of(*COLORS[2], 64)
    height, width = astronaut.shape[:2]
    i420 = cv2.cvtColor(astronaut, cv2.COLOR_BGR2YUV_I420)
    luma, planes = i420[:height], i420[height:].reshape(2, height // 2, width // 2)
    chroma = np.ascontiguousarray(planes.transpose(1, 2, 0))
    bgr = cv2.cvtColorTwoPlane(luma, chroma, cv2.COLOR_YUV2BGR_NV12)
    crop = crop_face(bgr, BOXES[0], spec.crop)
    assert crop is not None
    out = gpu.empty((1, *spec.input_shape), np.float32)
    rectangle = crop_rectangle(BOXES[0], spec.crop, height, width)
    crop_resize_normalize(gpu.put(luma), [rectangle], spec, out, stream=gpu.stream, chroma=gpu.put(chroma))
    np.testing.assert_array_equal(gpu.get(out), prepare_batch([crop], spec))


@pytest.mark.parametrize("faces", [1, 4, 19])
def test_a_frame_on_the_device_is_classified_as_one_on_the_host(
    gpu: Gpu, astronaut: np.ndarray, faces: int, backend: TensorRtBackend
) -> None:
    bundle = open_bundle(shipped_bundle("conv-attention"))
    height, width = astronaut.shape[:2]
    boxes = [BOXES[i % len(BOXES)] for i in range(faces)]
    rule: CropRule = bundle.spec.crop
    rectangles = [crop_rectangle(box, rule, height, width) for box in boxes]
    crops = [crop for box in boxes if (crop := crop_face(astronaut, box, rule)) is not None]
    session = load_session(bundle, backend, "fp32")
    try:
        found = session.run_crops(gpu.put(astronaut), rectangles, bundle.spec)["logits"]  # type: ignore[attr-defined]
        np.testing.assert_array_equal(found, session.run(prepare_batch(crops, bundle.spec))["logits"])
    finally:
        session.close()
    expected = load_session(bundle, BACKENDS["onnxruntime"], "fp32").run(prepare_batch(crops, bundle.spec))
    bound = 1e-4 * max(float(np.abs(expected["logits"]).max()), 1.0)  # sums are added in another order
    np.testing.assert_allclose(found, expected["logits"], rtol=0, atol=bound)


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, residual: np.ndarray, gamma: float) -> np.ndarray:
    """γ · V softmax(QᵀK)ᵀ + residual in double precision."""
    q, k, v, residual = (array.astype(np.float64) for array in (q, k, v, residual))
    scores = np.einsum("bci,bcj->bij", q, k)
    weights = np.exp(scores - scores.max(axis=2, keepdims=True))
    weights /= weights.sum(axis=2, keepdims=True)
    return gamma * np.einsum("bcj,bij->bci", v, weights) + residual


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 2e-3), (np.float16, 2e-2)])
@pytest.mark.parametrize(
    ("batch", "channels", "positions"), [(1, 64, 36), (2, 128, 83), (3, 64, 769), (16, 256, 144)]
)
def test_attention(
    gpu: Gpu, dtype: type, tolerance: float, batch: int, channels: int, positions: int
) -> None:
    rng = np.random.default_rng(positions)
    draw = lambda *shape: rng.normal(0, 0.5, shape).astype(dtype)  # noqa: E731
    q, k = draw(batch, channels // 8, positions), draw(batch, channels // 8, positions)
    v, residual = draw(batch, channels, positions), draw(batch, channels, positions)
    out = gpu.empty(v.shape, dtype)
    arrays = [gpu.put(array) for array in (q, k, v, residual, np.array([0.7], dtype))]
    self_attention(*arrays, out, stream=gpu.stream)
    expected = attention(q, k, v, residual, float(dtype(0.7)))
    np.testing.assert_allclose(gpu.get(out), expected, atol=tolerance, rtol=tolerance)

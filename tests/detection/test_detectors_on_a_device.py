"""Detectors on the real backend tensorrt with a simulated GPU that computes each engine's graph.

Many candidates, and unusual frames, the latter on OpenVINO too. Expected are the results of the detectors by default,
in ONNX Runtime.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from fake_device import FakeDevice, FakeEngine, FakeNetwork
from matching import MIN_FACE_PX, compare, iou

from fer_edge.backends import BACKENDS, Availability, SessionOptions, tensorrt
from fer_edge.backends.tensorrt import TensorRtBackend
from fer_edge.detection.mtcnn.weights import mtcnn_models
from fer_edge.engines import find_or_build
from fer_edge.engines.build import builder
from fer_edge.engines.build.options import EngineOptions
from fer_edge.engines.cache.key import GpuKey
from fer_edge.engines.run.engine import EngineFile, TensorInfo
from fer_edge.errors import UsageError


class GraphDevice(FakeDevice):
    """A simulated GPU whose engine files are ONNX files with the batch sizes of the build."""

    def __init__(self) -> None:
        super().__init__(None, lambda: 0.0)

    def load_engine(self, file: EngineFile) -> FakeEngine:
        graph = onnxruntime.InferenceSession(file.read(), providers=["CPUExecutionProvider"])

        def describe(value: onnxruntime.NodeArg) -> TensorInfo:
            return TensorInfo(value.name, np.dtype(np.float32), tuple(value.shape[1:]))

        (taken,), outputs = graph.get_inputs(), graph.get_outputs()
        names = [output.name for output in outputs]
        self.network = FakeNetwork(
            lambda batch: dict(zip(names, graph.run(names, {taken.name: batch}), strict=True)),
            describe(taken),
            tuple(map(describe, outputs)),
            max_batch=int(graph.get_modelmeta().custom_metadata_map["max_batch"]),
        )
        return super().load_engine(file)


@pytest.fixture
def devices(monkeypatch):
    """Runners opened by backend tensorrt, one for each network; all must be closed without leaks."""
    opened: list[GraphDevice] = []

    def open_device(flavour: str, **options: object) -> GraphDevice:
        opened.append(GraphDevice())
        return opened[-1]

    def build(model: Path, output: Path, options: EngineOptions) -> None:
        graph = onnx.load(model)
        graph.metadata_props.add(key="max_batch", value=str(options.max_batch))
        onnx.save(graph, output)

    monkeypatch.setattr(tensorrt, "TensorRtDevice", open_device)
    monkeypatch.setattr(find_or_build, "identify_gpu", lambda: GpuKey((8, 7), "Orin", "CUDA 12.6"))
    monkeypatch.setattr(builder, "build_engine", build)
    monkeypatch.setattr(TensorRtBackend, "available", lambda self: Availability(True, "10.3.0"))
    yield opened
    for device in opened:
        assert device.hazards == []
        assert device.left() == {}
        assert device.closed


@pytest.fixture
def create(devices, create):
    """Detectors are closed before their devices are checked."""
    return create


@pytest.fixture
def face(astronaut) -> np.ndarray:
    return astronaut[20:220, 120:320]


@pytest.mark.parametrize("name", ["mtcnn", "yunet"])
def test_more_candidates_than_an_engine_takes_at_once(name, devices, create, face):
    frame = np.full((600, 900, 3), 90, np.uint8)
    for i in range(24):
        left, top, side = 145 * (i % 6) + 10, 148 * (i // 6) + 5, 100 + i
        frame[top : top + side, left : left + side] = cv2.resize(face, (side, side))
    usual, device = (create(name, min_face_px=MIN_FACE_PX, backend=b) for b in ("onnxruntime", "tensorrt"))
    for opened in devices:
        opened.batches.clear()  # of the warm-up
    found = device.detect(frame)
    assert len(found) == 24
    worst = compare([(found, usual.detect(frame))])
    assert worst.iou > 0.999
    assert worst.landmarks_px < 0.05
    assert worst.score < 1e-4
    if name == "mtcnn":
        parts = [opened.batches for opened in devices]
        assert [len(sizes) > 1 and max(sizes) for sizes in parts] == [16] * 3


def test_an_engine_is_no_larger_than_the_batches_that_it_gets(devices, create):
    """YuNet runs on one frame at a time; buffers for sixteen 4K frames would take a gigabyte."""
    create("yunet", backend="tensorrt", turned_looks=0).detect(np.zeros((480, 640, 3), np.uint8))
    (device,) = devices
    assert set(device.batches) == {1}


@pytest.mark.parametrize(("largest", "buckets"), [(None, (1, 2, 4, 8, 16)), (5, (1, 2, 4, 5)), (1, (1,))])
def test_batches_larger_than_announced_are_run_in_parts(largest, buckets, devices, tmp_path):
    model = tmp_path / "rnet.onnx"
    model.write_bytes(mtcnn_models()["rnet"])
    batch = np.random.default_rng(1).uniform(-1, 1, (19, 3, 24, 24)).astype(np.float32)
    found = {}
    for name in ("onnxruntime", "openvino", "tensorrt"):
        if not BACKENDS[name].available().ok:
            continue
        session = BACKENDS[name].open(model, SessionOptions(threads=1, max_batch=largest))
        found[name] = session.run(batch)
        if name == "tensorrt":
            assert session.runner.report.buckets == buckets
        session.close()
        for output, values in found["onnxruntime"].items():
            np.testing.assert_allclose(found[name][output], values, atol=1e-5)


def test_a_largest_batch_of_nothing_is_refused():
    with pytest.raises(UsageError, match="max_batch must be None or a whole number from 1 to 65536, found 0"):
        SessionOptions(max_batch=0)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


#: Frame sizes, and a transform of the 200 × 200 pixel face in the middle of the larger ones.
FRAMES = {
    "a pixel": (1, 1, None),
    "a row": (1, 2000, None),
    "a column": (2000, 1, None),
    "a ribbon": (13, 4000, None),
    "black": (480, 640, lambda face: face * 0),
    "white": (480, 640, lambda face: np.full_like(face, 255)),
    "gray": (480, 640, lambda face: np.repeat(face[..., 1:2], 3, axis=2)),
    "dark": (480, 640, lambda face: face // 8),
    "negative": (480, 640, lambda face: 255 - face),
    "noise": (480, 640, lambda face: noise(*face.shape[:2])),
    "odd sides": (331, 517, lambda face: face),
    "8K": (4320, 7680, lambda face: cv2.resize(face, (2000, 2000))),
}
WITH_A_FACE = ("gray", "odd sides", "8K")


@pytest.mark.parametrize("backend", ["openvino", "tensorrt"])
@pytest.mark.parametrize("name", ["mtcnn", "yunet"])
@pytest.mark.parametrize("kind", FRAMES)
def test_frames_that_no_camera_gives(kind, name, backend, create, face):
    state = BACKENDS[backend].available()
    if not state.ok:
        pytest.skip(state.reason)
    height, width, change = FRAMES[kind]
    frame = noise(height, width) if change is None else np.zeros((height, width, 3), np.uint8)
    if change is not None:
        patch = change(face)
        side = len(patch)
        left, top = (width - side) // 2, (height - side) // 2
        frame[top : top + side, left : left + side] = patch
    frame.flags.writeable = False
    min_face_px = 400 if kind == "8K" else 40
    usual, other = (create(name, min_face_px=min_face_px, backend=b) for b in ("onnxruntime", backend))
    expected, found = usual.detect(frame), other.detect(frame)
    if kind in WITH_A_FACE:
        box = np.array([55, 45, 150, 155]) * side / 200 + [left, top, left, top]
        assert len(expected) == 1
        assert iou(expected[0].box_xyxy, tuple(box)) > 0.6
    if expected:
        worst = compare([(found, expected)])
        assert worst.iou > 0.999
        assert worst.score < 1e-3
    else:
        assert found == []

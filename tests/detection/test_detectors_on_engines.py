"""Graphs of the detectors for TensorRT: the same faces as on the CPU, and engines built without a GPU."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from crowds import count_wrong, draw_crowds, of_detections
from matching import MIN_FACE_PX, compare

from fer_edge.backends import BACKENDS, Availability, Backend, Session, SessionOptions
from fer_edge.bundle import ModelFile
from fer_edge.engines.build.builder import build_engine
from fer_edge.engines.build.options import EngineOptions
from fer_edge.errors import BackendError, DetectorError

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="needs TensorRT-RTX: pip install 'fer-edge[rtx]'",
)
SIZES = {"pnet": (64, 64), "rnet": (24, 24), "onet": (48, 48), "yunet": (96, 128)}


class OneSizeSession:
    """A session with the input checks of an engine."""

    def __init__(self, session: Session, size: tuple[int, int]) -> None:
        self.session, self.size, self.batches, self.closed = session, size, [], False

    def run(self, batch: np.ndarray) -> Mapping[str, np.ndarray]:
        if self.closed:
            raise BackendError("this session is closed: open another")
        assert batch.shape[1:] == (3, *self.size)
        self.batches.append(len(batch))
        return self.session.run(batch)

    def close(self) -> None:
        self.closed = True
        self.session.close()


class OneSizeBackend(Backend):
    """A backend that refuses dynamic sizes, like TensorRT, and runs the same graph in ONNX Runtime."""

    name, dialect, fixed_shapes = "one-size", "tensorrt", True

    def __init__(self) -> None:
        self.graphs: list[onnx.ModelProto] = []
        self.sessions: list[OneSizeSession] = []

    def available(self) -> Availability:
        return Availability(True)

    def open(self, model: Path | ModelFile, options: SessionOptions) -> OneSizeSession:
        assert isinstance(model, ModelFile)
        graph = onnx.load_model_from_string(model.content)
        batch, channels, *size = graph.graph.input[0].type.tensor_type.shape.dim
        if batch.dim_value or channels.dim_value != 3 or not all(side.dim_value for side in size):
            raise BackendError(f"expected [free, 3, H, W], found {graph.graph.input[0]}")
        self.graphs.append(graph)
        session = BACKENDS["onnxruntime"].open(model, options)
        self.sessions.append(OneSizeSession(session, (size[0].dim_value, size[1].dim_value)))
        return self.sessions[-1]


@pytest.fixture
def backend(monkeypatch) -> OneSizeBackend:
    backend = OneSizeBackend()
    monkeypatch.setitem(BACKENDS, backend.name, backend)
    return backend


@pytest.mark.parametrize("name", ["mtcnn", "yunet"])
def test_faces_are_those_of_the_cpu_path(name, backend, create, photographs):
    usual, fixed = (create(name, min_face_px=MIN_FACE_PX, backend=b) for b in ("onnxruntime", backend.name))
    worst = compare((fixed.detect(frame), usual.detect(frame)) for frame in photographs)
    assert worst.pairs > 200
    assert worst.iou > 0.999
    assert worst.landmarks_px < 0.05
    assert worst.score < 1e-4


def test_large_pictures_take_many_tiles_and_few_runs(backend, create, astronaut):
    frame = np.full((900, 1100, 3), 90, np.uint8)
    for i, side in enumerate((60, 120, 240)):
        frame[20 : 20 + side, 30 + 350 * i : 30 + 350 * i + side] = cv2.resize(
            astronaut[20:220, 120:320], (side, side), interpolation=cv2.INTER_AREA
        )
    usual, fixed = (
        create("mtcnn", min_face_px=MIN_FACE_PX, backend=b) for b in ("onnxruntime", backend.name)
    )
    found = fixed.detect(frame)
    assert len(found) == 3
    worst = compare([(found, usual.detect(frame))])
    assert worst.iou > 0.999
    tiles = backend.sessions[0].batches
    assert len(tiles) == 2
    assert 128 < sum(tiles) < 256
    fixed.detect(np.zeros((9, 9, 3), np.uint8))
    assert len(backend.sessions) == 3


def test_few_sizes_of_yunet_are_kept(backend, create):
    detector = create("yunet", min_face_px=MIN_FACE_PX, backend=backend.name, turned_looks=0)
    assert backend.sessions == []

    def sizes_open() -> list[tuple[int, int]]:
        return [session.size for session in backend.sessions if not session.closed]

    for side in (64, 140, 190, 230, 64, 320):
        detector.detect(np.zeros((side, 90, 3), np.uint8))
    # 320 evicted 140, since 64 was used more recently.
    assert sorted(sizes_open()) == [(64, 96), (192, 96), (256, 96), (320, 96)]
    assert len(backend.sessions) == 5
    detector.close()
    assert sizes_open() == []
    with pytest.raises(DetectorError, match="closed"):
        detector.detect(np.zeros((64, 64, 3), np.uint8))


@pytest.mark.parametrize("name", ["mtcnn", "yunet"])
def test_threads_with_more_sizes_than_are_kept(name, backend, create, astronaut):
    """A session in use by one thread is not evicted by another thread's size."""
    crowds = draw_crowds(astronaut, 12)
    pictures = [crowd[: 428 - 96 * (i % 3), : 642 - 96 * (i // 3 % 3)] for i, crowd in enumerate(crowds)]
    detector = create(name, backend=backend.name)
    expected = [of_detections(detector.detect(picture)) for picture in pictures]
    ask = lambda picture: of_detections(detector.detect(picture))  # noqa: E731
    assert count_wrong(ask, pictures, expected, 4, 3) == (0, 36)
    assert name == "mtcnn" or len(backend.sessions) > 12


def test_networks_are_closed_where_another_cannot_be_opened(backend, create, monkeypatch):
    opened = backend.open

    def refuse_the_second(model, options):
        if backend.sessions:
            raise BackendError("no room for another")
        return opened(model, options)

    monkeypatch.setattr(backend, "open", refuse_the_second)
    with pytest.raises(BackendError, match="no room"):
        create("mtcnn", backend=backend.name)
    assert [session.closed for session in backend.sessions] == [True]


@pytest.fixture
def graphs(backend, create) -> dict[str, onnx.ModelProto]:
    """Return the graphs that the detectors open on such a backend."""
    create("mtcnn", backend=backend.name)
    detector = create("yunet", min_face_px=MIN_FACE_PX, backend=backend.name, turned_looks=0)
    detector.detect(np.zeros((80, 110, 3), np.uint8))
    return dict(zip(SIZES, backend.graphs, strict=True))


@needs_rtx
def test_engines_are_built(graphs, tmp_path):
    for name, graph in graphs.items():
        path = tmp_path / f"{name}.onnx"
        onnx.save(graph, path)
        options = EngineOptions("tensorrt-rtx", compute_capability=(8, 6))
        report = build_engine(path, tmp_path / f"{name}.engine", options)
        weights = sum(int(np.prod(tensor.dims)) for tensor in graph.graph.initializer)
        assert report.weights_memory_bytes == pytest.approx(4 * weights, rel=0.25), name


@needs_rtx
def test_tensorrt_sees_one_free_size(graphs, tmp_path):
    """The runner takes engines with a dynamic batch and all other dimensions fixed."""
    program = """
        import json, sys
        import tensorrt_rtx as trt
        class Log(trt.ILogger):
            def __init__(self): trt.ILogger.__init__(self)
            def log(self, severity, msg): pass
        log = Log()
        network = trt.Builder(log).create_network(0)
        assert trt.OnnxParser(network, log).parse_from_file(sys.argv[1])
        tensors = [network.get_input(0), *(network.get_output(i) for i in range(network.num_outputs))]
        print(json.dumps({t.name: [*t.shape] for t in tensors}))
    """
    for name, graph in graphs.items():
        path = tmp_path / f"{name}.onnx"
        onnx.save(graph, path)
        command = [sys.executable, "-c", textwrap.dedent(program), str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        shapes = json.loads(done.stdout.splitlines()[-1])
        assert shapes.pop("input") == [-1, 3, *SIZES[name]]
        assert len(shapes) == len(graph.graph.output)
        assert all(batch == -1 and min(rest) > 0 for batch, *rest in shapes.values()), shapes


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["mtcnn", "yunet"])
@pytest.mark.parametrize("engine", ["tensorrt", "tensorrt-rtx"])
def test_faces_on_a_gpu_are_those_of_the_cpu_path(name, engine, create, photographs):
    state = BACKENDS[engine].available()
    if not state.ok:
        pytest.skip(state.reason)
    usual, device = (create(name, min_face_px=MIN_FACE_PX, backend=b) for b in ("onnxruntime", engine))
    worst = compare((device.detect(frame), usual.detect(frame)) for frame in photographs)
    assert worst.share > 0.99
    assert worst.iou > 0.9

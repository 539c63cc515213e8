"""A runtime, a detector and a session under many threads: each answer is that of a single caller, bit for bit."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crowds import count_wrong, draw_crowds, of_detections, of_frame, of_outputs, run_together
from places import SUPPORT

from fer_edge import DetectorOptions, Runtime
from fer_edge.backends import BACKENDS, SessionOptions, available_backends
from fer_edge.bundle import open_bundle
from fer_edge.detection import DETECTORS, create_detector
from fer_edge.errors import BackendError, DataError, DetectorError
from fer_edge.models.catalogue import shipped_bundle
from fer_edge.results import Detection

BACKEND_NAMES = available_backends("cpu")
BAD_FRAMES = (np.zeros((64, 64, 3), np.float32), np.array(None), np.zeros((0, 0, 3), np.uint8))


@pytest.fixture(autouse=True, scope="module")
def switch_often() -> Any:
    """Let threads take turns after 10 µs of Python, not 5 ms."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(usual)


@pytest.fixture(params=sorted(DETECTORS))
def detector(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def crowds(astronaut: np.ndarray) -> list[np.ndarray]:
    return draw_crowds(astronaut, 48)


def open_runtime(backend: str, detector: str, threads: int | None = 1) -> Runtime:
    options = DetectorOptions(backend=backend, threads=threads)
    return Runtime(backend=backend, detector=detector, detector_options=options, threads=threads)


def give_bad_frames(runtime: Runtime, rounds: int) -> Callable[[], None]:
    def work() -> None:
        for _ in range(rounds):
            for frame in BAD_FRAMES:
                with pytest.raises(DataError, match="expected a frame of uint8 BGR pixels"):
                    runtime(frame)
            assert runtime(np.zeros((1, 1, 3), np.uint8)).faces == ()

    return work


def ask_runtime(
    backend: str, detector: str, crowds: list[np.ndarray], callers: int, rounds: int
) -> tuple[int, int]:
    """Return the number of wrong answers and of all answers."""
    with open_runtime(backend, detector) as serial:
        expected = [of_frame(serial(picture)) for picture in crowds]
    faces = [len(answer) for answer in expected]  # type: ignore[arg-type]
    assert min(faces) == 0
    assert max(faces) >= 5
    with open_runtime(backend, detector) as runtime:
        bad = give_bad_frames(runtime, rounds)
        found = count_wrong(lambda p: of_frame(runtime(p)), crowds, expected, callers, rounds, bad)
        assert runtime.non_finite == 0
        assert runtime.latency()["total"].n == min(1000, found[1] + rounds)
    return found


@pytest.mark.parametrize("backend", BACKEND_NAMES)
def test_every_thread_gets_the_answer_to_its_own_picture(
    backend: str, detector: str, crowds: list[np.ndarray]
) -> None:
    assert ask_runtime(backend, detector, crowds[:12], callers=4, rounds=4) == (0, 48)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKEND_NAMES)
def test_of_two_thousand_answers_none_is_wrong(backend: str, detector: str, crowds: list[np.ndarray]) -> None:
    wrong, answers = ask_runtime(backend, detector, crowds, callers=8, rounds=42)
    assert wrong == 0
    assert answers >= 2000


@pytest.mark.parametrize("threads", [1, None])
@pytest.mark.parametrize("backend", BACKEND_NAMES)
def test_a_session_serves_batches_of_many_threads(backend: str, threads: int | None) -> None:
    bundle = open_bundle(shipped_bundle())
    rng = np.random.default_rng(4)
    shape = bundle.spec.input_shape
    batches = [rng.normal(0, 1, (rows, *shape)).astype(np.float32) for rows in (1, 2, 5, 9) * 4]
    session = BACKENDS[backend].open(bundle.path / "model.onnx", SessionOptions(threads=threads))
    expected = [of_outputs(session.run(batch)) for batch in batches]
    assert len(set(expected)) == len(batches)
    assert count_wrong(lambda b: of_outputs(session.run(b)), batches, expected, 4, 6) == (0, 96)
    session.close()


def test_a_detector_serves_many_threads(detector: str, crowds: list[np.ndarray]) -> None:
    found = create_detector(detector)
    expected = [of_detections(found.detect(picture)) for picture in crowds[:12]]
    ask = lambda picture: of_detections(found.detect(picture))  # noqa: E731
    assert count_wrong(ask, crowds[:12], expected, 4, 4) == (0, 48)
    found.close()


def test_indices_are_unique_and_counts_are_complete(astronaut: np.ndarray) -> None:
    indices: list[int] = []
    with Runtime(backend="onnxruntime", detector="haar") as runtime:

        def work() -> None:
            indices.extend(runtime(astronaut[:64, :64]).index for _ in range(200))

        def read() -> None:
            for _ in range(200):
                assert {summary.n for summary in runtime.latency().values()} <= set(range(801))

        run_together(work, work, work, work, read)
        assert runtime.latency()["total"].n == 800
    assert sorted(indices) == list(range(800))


class SlowDetector:
    """A detector that finds one face once it is released."""

    name = "slow"

    def __init__(self) -> None:
        self.begun, self.may_end = threading.Event(), threading.Event()

    def detect(self, frame_bgr: np.ndarray) -> list[Detection]:
        self.begun.set()
        assert self.may_end.wait(60)
        return [Detection((180.0, 60.0, 270.0, 175.0), 0.9)]

    def close(self) -> None:
        assert self.may_end.is_set()


def test_closing_waits_for_the_frame_that_runs(astronaut: np.ndarray) -> None:
    runtime, slow, faces = Runtime(backend="onnxruntime"), SlowDetector(), []
    runtime._pipeline.detector = slow
    frame = threading.Thread(target=lambda: faces.extend(runtime(astronaut).faces))
    frame.start()
    assert slow.begun.wait(60)
    closing = [threading.Thread(target=runtime.close) for _ in range(2)]
    for thread in closing:
        thread.start()
    closing[0].join(0.2)
    assert closing[0].is_alive()
    with pytest.raises(BackendError, match="this runtime is closed. Fix: create another"):
        runtime(astronaut)
    slow.may_end.set()
    for thread in (frame, *closing):
        thread.join(60)
        assert not thread.is_alive()
    assert [face.label for face in faces] == ["happiness"]
    runtime.close()
    with pytest.raises(BackendError, match="this runtime is closed. Fix: create another"):
        runtime(astronaut)


def ask_until_closed(
    ask: Callable[[], object], expected: object, close: Callable[[], None], error: type[Exception]
) -> None:
    """Close while four threads call: each answer is right until the one error, that the object is closed."""
    enough = threading.Semaphore(0)

    def ask_for_ever() -> None:
        while True:
            assert ask() == expected
            enough.release()

    def work() -> None:
        with pytest.raises(error, match="closed. Fix: (open|create) another"):
            ask_for_ever()

    def end() -> None:
        for _ in range(8):
            assert enough.acquire(timeout=60)
        close()
        close()

    run_together(work, work, work, work, end)


@pytest.mark.parametrize("backend", BACKEND_NAMES)
def test_sessions_are_closed_between_calls(backend: str) -> None:
    bundle = open_bundle(shipped_bundle())
    batch = np.random.default_rng(1).normal(0, 1, (3, *bundle.spec.input_shape)).astype(np.float32)
    for _ in range(10):
        session = BACKENDS[backend].open(bundle.path / "model.onnx", SessionOptions(threads=1))
        expected = of_outputs(session.run(batch))
        run = session.run
        ask_until_closed(lambda run=run: of_outputs(run(batch)), expected, session.close, BackendError)  # type: ignore[misc]


@pytest.mark.parametrize("backend", BACKEND_NAMES)
def test_detectors_and_runtimes_are_closed_between_frames(
    backend: str, detector: str, crowds: list[np.ndarray]
) -> None:
    found = create_detector(detector, DetectorOptions(backend=backend))
    expected = of_detections(found.detect(crowds[3]))
    ask_until_closed(lambda: of_detections(found.detect(crowds[3])), expected, found.close, DetectorError)
    runtime = open_runtime(backend, detector)
    answer = of_frame(runtime(crowds[3]))
    ask_until_closed(lambda: of_frame(runtime(crowds[3])), answer, runtime.close, BackendError)


CREATE_TOGETHER = """
import sys, threading
sys.setswitchinterval(1e-6)
sys.path.insert(0, sys.argv[1])
from crowds import run_together
import fer_edge

def create(backend):
    with fer_edge.Runtime(backend=backend) as runtime:
        assert runtime.backend.name == backend

before = sys.modules.get("openvino_telemetry", "not hidden")
run_together(*(lambda b=b: create(b) for b in sys.argv[2:] * 2))
assert sys.modules.get("openvino_telemetry", "not hidden") is before, "a thread left it changed"
print("done")
"""
IMPORT_TOGETHER = """
import sys
sys.setswitchinterval(1e-6)
sys.path.insert(0, sys.argv[1])
from crowds import run_together
import fer_edge
run_together(*(lambda n=n: getattr(fer_edge, n) for n in sys.argv[2:]))
print("done")
"""


def run_program(program: str, *arguments: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", program, SUPPORT, *arguments],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert result.stdout.strip() == "done", result.stderr


def test_runtimes_are_created_by_threads_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FER_EDGE_CACHE", str(tmp_path))  # all convert the detector's weights
    run_program(CREATE_TOGETHER, *BACKEND_NAMES)


@pytest.mark.parametrize(
    "names", [("Runtime", "open_bundle", "DetectorOptions", "Face"), ("build", "Runtime")]
)
def test_public_names_are_imported_by_threads_at_once(names: tuple[str, ...]) -> None:
    if "build" in names and importlib.util.find_spec("torch") is None:
        pytest.skip("needs PyTorch: pip install 'fer-edge[export]'")
    for order in (names, names[::-1]):
        run_program(IMPORT_TOGETHER, *order, *order)

"""After a fork: objects of the parent are refused with a clear error, new objects work, and nothing hangs until exit.

Each test is a program with a time limit, whose child is killed by an alarm where it hangs.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from places import SUPPORT

from fer_edge.backends import available_backends
from fer_edge.detection import DEFAULT_DETECTOR, DETECTORS

BEGIN = """
import gc, multiprocessing, os, signal, sys, threading, warnings
import cv2, numpy as np
sys.path.insert(0, sys.argv[1])
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
import fer_edge
from fer_edge import DetectorOptions, Runtime
from fer_edge.errors import BackendError, DetectorError, SourceError

def refused(call, error):
    try:
        call()
    except error as found:
        assert "was made before the fork of process" in str(found), found
        assert "multiprocessing.get_context('spawn')" in str(found), found
        return
    raise AssertionError(f"{call} was not refused")

def in_child(work):
    pid = os.fork()
    if not pid:
        signal.alarm(60)
        work()
        print("child is done")
        sys.exit()  # as a program ends, not as a worker of multiprocessing: all is torn down
    assert os.waitpid(pid, 0)[1] == 0, "the child failed, crashed or hung"
"""

RUNTIME = """
from crowds import of_detections, of_frame
backend, detector, threads, photograph = sys.argv[2:]
threads = int(threads)
frame = cv2.imread(photograph)
options = DetectorOptions(backend=backend, threads=threads)

def create():
    return Runtime(backend=backend, detector=detector, detector_options=options, threads=threads)

with create() as runtime:
    expected = of_frame(runtime(frame))
    assert len(expected) == 1
    stop = threading.Event()

    def call():
        while not stop.is_set():
            assert of_frame(runtime(frame)) == expected

    callers, calling = [threading.Thread(target=call) for _ in range(2)], False

    def work():
        global runtime
        batch = np.zeros((1, *runtime.spec.input_shape), np.float32)
        refused(lambda: runtime(frame), BackendError)
        refused(lambda: next(runtime.stream(photograph)), BackendError)
        refused(runtime.latency, BackendError)
        refused(lambda: runtime._pipeline.host.session.run(batch), BackendError)
        refused(lambda: runtime._pipeline.detector.detect(frame), DetectorError)
        try:
            with create() as own:
                assert of_frame(own(frame)) == expected
                assert of_frame(own(frame)) == expected
        except BackendError as error:
            assert calling and backend == "openvino", error
            assert "was forked while another thread used it" in str(error), error
        with runtime:
            pass
        del runtime
        gc.collect()

    in_child(work)
    calling = True
    for caller in callers:
        caller.start()
    in_child(work)  # in the middle of calls
    stop.set()
    for caller in callers:
        caller.join()
    calling = False
    assert of_frame(runtime(frame)) == expected
    with multiprocessing.get_context("fork").Pool(2) as pool:
        answers = pool.map(of_frame_of_own, [photograph] * 2)
    assert answers == [expected] * 2
print("done")
"""
# What a pool calls must have a name at the top.
OWN = """
def of_frame_of_own(path):
    with create() as own:
        return of_frame(own(cv2.imread(path)))
"""

OPENVINO_IN_MID_CALL = """
from fer_edge.backends import openvino
runtime, begun, end = Runtime(backend="openvino"), threading.Event(), threading.Event()

def call():
    with openvino._ACTIVITY:
        begun.set()
        end.wait(60)

def work():
    for _ in range(2):
        try:
            Runtime(backend="openvino")
        except BackendError as error:
            assert "multiprocessing.get_context('spawn')" in str(error), error
        else:
            raise AssertionError("it was not refused")
    Runtime(backend="onnxruntime").close()

thread = threading.Thread(target=call)
thread.start()
begun.wait(60)
in_child(work)
Runtime(backend="openvino").close()
end.set()
thread.join()
print("done")
"""

SOURCES = """
from fer_edge.sources.open import LiveSource, VideoSource
video, live = VideoSource(__import__("pathlib").Path(sys.argv[2])), LiveSource(sys.argv[2])
frames = iter(video), iter(live)
for each in frames:
    next(each)

def work():
    for each in frames:
        refused(lambda: next(each), SourceError)
    refused(lambda: next(iter(live)), SourceError)
    video.close(), live.close()
    own = VideoSource(video.path)
    assert len(list(own)) == 20
    own.close()

in_child(work)
assert len(list(frames[0])) == 19
video.close(), live.close()
print("done")
"""

RUNNER = """
from fake_device import FakeDevice
from example_engine import ENGINE, assert_clean, assert_right, draw, network
from fer_edge.engines.run.runner import EngineRunner
warnings.simplefilter("error", ResourceWarning)
device = FakeDevice(network(), lambda: 0.0)
runner = EngineRunner(lambda: device, ENGINE)
assert_right(runner.run(draw(3)), draw(3))

def work():
    global runner
    refused(lambda: runner.run(draw(3)), BackendError)
    runner.close()
    own = FakeDevice(network(), lambda: 0.0)
    with EngineRunner(lambda: own, ENGINE) as other:
        assert_right(other.run(draw(3)), draw(3))
    assert_clean(own)
    del runner
    gc.collect()

in_child(work)
assert_right(runner.run(draw(3)), draw(3))
runner.close()
assert_clean(device)
print("done")
"""


def run_program(program: str, *arguments: str | Path, children: int = 1) -> None:
    command = [
        sys.executable,
        "-c",
        BEGIN + program,
        SUPPORT,
        *map(str, arguments),
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split("\n") == ["child is done"] * children + ["done", ""]
    assert result.stderr == ""


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("backend", available_backends("cpu"))
def test_a_runtime_of_the_parent_is_refused_and_a_new_one_works(
    backend: str, threads: int, astronaut_file: Path
) -> None:
    run_program(OWN + RUNTIME, backend, DEFAULT_DETECTOR, str(threads), astronaut_file, children=2)


@pytest.mark.parametrize("detector", sorted({*DETECTORS} - {DEFAULT_DETECTOR}))
def test_so_are_detectors(detector: str, astronaut_file: Path) -> None:
    run_program(OWN + RUNTIME, "onnxruntime", detector, "2", astronaut_file, children=2)


def test_so_are_videos_and_live_sources(tmp_path: Path) -> None:
    import cv2
    import numpy as np

    path = tmp_path / "a.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 64))
    for _ in range(20):
        writer.write(np.zeros((64, 64, 3), np.uint8))
    writer.release()
    run_program(SOURCES, path)


@pytest.mark.skipif(
    "openvino" not in available_backends("cpu"), reason="needs OpenVINO: pip install 'fer-edge[openvino]'"
)
def test_openvino_is_refused_where_its_locks_may_be_held() -> None:
    run_program(OPENVINO_IN_MID_CALL)


def test_so_are_engines() -> None:
    run_program(RUNNER)

"""The simulated device detects errors of a runner, which the tests of the runner rely on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fake_device import FakeContext, FakeDevice, FakeNetwork, Hazard

from fer_edge.engines.run.engine import EngineFile, TensorInfo
from fer_edge.errors import BackendError

SIZE = 512
X, Y = (TensorInfo(name, np.dtype(np.float32), (4,)) for name in "xy")
NETWORK = FakeNetwork(lambda batch: {"y": batch * 2}, X, (Y,))


class Bench:
    """A device with memory, two streams and an event."""

    def __init__(self, delay: Callable[[], float] | None = lambda: 0.005) -> None:
        self.device = FakeDevice(NETWORK, delay)
        self.a, self.b = self.device.allocate(SIZE), self.device.allocate(SIZE)
        self.pinned = self.device.allocate_pinned(SIZE)
        self.host = self.pinned.ctypes.data
        self.one, self.two = self.device.create_stream(), self.device.create_stream()
        self.event = self.device.create_event()

    def context(self) -> FakeContext:
        engine = self.device.load_engine(EngineFile(Path("x.engine")))
        return engine.create_context(2, {"x": self.a, "y": self.b}, self.device.allocate(64))

    def finish(self) -> None:
        self.device.record(self.event, self.one)
        while not self.device.is_done(self.event):
            time.sleep(0.001)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_work_is_late_and_in_order(bench: Bench) -> None:
    bench.pinned[:] = 7
    bench.device.copy(bench.a, bench.host, SIZE, bench.one)
    assert bench.device.view(bench.a, SIZE)[0] != 7
    bench.device.record(bench.event, bench.one)
    bench.device.wait(bench.two, bench.event)
    bench.device.copy(bench.b, bench.a, SIZE, bench.two)
    bench.device.record(bench.event, bench.two)
    while not bench.device.is_done(bench.event):
        time.sleep(0.001)
    assert (bench.device.view(bench.b, SIZE) == 7).all()
    assert bench.device.hazards == []


def test_two_streams_without_an_event(bench: Bench) -> None:
    bench.device.copy(bench.a, bench.host, SIZE, bench.one)
    with pytest.raises(Hazard, match="two streams use the same memory in no order"):
        bench.device.copy(bench.b, bench.a, SIZE, bench.two)


def test_an_event_that_was_recorded_too_early(bench: Bench) -> None:
    bench.device.record(bench.event, bench.one)
    bench.device.copy(bench.a, bench.host, SIZE, bench.one)
    bench.device.wait(bench.two, bench.event)
    with pytest.raises(Hazard, match="no order"):
        bench.device.copy(bench.b, bench.a, SIZE, bench.two)


def test_two_reads_need_no_order(bench: Bench) -> None:
    bench.device.copy(bench.a, bench.host, SIZE, bench.one)
    bench.device.copy(bench.b, bench.host, SIZE, bench.two)
    assert bench.device.hazards == []


def test_pinned_memory_that_is_written_before_it_was_copied(bench: Bench) -> None:
    bench.device.copy(bench.a, bench.host, SIZE, bench.one)
    bench.pinned[:] = 3
    with pytest.raises(BackendError, match="the host wrote to pinned memory before it was copied"):
        bench.finish()


def test_an_output_that_is_read_too_early_is_nan(bench: Bench) -> None:
    bench.pinned[:] = 0
    bench.device.copy(bench.host, bench.a, SIZE, bench.one)
    assert np.isnan(bench.pinned.view(np.float32)).all()


def test_memory_that_is_freed_while_it_is_used(bench: Bench) -> None:
    bench.device.copy(bench.a, bench.host, SIZE, bench.one)
    with pytest.raises(Hazard, match="memory was freed while a stream used it"):
        bench.device.free(bench.a)


def test_memory_that_is_used_after_it_was_freed(bench: Bench) -> None:
    bench.device.free(bench.a)
    with pytest.raises(Hazard, match="memory was used after it was freed"):
        bench.device.copy(bench.a, bench.b, SIZE, bench.one)
    with pytest.raises(Hazard, match="a memory was used that is freed"):
        bench.device.free(bench.a)


def test_a_copy_beyond_the_end(bench: Bench) -> None:
    with pytest.raises(Hazard, match="memory was used out of bounds"):
        bench.device.copy(bench.a, bench.b, SIZE + 1, bench.one)


def test_a_stream_that_is_destroyed_while_it_works(bench: Bench) -> None:
    bench.device.copy(bench.a, bench.b, SIZE, bench.one)
    with pytest.raises(Hazard, match="a stream was destroyed while it worked"):
        bench.device.destroy_stream(bench.one)


def test_what_is_freed_is_not_used(bench: Bench) -> None:
    bench.device.destroy_event(bench.event)
    with pytest.raises(Hazard, match="a event was used that is freed"):
        bench.device.record(bench.event, bench.one)
    bench.device.destroy_stream(bench.one)
    with pytest.raises(Hazard, match="a stream was used that is freed"):
        bench.device.copy(bench.a, bench.b, SIZE, bench.one)


def test_the_time_of_an_event_that_is_not_reached(bench: Bench) -> None:
    late = bench.device.create_event()
    bench.device.record(bench.event, bench.one)
    bench.device.copy(bench.a, bench.b, SIZE, bench.one)
    bench.device.record(late, bench.one)
    with pytest.raises(BackendError, match="not reached"):
        bench.device.elapsed_ms(bench.event, late)


def test_a_graph_runs_when_it_is_launched(bench: Bench) -> None:
    context = bench.context()
    bench.device.copy(bench.a, bench.host, SIZE, bench.one)
    context.enqueue(bench.one)
    bench.finish()
    assert bench.device.batches == [2]
    graph = bench.device.capture(bench.one, lambda: context.enqueue(bench.one))
    bench.finish()
    assert bench.device.batches == [2]
    bench.device.launch(graph, bench.one)
    bench.finish()
    assert bench.device.batches == [2, 2]


def test_a_first_run_cannot_be_captured(bench: Bench) -> None:
    context = bench.context()
    with pytest.raises(BackendError, match="the first run of a context cannot be captured"):
        bench.device.capture(bench.one, lambda: context.enqueue(bench.one))


def test_only_work_is_captured(bench: Bench) -> None:
    with pytest.raises(BackendError, match="not permitted when stream is capturing"):
        bench.device.capture(bench.one, lambda: bench.device.allocate(4) and None)
    bench.device.allocate(4)  # the capture has ended


def test_a_graph_whose_context_is_closed(bench: Bench) -> None:
    context = bench.context()
    context.enqueue(bench.one)
    graph = bench.device.capture(bench.one, lambda: context.enqueue(bench.one))
    bench.finish()
    context.close()
    bench.device.launch(graph, bench.one)
    with pytest.raises(BackendError, match="a context was used that is freed"):
        bench.finish()


def test_contexts_that_share_working_memory_must_not_run_at_once(bench: Bench) -> None:
    engine = bench.device.load_engine(EngineFile(Path("x.engine")))
    scratch = bench.device.allocate(64)
    c, d = bench.device.allocate(SIZE), bench.device.allocate(SIZE)
    engine.create_context(2, {"x": bench.a, "y": bench.b}, scratch).enqueue(bench.one)
    with pytest.raises(Hazard, match="no order"):
        engine.create_context(2, {"x": c, "y": d}, scratch).enqueue(bench.two)


def test_an_engine_is_closed_after_its_contexts(bench: Bench) -> None:
    engine = bench.device.load_engine(EngineFile(Path("x.engine")))
    engine.create_context(2, {"x": bench.a, "y": bench.b}, bench.device.allocate(64))
    with pytest.raises(Hazard, match="an engine was closed before its contexts"):
        engine.close()


def test_calls_of_a_second_thread(bench: Bench) -> None:
    caught: list[BaseException] = []

    def call() -> None:
        try:
            bench.device.allocate(4)
        except Hazard as hazard:
            caught.append(hazard)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert "the device was called by two threads" in str(caught[0])


def test_the_call_that_is_chosen_fails() -> None:
    device = FakeDevice(NETWORK, fail_at=2)
    device.allocate(4), device.create_stream()
    with pytest.raises(BackendError, match=r"injected failure of call 2 \(create_event\)"):
        device.create_event()
    device.create_event()
    assert device.left() == {"memory": 1, "stream": 1, "event": 1}

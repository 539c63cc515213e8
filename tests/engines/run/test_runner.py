"""Runner on a simulated device with delayed work and checked rules: values, batch sizes, order, memory."""

from __future__ import annotations

import gc
import threading
import time
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from example_engine import (
    ENGINE,
    SHAPE,
    assert_clean,
    assert_right,
    compute,
    draw,
    network,
)
from fake_device import Dlpack, FakeDevice, random_delays

from fer_edge.cuda.arrays import DeviceArray
from fer_edge.engines.run.engine import TensorInfo
from fer_edge.engines.run.options import RunnerOptions, RunnerState
from fer_edge.engines.run.runner import EngineRunner
from fer_edge.engines.run.slot import Slot
from fer_edge.errors import BackendError, UsageError


@contextmanager
def opened(device: FakeDevice, **options: Any) -> Iterator[EngineRunner]:
    """Open a runner whose device must be freed completely."""
    with EngineRunner(lambda: device, ENGINE, RunnerOptions(**options)) as runner:
        yield runner
    assert_clean(device)


def late(seed: int = 0, most_s: float = 0.0005, **changes: Any) -> FakeDevice:
    return FakeDevice(network(**changes), random_delays(seed, most_s))


@pytest.mark.parametrize("graphs", ["required", "off"])
def test_batches_of_every_size(graphs: str) -> None:
    device = late(1)
    with opened(device, cuda_graphs=graphs) as runner:
        warm = len(device.batches)
        for rows in range(1, 41):
            assert_right(runner.run(draw(rows, rows)), draw(rows, rows))
        launched = device.calls["launch"]
    assert set(device.batches[warm:]) == {1, 2, 4, 8, 16}
    assert bool(launched) == (graphs == "required")


@pytest.mark.parametrize(
    ("rows", "expected"),
    [(1, [1]), (3, [4]), (5, [8]), (9, [16]), (16, [16]), (17, [16, 1]), (37, [16, 16, 8]), (48, [16] * 3)],
)
def test_a_batch_is_padded_to_the_next_size_and_split_beyond_the_largest(
    rows: int, expected: list[int]
) -> None:
    device = FakeDevice(network())
    with opened(device) as runner:
        warm = len(device.batches)
        runner.run(draw(rows))
    assert device.batches[warm:] == expected


@pytest.mark.parametrize(
    ("bounds", "wanted", "expected"),
    [
        ((1, 16), None, (1, 2, 4, 8, 16)),
        ((1, 12), None, (1, 2, 4, 8, 12)),
        ((1, 1), None, (1,)),
        ((3, 6), None, (4, 6)),
        ((1, 64), None, (1, 2, 4, 8, 16, 64)),
        ((1, 16), (3, 16), (3, 16)),
    ],
)
def test_only_sizes_that_the_engine_declares(
    bounds: tuple[int, int], wanted: tuple[int, ...] | None, expected: tuple[int, ...]
) -> None:
    device = FakeDevice(network(min_batch=bounds[0], max_batch=bounds[1]))
    with opened(device, buckets=wanted) as runner:
        assert runner.report.buckets == expected
        for rows in (1, 5, bounds[1], bounds[1] + 1):
            assert_right(runner.run(draw(rows)), draw(rows))
    assert set(device.batches) == set(expected)


def test_sizes_that_the_engine_does_not_take_are_an_error() -> None:
    device = FakeDevice(network(max_batch=8))
    with pytest.raises(UsageError, match=r"expected buckets from 1 to 8, .*found \(1, 16\)"):
        EngineRunner(lambda: device, ENGINE, RunnerOptions(buckets=(1, 16)))
    assert_clean(device)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"buckets": ()}, "buckets must be a tuple of batch sizes"),
        ({"buckets": (0, 1)}, "a size of buckets must be a whole number from 1"),
        ({"buckets": (2, 1)}, "buckets must be batch sizes"),
        ({"buckets": (1, 1)}, "buckets must be batch sizes"),
        ({"watchdog_s": 0}, "watchdog_s must be a number from 0.001"),
        ({"watchdog_s": float("nan")}, "watchdog_s must be a number from 0.001"),
        ({"watchdog_s": float("inf")}, "watchdog_s must be a number from 0.001"),
        ({"cuda_graphs": "require"}, "did you mean 'required'"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        RunnerOptions(**options)


def test_padding_is_zero_or_an_earlier_sample_never_memory_of_others() -> None:
    seen: list[np.ndarray] = []

    def watch(batch: np.ndarray) -> dict[str, np.ndarray]:
        seen.append(batch.copy())
        return compute(batch)

    with opened(FakeDevice(network(compute=watch))) as runner:
        runner.run(draw(3))
    assert all(np.isfinite(batch).all() for batch in seen)  # new memory is NaN on this device
    np.testing.assert_array_equal(seen[-1][3], np.zeros(SHAPE))


@pytest.mark.parametrize("seed", range(3))
def test_many_threads_get_their_own_results(seed: int) -> None:
    device = late(seed)

    def work(runner: EngineRunner, thread: int) -> None:
        for i in range(12):
            rows = (7 * thread + 5 * i) % 35 + 1
            batch = draw(rows, 1000 * thread + i)
            assert_right(runner.run(batch), batch)

    with opened(device) as runner, ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(work, runner, thread) for thread in range(8)]:
            done.result()


def test_batches_are_run_in_the_order_of_their_calls() -> None:
    order: list[int] = []
    gate = threading.Event()

    def watch(batch: np.ndarray) -> dict[str, np.ndarray]:
        gate.wait(10)
        order.append(int(batch[0, 0, 0, 0]))
        return compute(batch)

    gate.set()
    device = FakeDevice(network(compute=watch), lambda: 0.0)
    with opened(device) as runner, ThreadPoolExecutor(12) as pool:
        order.clear()
        gate.clear()
        waiting = []
        for i in range(12):
            waiting.append(pool.submit(runner.run, np.full((1, *SHAPE), i, np.float32)))
            time.sleep(0.005)  # else the pool's threads may call in another order
        gate.set()
        for done in waiting:
            done.result()
    assert order == list(range(12))


def test_the_next_input_is_copied_while_a_batch_computes() -> None:
    computing, copied = threading.Event(), threading.Event()

    def wait_for_the_other(batch: np.ndarray) -> dict[str, np.ndarray]:
        if batch[0, 0, 0, 0] == 1:
            computing.set()
            assert copied.wait(20), "the second batch was not copied while the first computed"
        return compute(batch)

    device = FakeDevice(network(compute=wait_for_the_other), lambda: 0.0)
    real = device.copy

    def copy(target: int, source: int, size_bytes: int, stream: int) -> None:
        real(target, source, size_bytes, stream)
        if source in device.live["pinned"] and device.view(source, 4).view(np.float32)[0] == 2:
            device._streams[stream].give(copied.set)

    with opened(device) as runner, ThreadPoolExecutor(2) as pool:
        device.copy = copy  # type: ignore[method-assign]
        first = pool.submit(runner.run, np.full((1, *SHAPE), 1, np.float32))
        assert computing.wait(20)
        second = pool.submit(runner.run, np.full((1, *SHAPE), 2, np.float32))
        first.result(), second.result()
        del device.copy
    assert device.overlaps > 0


def test_the_parts_of_one_batch_overlap_too() -> None:
    device = FakeDevice(network(), lambda: 0.002)
    with opened(device) as runner:
        assert_right(runner.run(draw(100)), draw(100))
    assert device.overlaps > 0


@pytest.mark.parametrize("skipped", ["compute", "copy_out"])
def test_a_runner_that_forgets_to_wait_would_be_caught(skipped: str, monkeypatch: pytest.MonkeyPatch) -> None:
    device = FakeDevice(network(), lambda: 0.0)

    def forget(self: FakeDevice, stream: int, event: int) -> None:
        if stream != list(self._streams)[("copy_in", "compute", "copy_out").index(skipped)]:
            real(self, stream, event)

    real = FakeDevice.wait
    monkeypatch.setattr(FakeDevice, "wait", forget)
    with pytest.raises(BackendError, match="two streams use the same memory in no order"):
        EngineRunner(lambda: device, ENGINE)


def test_a_runner_that_does_not_wait_for_the_end_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Slot, "is_done", lambda self: True)
    device = FakeDevice(network(), lambda: 0.002)
    with pytest.raises(BackendError):
        EngineRunner(lambda: device, ENGINE).run(draw(40))
    assert device.hazards


def test_nothing_is_allocated_on_the_device_after_warm_up() -> None:
    device = FakeDevice(network(), lambda: 0.0)
    with opened(device) as runner:
        before = {name: n for name, n in device.calls.items() if "create" in name or "alloc" in name}
        for rows in (1, 7, 40, 16, 3):
            runner.run(draw(rows))
        assert before == {name: n for name, n in device.calls.items() if "create" in name or "alloc" in name}
        assert {"allocate", "allocate_pinned", "create_event", "create_stream", "create_context"} == set(
            before
        )


class QuietDevice(FakeDevice):
    """Device without checks or records, so that all allocations are those of the runner."""

    def _call(self, name: str) -> None:
        pass

    def _enqueue(self, handle: int, operation: Any) -> None:
        if self._streams[handle].captured is not None:
            self._streams[handle].captured.append(operation)  # type: ignore[union-attr]

    def record(self, event: int, stream: int) -> None:
        pass

    def elapsed_ms(self, begin: int, end: int) -> float:
        return 0.0

    def copy(self, target: int, source: int, size_bytes: int, stream: int) -> None:
        pass


def test_host_memory_does_not_grow_after_warm_up() -> None:
    device = QuietDevice(network())
    batch = draw(160)
    out = compute(batch)
    with EngineRunner(lambda: device, ENGINE) as runner:
        gc.collect()
        gc.disable()  # it empties the lists of objects to use again, which would be filled anew
        tracemalloc.start()
        try:
            for _ in range(300):
                runner.run(batch, out=out)
            rounds = []
            for _ in range(
                3
            ):  # other threads of this process may allocate in one of them, a leak shows in all
                before, _ = tracemalloc.get_traced_memory()
                tracemalloc.reset_peak()
                for _ in range(500):
                    runner.run(batch, out=out)
                after, peak = tracemalloc.get_traced_memory()
                rounds.append((after - before, peak - before))
        finally:
            tracemalloc.stop()
            gc.enable()
    growth, held = map(min, zip(*rounds, strict=True))
    assert growth < 500, "bytes stay behind with every call"
    assert held < 8 << 10 < batch.nbytes, "a call holds more than its small objects"


def test_the_caller_gives_the_arrays_to_write_to() -> None:
    device = late(2)
    with opened(device) as runner:
        batch = draw(21)
        logits = np.full((21, 10), -1, np.float32)
        result = runner.run(batch, out={"logits": logits[:, ::2]})
        assert list(result) == ["logits"]
        np.testing.assert_array_equal(logits[:, ::2], compute(batch)["logits"])
        assert (logits[:, 1::2] == -1).all()


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("logit", np.zeros((2, 5), np.float32), "did you mean 'logits'"),
        (
            "logits",
            np.zeros((2, 4), np.float32),
            r"must be float32 \(2, 5\), found float32 \(2, 4\)",
        ),
        ("logits", np.zeros((3, 5), np.float32), r"must be float32 \(2, 5\)"),
        ("logits", np.zeros((2, 5), np.float64), "found float64"),
        ("logits", np.broadcast_to(np.float32(0), (2, 5)), "read-only"),
        ("logits", [[0.0] * 5] * 2, "found list"),
    ],
)
def test_arrays_that_cannot_be_written_to(name: str, array: Any, message: str) -> None:
    with (
        opened(FakeDevice(network())) as runner,
        pytest.raises((BackendError, UsageError), match=message),
    ):
        runner.run(draw(2), out={name: array})


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (np.zeros((1, *SHAPE)), "found float64"),
        (np.zeros((1, *SHAPE), np.uint8), "found uint8"),
        (np.zeros((1, *SHAPE), ">f4"), "found >f4"),
        (np.zeros(SHAPE, np.float32), r"found float32 \(2, 4, 6\)"),
        (np.zeros((0, *SHAPE), np.float32), r"found float32 \(0, 2, 4, 6\)"),
        (np.zeros((1, 2, 4, 7), np.float32), r"expected a float32 batch \[B >= 1, 2, 4, 6\]"),
        (np.float32(3), "found float32"),
        (np.zeros((), np.float32), r"found float32 \(\)"),
        ([[0.0]], "found list"),
        (None, "found NoneType"),
    ],
)
def test_batches_that_do_not_fit(batch: Any, message: str) -> None:
    with opened(FakeDevice(network())) as runner:
        with pytest.raises(BackendError, match=message):
            runner.run(batch)
        assert runner.state is RunnerState.READY
        assert_right(runner.run(draw(2)), draw(2))


def test_an_engine_of_half_precision_takes_float32_and_float16() -> None:
    device = FakeDevice(network(input=TensorInfo("x", np.dtype(np.float16), SHAPE)), lambda: 0.0)
    batch = draw(5)
    with opened(device) as runner:
        assert_right(runner.run(batch), batch.astype(np.float16))
        assert_right(runner.run(batch.astype(np.float16)), batch.astype(np.float16))
        with pytest.raises(BackendError, match="expected a float16 batch"):
            runner.run(device.put(batch))


@pytest.mark.parametrize("rows", [1, 6, 16, 39])
def test_device_arrays_in_and_out(rows: int) -> None:
    device = late(4)
    batch, expected = draw(rows), compute(draw(rows))
    with opened(device) as runner:
        stream = device.new_stream()
        host_copies = device.calls["copy"]
        given = device.put(batch, stream, late_s=0.02)  # is filled after the call
        other = device.new_stream()
        out = {n: device.put(np.zeros_like(v), other, late_s=0.02) for n, v in expected.items()}
        result = runner.run(given, out=out)
        assert result == out
        parts = -(-rows // 16)
        assert device.calls["copy"] - host_copies == parts * (1 + 3)  # device to device only
        for name, array in out.items():
            np.testing.assert_array_equal(array.numpy(), expected[name])
        mixed = {"logits": out["logits"], "half": np.empty_like(expected["half"])}
        runner.run(device.put(batch), out=mixed)
        np.testing.assert_array_equal(mixed["half"], expected["half"])


def test_an_array_whose_producer_is_not_waited_for_would_be_caught() -> None:
    device = FakeDevice(network(), lambda: 0.001)
    with EngineRunner(lambda: device, ENGINE) as runner:
        stream = device.new_stream()
        given = device.put(draw(2), stream, late_s=0.05)
        given.__cuda_array_interface__["stream"] = None
        with pytest.raises(BackendError, match="no order"):
            runner.run(given)


def test_a_copy_to_the_host_waits_for_what_fills_the_array() -> None:
    device = late(7)
    with opened(device) as runner, ThreadPoolExecutor(4) as pool:
        stream = device.new_stream()
        jobs = []
        for i, side in enumerate((5, 90, 30, 200, 7)):  # its memory grows, while batches are run
            values = np.random.default_rng(i).integers(0, 255, (side, side + 1, 3), np.uint8)
            jobs.append((pool.submit(runner.run, draw(20, i)), draw(20, i)))
            copied = runner.copy_to_host(device.put(values, stream, late_s=0.01))
            np.testing.assert_array_equal(copied, values)
            assert copied.flags.c_contiguous
            assert copied.flags.owndata  # the next copy leaves it as it is
        for job, batch in jobs:
            assert_right(job.result(), batch)


@pytest.mark.parametrize(
    ("shape", "offset", "strides"),
    [
        ((4, 5, 3), 0, (21, 3, 1)),  # rows apart
        ((3, 5, 3), 22, (42, 3, 1)),  # every second row
        ((1, 5, 3), 0, (999, 3, 1)),
        ((3, 4, 2), 1, (1, 21, 5)),  # in any order
        ((4, 5, 3), 0, (0, 3, 1)),  # a row that is repeated
        ((), 7, ()),
    ],
)
def test_a_copy_of_part_of_an_array(shape: tuple[int, ...], offset: int, strides: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).integers(0, 255, 150, np.uint8)
    device = late(8)
    with opened(device) as runner:
        array = device.put(values)
        part = DeviceArray(array.memory.ctypes.data + offset, shape, values.dtype, strides=strides)
        expected = np.ndarray(shape, values.dtype, values, offset, strides)
        np.testing.assert_array_equal(runner.copy_to_host(part), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": (0, 3, 4, 6)}, "one or more elements"),
        ({"strides": (-192, 96, 24, 4)}, "without negative strides"),
        ({"data": (0, False)}, "null pointer"),
    ],
)
def test_what_cannot_be_copied_to_the_host(change: dict[str, Any], message: str) -> None:
    device = FakeDevice(network())
    with opened(device) as runner:
        array = device.put(draw(2))
        array.__cuda_array_interface__ |= change
        with pytest.raises(BackendError, match=message):
            runner.copy_to_host(array)
        with pytest.raises(BackendError, match="found list"):
            runner.copy_to_host([1])
        good = device.put(draw(2))
        np.testing.assert_array_equal(runner.copy_to_host(good), draw(2))
    with pytest.raises(BackendError, match="this session is closed"):
        runner.copy_to_host(good)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": (2, 2, 4, 5)}, "expected a float32 batch"),
        ({"typestr": "<f8"}, "found float64"),
        ({"strides": (384, 96, 24, 8)}, "must be C-contiguous"),
        ({"stream": 2}, "per-thread default stream"),
        ({"stream": 0}, "has stream 0"),
        ({"data": (0, False)}, "null pointer"),
    ],
)
def test_device_arrays_that_do_not_fit(change: dict[str, Any], message: str) -> None:
    device = FakeDevice(network())
    with opened(device) as runner:
        array = device.put(draw(2))
        array.__cuda_array_interface__ |= change
        with pytest.raises(BackendError, match=message):
            runner.run(array)
        read_only = device.put(np.zeros((2, 5), np.float32))
        read_only.__cuda_array_interface__["data"] = (read_only.memory.ctypes.data, True)
        with pytest.raises(BackendError, match="'logits'. must be writable, found a read-only array"):
            runner.run(draw(2), out={"logits": read_only})
        assert runner.state is RunnerState.READY


def filling(device: FakeDevice, batch: np.ndarray) -> Callable[[DeviceArray, int, int], None]:
    """A writer whose kernel copies ``batch``."""

    def write(out: DeviceArray, first: int, stream: int) -> None:
        rows = np.ascontiguousarray(batch[first : first + out.shape[0]])
        size = rows.nbytes

        def kernel() -> None:
            device.view(out.address, size)[:] = rows.reshape(-1).view(np.uint8)

        device.run_on(stream, kernel, [(out.address, size)])

    return write


@pytest.mark.parametrize("rows", [1, 5, 37])
def test_a_batch_that_is_made_on_the_device(rows: int) -> None:
    device = late(5)
    batch = draw(rows)
    with opened(device) as runner:
        assert_right(runner.run_written(rows, filling(device, batch)), batch)
        with pytest.raises(BackendError, match="at least one sample"):
            runner.run_written(0, filling(device, batch))


@pytest.mark.parametrize("refused", [0, 16, 32])
def test_what_a_writer_refuses_ends_its_call_only(refused: int) -> None:
    device = late(6)
    batch = draw(40)

    def refuse(out: DeviceArray, first: int, stream: int) -> None:
        if first == refused:
            raise UsageError("the rectangle is empty")
        filling(device, batch)(out, first, stream)

    with opened(device) as runner:
        for _ in range(3):
            with pytest.raises(UsageError, match="the rectangle is empty"):
                runner.run_written(40, refuse)
            assert_right(runner.run(batch), batch)


def test_values_that_are_not_finite() -> None:
    batch = draw(20)
    batch[18, 0, 0, 0] = np.inf
    device = late(7)
    with opened(device) as runner:
        assert not np.isfinite(runner.run(batch)["logits"][18]).all()
    device = late(7)
    with opened(device, check_finite=True) as runner:
        with pytest.raises(BackendError, match="the output logits is not finite for sample 18 of the batch"):
            runner.run(batch)
        on_device = {"logits": device.put(np.zeros((20, 5), np.float32))}
        with pytest.raises(BackendError, match="sample 18"):
            runner.run(batch, out=on_device)
        assert runner.state is RunnerState.READY
        assert_right(runner.run(draw(20)), draw(20))
        runner.run(np.full((1, *SHAPE), 7, np.float32))


def test_graphs_that_cannot_be_captured() -> None:
    device = FakeDevice(network(), captures=0)
    with pytest.raises(
        BackendError, match="cannot be captured as a CUDA graph .*Fix: set cuda_graphs='preferred'"
    ):
        EngineRunner(lambda: device, ENGINE)
    assert_clean(device)
    device = FakeDevice(network(), lambda: 0.0, captures=3)
    with opened(device, cuda_graphs="preferred") as runner:
        assert not runner.report.graphs
        assert "operation not permitted" in runner.report.no_graphs_because
        assert_right(runner.run(draw(20)), draw(20))
        assert device.calls["launch"] == 0  # the three that were captured are not used either


def test_the_report_and_the_timings() -> None:
    device = FakeDevice(network(), lambda: 0.001)
    with opened(device) as runner:
        report = runner.report
        assert report.graphs
        assert report.no_graphs_because == ""
        row = 48 * 4 + 20 + 4 + 48
        assert 2 * 16 * row <= report.pinned_bytes <= 2 * (16 * row + 3 * 256)
        assert report.device_bytes == report.pinned_bytes + 64
        assert runner.latency()["compute"].n == 0
        for _ in range(4):
            runner.run(draw(17))
        latency = runner.latency()
        assert list(latency) == ["copy_in", "compute", "copy_out"]
        for stage in latency.values():
            assert stage.n == 8
            assert 1 <= stage.p50_ms < 1000  # every operation waits 1 ms


def test_two_runners_on_two_devices_do_not_meet() -> None:
    devices = [late(8), late(9)]
    with opened(devices[0]) as a, opened(devices[1]) as b, ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(runner.run, draw(i, i)) for i in range(1, 20) for runner in (a, b)]
        for i, job in enumerate(jobs):
            assert_right(job.result(), draw(i // 2 + 1, i // 2 + 1))


def test_a_runner_that_is_not_closed_warns_and_frees_nothing() -> None:
    device = FakeDevice(network())
    runner = EngineRunner(lambda: device, ENGINE)
    thread = runner._thread
    with pytest.warns(ResourceWarning, match="was not closed. Fix: use it in a with block"):
        del runner  # it is in no cycle
    assert device.left()
    thread.stop()
    assert_clean(device)


def test_a_closed_runner() -> None:
    device = FakeDevice(network())
    runner = EngineRunner(lambda: device, ENGINE)
    runner.close()
    runner.close()
    assert runner.state is RunnerState.CLOSED
    assert_clean(device)
    with pytest.raises(BackendError, match="this session is closed. Fix: open another"):
        runner.run(draw(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del runner
        gc.collect()


@pytest.mark.parametrize("seed", range(4))
def test_closing_in_the_middle(seed: int) -> None:
    device = late(seed, 0.001)
    runner = EngineRunner(lambda: device, ENGINE)
    outcomes: list[str] = []

    def work(thread: int) -> None:
        for i in range(1000):
            batch = draw((thread + i) % 20 + 1, i)
            try:
                assert_right(runner.run(batch), batch)
            except BackendError as error:
                outcomes.append(str(error))
                return

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    runner.close()
    for thread in threads:
        thread.join(30)
    assert outcomes == ["this session is closed. Fix: open another"] * 6
    assert_clean(device)


def test_dlpack_arrays_are_read_in_place() -> None:
    device = FakeDevice(network())
    with opened(device) as runner:
        given = Dlpack(device.put(draw(3)))
        out = Dlpack(device.put(np.zeros((3, 5), np.float32)))
        runner.run(given, out={"logits": out})
        np.testing.assert_array_equal(out.array.numpy(), compute(draw(3))["logits"])
        # Each array is asked for the stream that will use it, so that its library lets that stream wait.
        assert given.streams == [runner._thread.pipeline.streams.copy_in]
        assert out.streams == [runner._thread.pipeline.streams.copy_out]

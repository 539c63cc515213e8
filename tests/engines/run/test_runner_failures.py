"""Failures at any call: callers get an error, the runner ends in a defined state, and everything is freed."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from example_engine import ENGINE, OUTPUTS, assert_clean, assert_right, compute, draw, network
from fake_device import FakeDevice, random_delays
from places import SUPPORT

from fer_edge.engines.run.options import RunnerOptions, RunnerState
from fer_edge.engines.run.runner import EngineRunner
from fer_edge.errors import BackendError, EngineError

OPTIONS = RunnerOptions(buckets=(1, 2, 4), check_finite=True)


def live(device: FakeDevice, errors: list[BackendError]) -> EngineRunner | None:
    """Open a runner, call all its methods and close it; collect the errors."""
    try:
        runner = EngineRunner(lambda: device, ENGINE, OPTIONS)
    except BackendError as error:
        errors.append(error)
        return None
    with warnings.catch_warnings(record=True) as told, runner:
        warnings.simplefilter("always")
        try:
            assert_right(runner.run(draw(1)), draw(1))
            assert_right(runner.run(draw(11)), draw(11))
            stream = device.new_stream()
            given = device.put(draw(6), stream)
            out = {o.name: device.put(np.zeros((6, *o.row_shape), o.dtype), stream) for o in OUTPUTS}
            runner.run(given, out=out)
            for name, values in compute(draw(6)).items():
                np.testing.assert_array_equal(out[name].numpy(), values)
            for rows in (1, 2):  # the second needs more memory
                np.testing.assert_array_equal(runner.copy_to_host(device.put(draw(rows), stream)), draw(rows))
        except BackendError as error:
            errors.append(error)
            with pytest.raises(
                BackendError, match="this session has failed and must be opened again: .*injected"
            ):
                runner.run(draw(1))
            assert runner.state is RunnerState.FAILED
        runner.close()
    errors += [BackendError(str(warning.message)) for warning in told]
    return runner


def calls_of_a_life() -> int:
    device = FakeDevice(network(max_batch=4))
    errors: list[BackendError] = []
    live(device, errors)
    assert errors == []
    assert_clean(device)
    return len(device.log)


CALLS = calls_of_a_life()


def test_a_life_has_many_calls() -> None:
    assert CALLS > 300


@pytest.mark.parametrize("first", range(0, CALLS, 40))
def test_a_failure_of_each_call(first: int) -> None:
    for index in range(first, min(first + 40, CALLS)):
        device = FakeDevice(network(max_batch=4), fail_at=index)
        errors: list[BackendError] = []
        runner = live(device, errors)
        assert errors, f"call {index} ({device.log[index]}) failed and nobody heard of it"
        assert "injected failure of call" in str(errors[0])
        assert device.hazards == []
        assert device.left() == {}, f"call {index} ({device.log[index]})"
        assert device.closed or index == 0
        assert runner is None or runner.state in (RunnerState.FAILED, RunnerState.CLOSED)


@pytest.mark.parametrize("seed", range(12))
def test_a_failure_while_the_device_is_busy(seed: int) -> None:
    """Work enqueued before the failure completes before memory is freed."""
    random = np.random.default_rng(seed)
    device = FakeDevice(network(), random_delays(seed, 0.001))
    runner = EngineRunner(lambda: device, ENGINE)
    device.fail_at = len(device.log) + int(random.integers(5, 400))
    errors: list[str] = []

    def work(thread: int) -> None:
        for i in range(200):
            batch = draw((thread * i) % 33 + 1, i)
            try:
                assert_right(runner.run(batch), batch)
            except BackendError as error:
                errors.append(str(error))
                return

    with ThreadPoolExecutor(5) as pool:
        for done in [pool.submit(work, thread) for thread in range(5)]:
            done.result()
    assert runner.state is RunnerState.FAILED
    assert len(errors) == 5
    assert all("injected failure" in error for error in errors)
    runner.close()
    assert_clean(device)


def test_a_kernel_that_fails() -> None:
    """CUDA reports it at a later call and at every following one."""

    def crash(batch: np.ndarray) -> Any:
        if batch[0, 0, 0, 0] == 7:
            raise ValueError("an illegal memory access was encountered")
        return compute(batch)

    device = FakeDevice(network(compute=crash), lambda: 0.0)
    runner = EngineRunner(lambda: device, ENGINE, RunnerOptions(watchdog_s=5))
    with pytest.raises(BackendError, match="an illegal memory access was encountered"):
        runner.run(np.full((30, 2, 4, 6), 7, np.float32))
    assert runner.state is RunnerState.FAILED
    with pytest.raises(BackendError, match="failed and must be opened again: .*illegal memory access"):
        runner.run(draw(1))
    with pytest.warns(ResourceWarning, match="not freed before this process ends: .*illegal memory access"):
        runner.close()
    assert device.left() == {}
    assert device.hazards == []


def test_a_writer_that_crashes_ends_the_runner() -> None:
    def crash(*arguments: object) -> None:
        raise ZeroDivisionError("division by zero")

    device = FakeDevice(network(), lambda: 0.0)
    with EngineRunner(lambda: device, ENGINE) as runner:
        with pytest.raises(BackendError, match="ZeroDivisionError.*division by zero"):
            runner.run_written(2, crash)
        assert runner.state is RunnerState.FAILED
    assert_clean(device)


def test_a_device_that_cannot_be_opened() -> None:
    def refuse() -> FakeDevice:
        raise EngineError("there is no GPU")

    with pytest.raises(EngineError, match="there is no GPU"):
        EngineRunner(refuse, ENGINE)
    assert "fer-edge fake.engine" not in [thread.name for thread in threading.enumerate()]


class Gate:
    """A network that hangs on demand."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()

    def __call__(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        self.open.wait(60)
        return compute(batch)


def test_a_batch_that_hangs_is_named_and_the_runner_refuses_more() -> None:
    gate = Gate()
    device = FakeDevice(network(compute=gate), lambda: 0.0)
    runner = EngineRunner(lambda: device, ENGINE, RunnerOptions(watchdog_s=0.4))
    gate.open.clear()
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(runner.run, draw(rows)) for rows in (5, 5, 5, 5)]
        for job in jobs:  # those that wait behind it too
            with pytest.raises(BackendError, match=r"a batch of 5 \(run as 8\) did not finish within 0.4 s"):
                job.result(30)
    assert runner.state is RunnerState.FAILED
    with pytest.raises(BackendError, match="this session has failed and must be opened again: a batch of 5"):
        runner.run(draw(1))
    assert device.left()  # the device may still write to it
    gate.open.set()
    runner.close()  # it was only slow: all is freed now
    assert_clean(device)


def test_a_copy_to_the_host_that_hangs() -> None:
    gate = threading.Event()
    device = FakeDevice(network(), lambda: 0.0)
    runner = EngineRunner(lambda: device, ENGINE, RunnerOptions(watchdog_s=0.3))
    stream = device.new_stream()
    array = device.put(draw(1), stream)
    device.run_on(stream, lambda: gate.wait(60) and None, [])
    with pytest.raises(BackendError, match=r"did not (finish|return) within 0\.3 s"):
        runner.copy_to_host(array)
    assert runner.state is RunnerState.FAILED
    gate.set()
    runner.close()
    assert_clean(device)


def test_a_batch_that_waits_for_another_has_its_own_time() -> None:
    def slow(batch: np.ndarray) -> dict[str, np.ndarray]:
        if batch.any():
            time.sleep(0.6)
        return compute(batch)

    device = FakeDevice(network(compute=slow), lambda: 0.0)
    with (
        EngineRunner(lambda: device, ENGINE, RunnerOptions(watchdog_s=1.0)) as runner,
        ThreadPoolExecutor(2) as pool,
    ):
        for done in [pool.submit(runner.run, draw(1)) for _ in range(2)]:
            done.result()
    assert_clean(device)


def test_a_batch_that_never_ends_keeps_its_memory_and_says_so() -> None:
    gate = Gate()
    device = FakeDevice(network(compute=gate), lambda: 0.0)
    runner = EngineRunner(lambda: device, ENGINE, RunnerOptions(watchdog_s=0.2))
    gate.open.clear()
    with pytest.raises(BackendError, match="did not finish"):
        runner.run(draw(1))
    with pytest.warns(ResourceWarning, match="not freed before this process ends: the GPU is still running"):
        runner.close()
    assert device.left()
    assert device.hazards == []
    runner.close()  # told once
    gate.open.set()


def test_a_call_that_does_not_return() -> None:
    device = FakeDevice(network(), lambda: 0.0)
    runner = EngineRunner(lambda: device, ENGINE, RunnerOptions(watchdog_s=0.3))
    release = threading.Event()
    real = device.launch

    def launch(graph: int, stream: int) -> None:
        release.wait(60)
        real(graph, stream)

    device.launch = launch  # type: ignore[method-assign]
    with ThreadPoolExecutor(3) as pool:
        for job in [pool.submit(runner.run, draw(2)) for _ in range(3)]:
            with pytest.raises(BackendError, match="a call of CUDA or TensorRT did not return within 0.3 s"):
                job.result(30)
    assert runner.state is RunnerState.FAILED
    with pytest.warns(ResourceWarning, match="a call of CUDA or TensorRT does not return"):
        runner.close()
    release.set()
    runner._thread._thread.join(30)
    assert_clean(device)  # the thread came back after all, and freed everything


def test_a_hang_while_warming_up() -> None:
    gate = Gate()
    gate.open.clear()
    device = FakeDevice(network(compute=gate), lambda: 0.0)
    with pytest.raises(BackendError, match=r"a batch of 1 \(run as 1\) did not finish"):
        EngineRunner(lambda: device, ENGINE, RunnerOptions(watchdog_s=0.2))
    gate.open.set()


def test_the_users_exception_is_not_hidden_by_closing() -> None:
    device = FakeDevice(network())

    def use() -> None:
        with EngineRunner(lambda: device, ENGINE):
            device.fail_at = len(device.log) + 5
            raise KeyError("mine")

    with pytest.warns(ResourceWarning, match="injected failure"), pytest.raises(KeyError, match="mine"):
        use()
    assert device.left() == {}


def test_a_hundred_runners_leave_no_thread_and_no_memory() -> None:
    before = threading.active_count()
    for _ in range(100):
        device = FakeDevice(network(max_batch=2))
        with EngineRunner(lambda device=device: device, Path("x.engine")) as runner:  # type: ignore[misc]
            runner.run(draw(3))
        assert_clean(device)
    gc.collect()
    assert threading.active_count() == before


def test_a_process_that_forgets_to_close_frees_everything_at_its_end() -> None:
    code = (
        "import atexit, sys; sys.path.insert(0, sys.argv[1])\n"
        "from example_engine import *\n"
        "from fer_edge.engines.run.runner import EngineRunner\n"
        "device = FakeDevice(network(), lambda: 0.001)\n"
        "atexit.register(lambda: print('left:', device.left(), device.closed, device.hazards))\n"
        "runner = EngineRunner(lambda: device, ENGINE)\n"
        "runner.run(draw(5))\n"
    )
    command = [sys.executable, "-c", code, SUPPORT]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "left: {} True []\n"

"""The runner on a real GPU: graphs, odd batches, threads, memory over thousands of runs, arrays of other libraries."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gpu_arrays import HEAD, SHAPE, WEIGHT, Gpu

from fer_edge.backends import SessionOptions
from fer_edge.backends.tensorrt import TensorRtBackend
from fer_edge.cuda.arrays import DeviceArray
from fer_edge.engines.build.builder import build_engine
from fer_edge.engines.build.options import EngineOptions
from fer_edge.engines.run.options import RunnerOptions, RunnerState
from fer_edge.engines.run.runner import EngineRunner
from fer_edge.engines.run.tensorrt_engine import TensorRtDevice
from fer_edge.errors import BackendError

#: Of values near 1, against double precision; the build has TF32 switched off.
TOLERANCE = 1e-4
RUNS = 5000


def draw(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, *SHAPE)).astype(np.float32)


def reference(batch: np.ndarray) -> dict[str, np.ndarray]:
    padded = np.pad(batch.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    features = np.maximum(np.einsum("nchwij,kcij->nkhw", windows, WEIGHT.astype(np.float64)), 0)
    return {"logits": features.mean(axis=(2, 3)) @ HEAD, "features": features}


def assert_right(outputs: dict[str, Any], batch: np.ndarray) -> None:
    for name, expected in reference(batch).items():
        np.testing.assert_allclose(outputs[name], expected, atol=TOLERANCE)


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Flavour → engine; filled as they are asked for."""
    return {"folder": tmp_path_factory.mktemp("engines")}


@pytest.fixture
def engine(backend: TensorRtBackend, engines: dict[str, Path], small_model: Path) -> Path:
    if backend.name not in engines:
        path = engines["folder"] / f"{backend.name}.engine"
        build_engine(small_model, path, EngineOptions(backend.name))
        engines[backend.name] = path
    return engines[backend.name]


@contextmanager
def opened(backend: TensorRtBackend, engine: Path, **options: Any) -> Iterator[EngineRunner]:
    with EngineRunner(partial(TensorRtDevice, backend.name), engine, RunnerOptions(**options)) as runner:
        yield runner


def test_odd_batch_sizes(backend: TensorRtBackend, engine: Path) -> None:
    with opened(backend, engine) as runner:
        assert runner.report.graphs
        for rows in (*range(1, 20), 31, 47, 100):
            assert_right(runner.run(draw(rows, rows)), draw(rows, rows))


def test_a_graph_computes_what_the_network_computes(backend: TensorRtBackend, engine: Path) -> None:
    with opened(backend, engine) as graphs, opened(backend, engine, cuda_graphs="off") as plain:
        assert graphs.report.graphs
        assert not plain.report.graphs
        for rows in (1, 2, 5, 16):
            first = graphs.run(draw(rows, rows))
            for _ in range(20):  # replayed, with other inputs in between
                graphs.run(draw(16, 99))
                again = graphs.run(draw(rows, rows))
                for name, values in first.items():
                    np.testing.assert_array_equal(again[name], values)
            for name, values in plain.run(draw(rows, rows)).items():
                np.testing.assert_allclose(first[name], values, atol=1e-5)


def test_many_threads_get_their_own_results(backend: TensorRtBackend, engine: Path) -> None:
    def work(runner: EngineRunner, thread: int) -> None:
        for i in range(100):
            batch = draw((7 * thread + 5 * i) % 35 + 1, 1000 * thread + i)
            assert_right(runner.run(batch), batch)

    with opened(backend, engine) as runner, ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(work, runner, thread) for thread in range(8)]:
            done.result()


def test_two_runners_at_once(backend: TensorRtBackend, engine: Path) -> None:
    with opened(backend, engine) as a, opened(backend, engine) as b, ThreadPoolExecutor(4) as pool:
        jobs = [(pool.submit(r.run, draw(i % 20 + 1, i)), i) for i in range(400) for r in (a, b)]
        for job, i in jobs:
            assert_right(job.result(), draw(i % 20 + 1, i))


def test_memory_over_thousands_of_runs(backend: TensorRtBackend, engine: Path, gpu: Gpu) -> None:
    def resident_bytes() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    with opened(backend, engine) as runner:
        batch = draw(21)
        for _ in range(200):
            runner.run(batch)
        free, resident = gpu.free_bytes(), resident_bytes()
        for _ in range(RUNS):
            runner.run(batch)
        assert free - gpu.free_bytes() < 1 << 20  # others may use the GPU too: a leak of ours would be 90 MB
        assert resident_bytes() - resident < 8 << 20


def test_opening_and_closing_gives_everything_back(backend: TensorRtBackend, engine: Path, gpu: Gpu) -> None:
    for _ in range(3):  # libraries load their kernels
        with opened(backend, engine) as runner:
            runner.run(draw(2))
    free = gpu.free_bytes()
    for _ in range(30):
        with opened(backend, engine) as runner:
            runner.run(draw(2))
    assert free - gpu.free_bytes() < 4 << 20


def test_device_arrays_in_and_out(backend: TensorRtBackend, engine: Path, gpu: Gpu) -> None:
    with opened(backend, engine) as runner:
        for rows in (1, 6, 37):
            batch = draw(rows, rows)
            out = {o.name: gpu.empty((rows, *o.row_shape), o.dtype) for o in runner.outputs}
            runner.run(gpu.put(batch), out=out)
            assert_right({name: gpu.get(array) for name, array in out.items()}, batch)


def test_a_device_array_is_waited_for(backend: TensorRtBackend, engine: Path, gpu: Gpu) -> None:
    """The array is filled by a stream that has much to do before."""
    batch = draw(16, 5)
    ballast = [gpu.empty((1 << 28,), np.uint8).address for _ in range(2)]
    given, source, zeros = gpu.put(batch), gpu.put(batch), gpu.put(np.zeros_like(batch))
    with opened(backend, engine) as runner:
        for _ in range(20):
            gpu.device.copy(given.address, zeros.address, batch.nbytes, gpu.stream)
            for _ in range(8):
                gpu.device.copy(*ballast, 1 << 28, gpu.stream)
            gpu.device.copy(given.address, source.address, batch.nbytes, gpu.stream)
            assert_right(runner.run(given), batch)


@pytest.mark.parametrize("library", ["torch", "cupy"])
def test_arrays_of_other_libraries(backend: TensorRtBackend, engine: Path, library: str) -> None:
    module = pytest.importorskip(library, reason=f"needs {library} with CUDA")
    batch = draw(9)
    if library == "torch":
        if not module.cuda.is_available():
            pytest.skip("this PyTorch has no CUDA")
        given, out = module.from_numpy(batch).cuda(), module.empty(9, 5, device="cuda")
    else:
        given, out = module.asarray(batch), module.empty((9, 5), np.float32)
    with opened(backend, engine) as runner:
        runner.run(given * 2, out={"logits": out})  # the product is still under way
    found = out.cpu().numpy() if library == "torch" else module.asnumpy(out)
    np.testing.assert_allclose(found, reference(batch * 2)["logits"], atol=2 * TOLERANCE)


def test_other_threads_go_on_while_the_device_works(backend: TensorRtBackend, engine: Path) -> None:
    """A thread that counts must not stand still: calls of CUDA and TensorRT give the interpreter to others."""
    longest_s, stop = 0.0, threading.Event()

    def count() -> None:
        nonlocal longest_s
        last = time.perf_counter()
        while not stop.is_set():
            now = time.perf_counter()
            longest_s, last = max(longest_s, now - last), now

    with opened(backend, engine) as runner:
        batch = draw(1000)
        runner.run(batch)
        thread = threading.Thread(target=count)
        thread.start()
        for _ in range(20):
            runner.run(batch)
        stop.set()
        thread.join()
    assert longest_s < 1.0


def test_the_device_tells_the_time(backend: TensorRtBackend, engine: Path) -> None:
    with opened(backend, engine) as runner:
        for _ in range(50):
            runner.run(draw(16))
        latency = runner.latency()
    for stage in ("copy_in", "compute", "copy_out"):
        assert latency[stage].n == 50
        assert 0 < latency[stage].p50_ms < 1000


def test_values_that_are_not_finite(backend: TensorRtBackend, engine: Path) -> None:
    batch = draw(4)
    batch[2] = np.nan
    with opened(backend, engine, check_finite=True) as runner:
        with pytest.raises(BackendError, match="is not finite for sample 2"):
            runner.run(batch)
        assert runner.state is RunnerState.READY


@pytest.mark.parametrize("content", [b"", b"ptrt" * 500, None], ids=["empty", "garbage", "truncated"])
def test_files_that_are_no_engine(
    backend: TensorRtBackend, engine: Path, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "bad.engine"
    path.write_bytes(engine.read_bytes()[:-100] if content is None else content)
    with pytest.raises(BackendError, match=r"bad\.engine is not an engine"), opened(backend, path):
        pass


def test_the_second_opening_builds_nothing(
    backend: TensorRtBackend, small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend.open(small_model, SessionOptions()).close()
    monkeypatch.setattr("fer_edge.engines.build.builder.build_engine", lambda *_: pytest.fail("built again"))
    session = backend.open(small_model, SessionOptions())
    assert session.rebuilt_because is None
    assert_right(dict(session.run(draw(5))), draw(5))
    session.close()


def test_a_null_address_is_refused_before_the_device_sees_it(backend: TensorRtBackend, engine: Path) -> None:
    with opened(backend, engine) as runner:
        with pytest.raises(BackendError, match="null pointer"):
            runner.run(DeviceArray(0, (1, *SHAPE), np.dtype(np.float32)))
        assert_right(runner.run(draw(1)), draw(1))

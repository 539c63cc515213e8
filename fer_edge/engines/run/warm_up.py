"""Warm-up of an engine: buffers, contexts, a first run of every batch size, and its CUDA graph."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack

import numpy as np

from fer_edge.cuda.resources import allocate
from fer_edge.engines.run.engine import Engine, EngineDevice, EngineFile
from fer_edge.engines.run.options import DEFAULT_BUCKETS, RunnerOptions, RunnerReport
from fer_edge.engines.run.slot import Part, Slot, Streams
from fer_edge.errors import BackendError, UsageError, without_fix

#: Poll interval of a running batch. Waiting inside CUDA would spin, or miss the next batch and the watchdog.
POLL_S = 20e-6
#: End of the message for a hung GPU.
RESET = "so the GPU hangs. Fix: end this process, then check the GPU with nvidia-smi and dmesg"
_SLOTS = 2


def prepare(
    device: EngineDevice, streams: Streams, file: EngineFile, options: RunnerOptions, resources: ExitStack
) -> tuple[Engine, tuple[Slot, ...], RunnerReport]:
    """Load an engine and return it with slots that are ready to run.

    Parameters
    ----------
    device, streams : EngineDevice, Streams
        Device and its streams.
    file : EngineFile
        The engine.
    options : RunnerOptions
        Options of the runner.
    resources : ExitStack
        Frees all allocations.
    """
    engine = device.load_engine(file)
    resources.callback(engine.close)
    buckets = _choose_buckets(options.buckets, engine)
    scratch = allocate(device, engine.scratch_bytes, resources)
    slots = tuple(Slot(device, engine, buckets, streams, scratch, resources) for _ in range(_SLOTS))
    # TensorRT's first run cannot be captured. From now on padding is zeros or an earlier sample.
    _run_all(slots, buckets, engine, options.watchdog_s)
    reason = _capture(slots, buckets, options, resources)
    if not reason:
        _run_all(slots, buckets, engine, options.watchdog_s)
    report = RunnerReport(
        buckets=buckets,
        graphs=not reason,
        no_graphs_because=reason,
        device_bytes=sum(slot.device_bytes for slot in slots) + engine.scratch_bytes,
        pinned_bytes=sum(slot.pinned_bytes for slot in slots),
    )
    return engine, slots, report


def wait_until(done: Callable[[], bool], limit_s: float) -> bool:
    """Return whether ``done`` became true within the limit."""
    end_s = time.monotonic() + limit_s
    while not done():
        if time.monotonic() > end_s:
            return False
        time.sleep(POLL_S)
    return True


def hang_error(rows: int, bucket: int, limit_s: float) -> BackendError:
    """Return the error of a batch that exceeds the time limit."""
    return BackendError(f"a batch of {rows} (run as {bucket}) did not finish within {limit_s:g} s, {RESET}")


def _choose_buckets(wanted: tuple[int, ...] | None, engine: Engine) -> tuple[int, ...]:
    sizes = {*DEFAULT_BUCKETS, engine.max_batch} if wanted is None else wanted
    chosen = tuple(sorted(size for size in sizes if engine.min_batch <= size <= engine.max_batch))
    if wanted is not None and chosen != wanted:
        raise UsageError(
            f"expected buckets from {engine.min_batch} to {engine.max_batch}, as the engine was built, found {wanted}. Fix: give others, or build an engine for these"
        )
    return chosen


def _run_all(slots: tuple[Slot, ...], buckets: tuple[int, ...], engine: Engine, limit_s: float) -> None:
    """Run every batch size of every slot once, with zeros."""
    for slot in slots:
        for bucket in buckets:
            zeros = np.zeros((bucket, *engine.input.row_shape), engine.input.dtype)
            slot.start(Part(zeros, {}, 0, bucket), bucket, to_host=True)
            if not wait_until(slot.is_done, limit_s):
                raise hang_error(bucket, bucket, limit_s)


def _capture(
    slots: tuple[Slot, ...], buckets: tuple[int, ...], options: RunnerOptions, resources: ExitStack
) -> str:
    """Capture a graph of every batch size; return the reason if there are none."""
    if options.cuda_graphs == "off":
        return "cuda_graphs is off"
    try:
        for slot in slots:
            for bucket in buckets:
                slot.capture(bucket, resources)
    except BackendError as error:
        if options.cuda_graphs == "required":
            raise BackendError(
                f"the engine cannot be captured as a CUDA graph ({without_fix(error)}). Fix: set cuda_graphs='preferred'"
            ) from error
        for slot in slots:
            slot.forget_graphs()
        return without_fix(error)
    return ""

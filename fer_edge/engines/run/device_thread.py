"""The thread that owns a device: it gives batches to two slots in turn, and sees to it that they end."""

from __future__ import annotations

import atexit
import contextlib
import queue
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from fer_edge._utils.guard import ProcessBound
from fer_edge.cuda.host_copy import HostCopy
from fer_edge.cuda.resources import create_event
from fer_edge.engines.run.engine import Engine, EngineDevice, EngineFile
from fer_edge.engines.run.options import RunnerOptions, RunnerReport, RunnerState
from fer_edge.engines.run.requests import Batch, Download, Request
from fer_edge.engines.run.slot import STAGES, Part, Slot, Streams
from fer_edge.engines.run.warm_up import POLL_S, RESET, hang, prepare, wait_until
from fer_edge.errors import BackendError, FerEdgeError, UsageError

#: Timings kept for percentiles; older ones are forgotten.
HISTORY = 1000


@dataclass
class _UnderWay:
    """A part that the device works on."""

    slot: Slot
    request: Batch
    part: Part
    bucket: int
    deadline_s: float


class Owner(ProcessBound):
    """See the module. It does not know the runner that it serves, so that one can be collected.

    Parameters
    ----------
    open_device : callable
        Called by the thread.
    file : EngineFile
        The engine.
    options : RunnerOptions
        See there.
    """

    engine: Engine
    streams: Streams
    report: RunnerReport

    def __init__(
        self, open_device: Callable[[], EngineDevice], file: EngineFile, options: RunnerOptions
    ) -> None:
        super().__init__("session", BackendError)
        self._open_device, self._file, self._options = open_device, file, options
        self.state = RunnerState.READY
        self.timings_ms = np.zeros((HISTORY, len(STAGES)))
        self.parts = 0
        self._failure: FerEdgeError | None = None
        self._not_freed = ""
        self._lock = threading.Lock()  # of the state: nothing is put in the queue after it has changed
        self._queue: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._open: set[Request] = set()
        self._free: deque[Slot] = deque()
        self._under_way: deque[_UnderWay] = deque()
        self._alive_s = time.monotonic()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._main, name=f"fer-edge {file.path.name}", daemon=True)

    # Called by other threads.

    def begin(self) -> None:
        """Start, and raise what went wrong."""
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            self._thread.join()
            raise self._failure
        # CUDA is gone before the objects of a process that ends are, and TensorRT's crash without it.
        atexit.register(self.stop)

    def run(self, request: Request) -> None:
        """Wait until a request is done, and raise what went wrong."""
        self.require_process()
        with self._lock:
            self._require_ready()
            self._queue.put(request)
        limit_s = self._options.watchdog_s
        while not request.wait(limit_s):
            if time.monotonic() - self._alive_s > limit_s:
                self._fail(
                    BackendError(f"a call of CUDA or TensorRT did not return within {limit_s:g} s: {RESET}")
                )
                break
        if request.error is not None:
            raise request.error
        if self._failure is not None:  # one error object must not be raised in two threads
            raise BackendError(str(self._failure)) from self._failure

    def stop(self) -> None:
        """Finish the queue, free everything and end; in a forked process nothing is done."""
        atexit.unregister(self.stop)
        if self.is_inherited:
            return
        with self._lock:
            if self.state is RunnerState.READY:
                self.state = RunnerState.CLOSED
                self._queue.put(None)
        limit_s = self._options.watchdog_s
        while self._thread.is_alive():
            self._thread.join(limit_s)
            if time.monotonic() - self._alive_s > 2 * limit_s:  # it cannot be ended
                self._not_freed = "a call of CUDA or TensorRT does not return"
                break
        if self._not_freed:
            text = f"the memory of {self._file.path.name} is freed by the end of this process only: {self._not_freed}"
            self._not_freed = ""
            warnings.warn(text, ResourceWarning, stacklevel=3)

    def _require_ready(self) -> None:
        if self.state is RunnerState.CLOSED:
            raise BackendError("this session is closed: open another")
        if self._failure is not None:
            raise BackendError(f"this session has failed, open another: {self._failure}")

    def _fail(self, error: FerEdgeError) -> None:
        with self._lock:
            if self._failure is None:
                self.state, self._failure = RunnerState.FAILED, error

    # Called by the thread itself.

    def _main(self) -> None:
        resources = ExitStack()
        try:
            self._prepare(resources)
            self._ready.set()
            self._serve()
        except FerEdgeError as error:
            self._fail(error)
        except Exception as error:
            self._fail(_wrap(error))
        for request in self._open:
            request.finish()
        with contextlib.suppress(queue.Empty):
            while (left := self._queue.get_nowait()) is not None:
                left.finish()
        self._release(resources)
        self._ready.set()

    def _prepare(self, resources: ExitStack) -> None:
        device = self._device = self._open_device()
        resources.callback(device.close)
        self.streams = Streams.create(device, resources)
        self._last = [create_event(device, resources) for _ in STAGES]
        self._host_copy = HostCopy(device, self.streams.copy_in, resources)
        self.engine, slots, self.report = prepare(device, self.streams, self._file, self._options, resources)
        self._free.extend(slots)
        self._buckets = self.report.buckets

    def _serve(self) -> None:
        request: Batch | None = None  # partly given to the device
        stopping = False
        while self._failure is None:  # a caller may have seen this thread hang
            self._alive_s = time.monotonic()
            if request is None and self._free and not stopping:
                request, stopping = self._take(0.0 if self._under_way else None)
            if request is not None and self._free:
                request = self._start(request)
            elif self._under_way:
                if self._complete_oldest():
                    continue
                if request is None and self._free and not stopping:
                    request, stopping = self._take(POLL_S)
                else:
                    time.sleep(POLL_S)
            elif stopping:
                return

    def _take(self, wait_s: float | None) -> tuple[Batch | None, bool]:
        """Return the next batch, and whether it is time to stop."""
        try:
            request = self._queue.get(wait_s != 0, wait_s)
        except queue.Empty:
            return None, False
        self._alive_s = time.monotonic()
        if request is None:
            return None, True
        self._open.add(request)
        if isinstance(request, Download):
            self._download(request)
            return None, False
        assert isinstance(request, Batch)
        return request, False

    def _download(self, request: Download) -> None:
        """Copy an array to the host, while nothing else is begun: it takes less than a batch."""
        self._host_copy.start(request.array)
        if not wait_until(self._host_copy.is_done, self._options.watchdog_s):
            raise BackendError(
                f"a copy to the host did not finish within {self._options.watchdog_s:g} s: {RESET}"
            )
        request.result = self._host_copy.result(request.array)
        self._open.discard(request)
        request.finish()

    def _start(self, request: Batch) -> Batch | None:
        """Give the next part of a request to the device; return the request while more is left."""
        part = request.part(self._buckets[-1])
        bucket = next(size for size in self._buckets if size >= part.rows)
        slot = self._free.popleft()
        to_host = self._options.check_finite or any(isinstance(t, np.ndarray) for t in part.targets.values())
        try:
            slot.start(part, bucket, to_host)
        except UsageError as error:  # of a writer: the device is well, and only the slot's input was touched
            self._free.append(slot)
            request.error = request.error or error
            request.started = request.rows
            self._finish_if_done(request)
            return None
        self._under_way.append(
            _UnderWay(slot, request, part, bucket, time.monotonic() + self._options.watchdog_s)
        )
        request.under_way += 1
        request.started += part.rows
        return request if request.started < request.rows else None

    def _complete_oldest(self) -> bool:
        """Take the outputs of the oldest part; return whether it was done."""
        oldest = self._under_way[0]
        if not oldest.slot.is_done():
            if time.monotonic() > oldest.deadline_s:
                raise hang(oldest.part.rows, oldest.bucket, self._options.watchdog_s)
            return False
        request, part, slot = oldest.request, oldest.part, oldest.slot
        slot.measure(self.timings_ms[self.parts % HISTORY])
        self.parts += 1
        for name, target in part.targets.items():
            if isinstance(target, np.ndarray) or self._options.check_finite:
                values = slot.output(name, oldest.bucket, part.rows)
                if isinstance(target, np.ndarray):
                    target[part.first : part.first + part.rows] = values
                if self._options.check_finite and not np.isfinite(values).all():
                    request.error = request.error or _not_finite(name, values, part.first)
        self._under_way.popleft()
        self._free.append(slot)
        if self._under_way:  # it could not begin to compute before
            self._under_way[0].deadline_s = time.monotonic() + self._options.watchdog_s
        request.under_way -= 1
        self._finish_if_done(request)
        return True

    def _finish_if_done(self, request: Batch) -> None:
        if request.started == request.rows and not request.under_way:
            self._open.discard(request)
            request.finish()

    def _release(self, resources: ExitStack) -> None:
        """Free everything, unless the device may still use it."""
        self._free.clear()
        self._under_way.clear()
        try:
            if not self._drain():
                self._not_freed = "the GPU still works on a batch"
                return
            resources.close()
        except Exception as error:
            # A broken device refuses to free as well; what failed first is told to the callers.
            self._not_freed = str(error)
            with contextlib.suppress(Exception):
                resources.close()

    def _drain(self) -> bool:
        """Return whether all that the streams were given was done within the time of the watchdog."""
        if not hasattr(self, "_last"):
            return True
        streams = (self.streams.copy_in, self.streams.compute, self.streams.copy_out)
        for event, stream in zip(self._last, streams, strict=True):
            self._device.record(event, stream)
        return wait_until(lambda: all(map(self._device.is_done, self._last)), self._options.watchdog_s)


def _not_finite(name: str, values: np.ndarray, first: int) -> BackendError:
    finite = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    rows = ", ".join(str(first + int(row)) for row in np.flatnonzero(~finite)[:8])
    return BackendError(
        f"the output {name} is not finite for sample {rows} of the batch: "
        "where FP16 overflows, build with --fp32 or keep more layers in FP32"
    )


def _wrap(error: Exception) -> BackendError:
    wrapped = BackendError(f"the engine cannot be run ({type(error).__name__}): {error}")
    wrapped.__cause__ = error
    return wrapped

"""Thread that owns a device and serves all other threads."""

from __future__ import annotations

import atexit
import contextlib
import queue
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from fer_edge._utils.guard import ProcessBound
from fer_edge.cuda.resources import create_event
from fer_edge.engines.run.engine import EngineDevice, EngineFile
from fer_edge.engines.run.options import RunnerOptions, RunnerState
from fer_edge.engines.run.pipeline import Pipeline
from fer_edge.engines.run.requests import Batch, Request
from fer_edge.engines.run.slot import STAGES, Streams
from fer_edge.engines.run.warm_up import POLL_S, RESET, wait_until
from fer_edge.errors import BackendError, FerEdgeError


@dataclass(frozen=True)
class _Prepared:
    """A device, its streams, and one event per stream that marks the end of its work."""

    device: EngineDevice
    streams: Streams
    ends: tuple[int, ...]

    def drain(self, limit_s: float) -> bool:
        """Return whether all enqueued work completed within the limit."""
        for event, stream in zip(self.ends, self.streams, strict=True):
            self.device.record(event, stream)
        return wait_until(lambda: all(map(self.device.is_done, self.ends)), limit_s)


class DeviceThread(ProcessBound):
    """Thread that owns the device and runs the engine.

    Holds no reference to its `EngineRunner`, so that a runner that was never closed can be garbage-collected.

    Parameters
    ----------
    open_device : callable
        Opens the device; called by the thread.
    file : EngineFile
        The engine.
    options : RunnerOptions
        Options of the runner.

    Attributes
    ----------
    pipeline : Pipeline
        Pipeline of the engine, available after :meth:`begin`.
    state : RunnerState
        State of the runner.
    """

    pipeline: Pipeline

    def __init__(
        self, open_device: Callable[[], EngineDevice], file: EngineFile, options: RunnerOptions
    ) -> None:
        super().__init__("session", BackendError)
        self._open_device, self._file, self._options = open_device, file, options
        self.state = RunnerState.READY
        self._failure: FerEdgeError | None = None
        self._not_freed = ""
        self._lock = threading.Lock()  # of the state: nothing is queued after it has changed
        self._queue: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._alive_s = time.monotonic()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._main, name=f"fer-edge {file.path.name}", daemon=True)

    # Called by other threads.

    def begin(self) -> None:
        """Start the thread and wait until it is ready; raise its error."""
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            self._thread.join()
            raise self._failure
        # CUDA is unloaded before the objects of an exiting process, and TensorRT's destructors crash without it.
        atexit.register(self.stop)

    def run(self, request: Request) -> None:
        """Queue a request and wait for it; raise its error."""
        self.require_process()
        with self._lock:
            self._require_ready()
            self._queue.put(request)
        limit_s = self._options.watchdog_s
        while not request.wait(limit_s):
            if time.monotonic() - self._alive_s > limit_s:
                self._fail(
                    BackendError(f"a call of CUDA or TensorRT did not return within {limit_s:g} s, {RESET}")
                )
                break
        if request.error is not None:
            raise request.error
        if self._failure is not None:  # not the same error object in two threads
            raise BackendError(str(self._failure)) from self._failure

    def stop(self) -> None:
        """Finish the queue, free everything and end the thread; do nothing in a forked process."""
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
            if time.monotonic() - self._alive_s > 2 * limit_s:  # it hangs
                self._not_freed = "a call of CUDA or TensorRT does not return. Fix: end this process"
                break
        if self._not_freed:
            text = f"the memory of {self._file.path.name} is not freed before this process ends: {self._not_freed}"
            self._not_freed = ""
            warnings.warn(text, ResourceWarning, stacklevel=3)

    def _require_ready(self) -> None:
        if self.state is RunnerState.CLOSED:
            raise BackendError("this session is closed. Fix: open another")
        if self._failure is not None:
            raise BackendError(f"this session has failed and must be opened again: {self._failure}")

    def _fail(self, error: FerEdgeError) -> None:
        with self._lock:
            if self._failure is None:
                self.state, self._failure = RunnerState.FAILED, error

    # Called by the thread itself.

    def _main(self) -> None:
        resources = ExitStack()
        prepared = pipeline = None
        try:
            prepared = self._prepare(resources)
            pipeline = Pipeline(prepared.device, prepared.streams, self._file, self._options, resources)
            self.pipeline = pipeline
            self._ready.set()
            self._serve(pipeline)
        except FerEdgeError as error:
            self._fail(error)
        except Exception as error:
            self._fail(_wrap(error))
        if pipeline is not None:
            pipeline.abandon()
        with contextlib.suppress(queue.Empty):
            while (left := self._queue.get_nowait()) is not None:
                left.finish()
        self._release(prepared, resources)
        self._ready.set()

    def _prepare(self, resources: ExitStack) -> _Prepared:
        device = self._open_device()
        resources.callback(device.close)
        streams = Streams.create(device, resources)
        return _Prepared(device, streams, tuple(create_event(device, resources) for _ in STAGES))

    def _serve(self, pipeline: Pipeline) -> None:
        batch: Batch | None = None  # partly enqueued
        stopping = False
        while self._failure is None:  # a caller may have reported a hang
            self._alive_s = time.monotonic()
            if batch is None and pipeline.has_room and not stopping:
                batch, stopping = self._take(pipeline, 0.0 if pipeline.is_busy else None)
            if batch is not None and pipeline.has_room:
                batch = pipeline.start(batch)
            elif pipeline.is_busy:
                if pipeline.complete_oldest():
                    continue
                if batch is None and pipeline.has_room and not stopping:
                    batch, stopping = self._take(pipeline, POLL_S)
                else:
                    time.sleep(POLL_S)
            elif stopping:
                return

    def _take(self, pipeline: Pipeline, wait_s: float | None) -> tuple[Batch | None, bool]:
        """Return the next batch, and whether the thread was told to stop."""
        try:
            request = self._queue.get(wait_s != 0, wait_s)
        except queue.Empty:
            return None, False
        self._alive_s = time.monotonic()
        if request is None:
            return None, True
        return pipeline.accept(request), False

    def _release(self, prepared: _Prepared | None, resources: ExitStack) -> None:
        """Free everything, unless the device may still be using it."""
        try:
            if prepared is not None and not prepared.drain(self._options.watchdog_s):
                self._not_freed = "the GPU is still running a batch. Fix: end this process"
                return
            resources.close()
        except Exception as error:
            # A failed device fails to free memory too; the callers get the first error.
            self._not_freed = str(error)
            with contextlib.suppress(Exception):
                resources.close()


def _wrap(error: Exception) -> BackendError:
    wrapped = BackendError(
        f"the engine cannot be run ({type(error).__name__}): {error}. Fix: report this with the output of fer-edge doctor"
    )
    wrapped.__cause__ = error
    return wrapped

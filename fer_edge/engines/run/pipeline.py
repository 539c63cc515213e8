"""The batches that a device works on: given to two slots in turn, in parts, and completed in the same order."""

from __future__ import annotations

import time
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from fer_edge.cuda.host_copy import HostCopy
from fer_edge.engines.run.engine import EngineDevice, EngineFile
from fer_edge.engines.run.options import RunnerOptions
from fer_edge.engines.run.requests import Batch, Download, Request
from fer_edge.engines.run.slot import STAGES, Part, Slot, Streams
from fer_edge.engines.run.warm_up import RESET, hang_error, prepare, wait_until
from fer_edge.errors import BackendError, UsageError

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


class Pipeline:
    """An engine that is ready to run, and what was asked of it. All calls are made by one thread.

    Parameters
    ----------
    device, streams : EngineDevice, Streams
        Where it runs.
    file : EngineFile
        The engine.
    options : RunnerOptions
        Batch sizes, checks and the limit of the watchdog.
    resources : ExitStack
        Gets a callback for whatever must be freed.

    Attributes
    ----------
    engine, streams, report : Engine, Streams, RunnerReport
        What was made ready.
    timings_ms : numpy.ndarray
        ``[HISTORY, 3]`` by :data:`fer_edge.engines.run.slot.STAGES`, one row for each of the last parts.
    parts : int
        How many were completed.
    """

    def __init__(
        self,
        device: EngineDevice,
        streams: Streams,
        file: EngineFile,
        options: RunnerOptions,
        resources: ExitStack,
    ) -> None:
        self._options, self.streams = options, streams
        self._host_copy = HostCopy(device, streams.copy_in, resources)
        self.engine, slots, self.report = prepare(device, streams, file, options, resources)
        self._free, self._under_way = deque(slots), deque[_UnderWay]()
        self._open: set[Request] = set()
        self.timings_ms = np.zeros((HISTORY, len(STAGES)))
        self.parts = 0

    @property
    def has_room(self) -> bool:
        """Whether a part can be started."""
        return bool(self._free)

    @property
    def is_busy(self) -> bool:
        """Whether the device works on a part."""
        return bool(self._under_way)

    def accept(self, request: Request) -> Batch | None:
        """Take on a request; return a batch, which has to be started."""
        self._open.add(request)
        if isinstance(request, Download):
            self._download(request)
            return None
        assert isinstance(request, Batch)
        return request

    def start(self, request: Batch) -> Batch | None:
        """Give the next part of a batch to the device; return the batch while more is left."""
        buckets = self.report.buckets
        part = request.part(buckets[-1])
        bucket = next(size for size in buckets if size >= part.rows)
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
        deadline_s = time.monotonic() + self._options.watchdog_s
        self._under_way.append(_UnderWay(slot, request, part, bucket, deadline_s))
        request.under_way += 1
        request.started += part.rows
        return request if request.started < request.rows else None

    def complete_oldest(self) -> bool:
        """Take the outputs of the oldest part; return whether it was done.

        Raises
        ------
        BackendError
            If it takes longer than the limit of the watchdog.
        """
        oldest = self._under_way[0]
        if not oldest.slot.is_done():
            if time.monotonic() > oldest.deadline_s:
                raise hang_error(oldest.part.rows, oldest.bucket, self._options.watchdog_s)
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

    def abandon(self) -> None:
        """Let all callers go on, whatever became of their requests, and forget the slots."""
        for request in self._open:
            request.finish()
        self._open.clear()
        self._free.clear()
        self._under_way.clear()

    def _download(self, request: Download) -> None:
        """Copy an array to the host, while nothing else is begun: it takes less than a batch."""
        self._host_copy.start(request.array)
        if not wait_until(self._host_copy.is_done, self._options.watchdog_s):
            raise BackendError(
                f"a copy to the host did not finish within {self._options.watchdog_s:g} s: {RESET}"
            )
        request.result = self._host_copy.result(request.array)
        self._finish(request)

    def _finish_if_done(self, request: Batch) -> None:
        if request.started == request.rows and not request.under_way:
            self._finish(request)

    def _finish(self, request: Request) -> None:
        self._open.discard(request)
        request.finish()


def _not_finite(name: str, values: np.ndarray, first: int) -> BackendError:
    finite = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    rows = ", ".join(str(first + int(row)) for row in np.flatnonzero(~finite)[:8])
    return BackendError(
        f"the output {name} is not finite for sample {rows} of the batch: "
        "where FP16 overflows, build with --fp32 or keep more layers in FP32"
    )

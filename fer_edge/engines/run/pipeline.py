"""Pipeline of batches on a device: split into parts, enqueued in two alternating slots, completed in order."""

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

#: Number of timings kept for percentiles.
HISTORY = 1000


@dataclass
class _UnderWay:
    """A part that is running on the device."""

    slot: Slot
    request: Batch
    part: Part
    bucket: int
    deadline_s: float


class Pipeline:
    """A loaded engine and its pending requests. Used by one thread only.

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

    Attributes
    ----------
    engine, streams, report : Engine, Streams, RunnerReport
        Engine, streams and report.
    timings_ms : numpy.ndarray
        ``[HISTORY, 3]`` by :data:`fer_edge.engines.run.slot.STAGES`, one row per recent part.
    parts : int
        Number of completed parts.
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
        """True if a part can be started."""
        return bool(self._free)

    @property
    def is_busy(self) -> bool:
        """True if a part is running on the device."""
        return bool(self._under_way)

    def accept(self, request: Request) -> Batch | None:
        """Accept a request; return it if it is a batch, which the caller must start."""
        self._open.add(request)
        if isinstance(request, Download):
            self._download(request)
            return None
        assert isinstance(request, Batch)
        return request

    def start(self, request: Batch) -> Batch | None:
        """Enqueue the next part of a batch; return the batch if parts are left."""
        buckets = self.report.buckets
        part = request.part(buckets[-1])
        bucket = next(size for size in buckets if size >= part.rows)
        slot = self._free.popleft()
        to_host = self._options.check_finite or any(isinstance(t, np.ndarray) for t in part.targets.values())
        try:
            slot.start(part, bucket, to_host)
        except (
            UsageError
        ) as error:  # raised by a writer: the device is intact, only the input of the slot was written
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
        """Read the outputs of the oldest part if it is done; return whether it was.

        Raises
        ------
        BackendError
            If it exceeds the watchdog limit.
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
        if self._under_way:  # its compute could not start earlier
            self._under_way[0].deadline_s = time.monotonic() + self._options.watchdog_s
        request.under_way -= 1
        self._finish_if_done(request)
        return True

    def abandon(self) -> None:
        """Release all callers, even of incomplete requests, and drop the slots."""
        for request in self._open:
            request.finish()
        self._open.clear()
        self._free.clear()
        self._under_way.clear()

    def _download(self, request: Download) -> None:
        """Copy an array to the host synchronously, which takes less time than a batch."""
        self._host_copy.start(request.array)
        if not wait_until(self._host_copy.is_done, self._options.watchdog_s):
            raise BackendError(
                f"a copy to the host did not finish within {self._options.watchdog_s:g} s, {RESET}"
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
        f"the output {name} is not finite for sample {rows} of the batch, probably because FP16 overflows. "
        "Fix: build with --fp32, or keep more layers in FP32"
    )

"""A GPU made of threads: work is done late and in the order of its stream, every rule of CUDA that a runner could
break is checked, and every call can be made to fail.

Races are found by vector clocks, whatever the timing: two accesses to the same bytes, one of them a write, must be
ordered by a stream, an event, or the host that saw an event reached.
"""

from __future__ import annotations

import itertools
import queue
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fer_edge.engines.run.engine import EngineFile, TensorInfo
from fer_edge.errors import BackendError

ALIGNMENT = 256
POISON = 0xFF  # NaN in every float type
Range = tuple[int, int]  # address, bytes
Clock = dict[int, int]  # stream -> number of its operations that are known to be done before


class Hazard(Exception):
    """A rule of CUDA was broken."""


@dataclass(frozen=True)
class FakeNetwork:
    """Content of an engine file here: a NumPy function of a batch, and its tensors."""

    compute: Callable[[np.ndarray], Mapping[str, np.ndarray]]
    input: TensorInfo
    outputs: tuple[TensorInfo, ...]
    min_batch: int = 1
    max_batch: int = 16
    scratch_bytes: int = 64


@dataclass
class _Operation:
    work: Callable[[], None]
    reads: Sequence[Range]
    writes: Sequence[Range]


@dataclass
class _Recorded:
    """One recording of an event."""

    clock: Clock
    reached: threading.Event = field(default_factory=threading.Event)
    time_s: float = 0.0


@dataclass
class _Access:
    stream: int
    number: int
    where: Range
    writes: bool


class _Stream:
    def __init__(self, handle: int, device: FakeDevice) -> None:
        self.handle, self.device = handle, device
        self.clock: Clock = {}
        self.captured: list[_Operation] | None = None
        self.queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.thread: threading.Thread | None = None
        if device.delay is not None:
            self.thread = threading.Thread(target=self._work, daemon=True)
            self.thread.start()

    def give(self, work: Callable[[], None], late: bool = True) -> None:
        if self.thread is None:
            work()
            return

        def run() -> None:
            if late and self.device.delay is not None:
                time.sleep(self.device.delay())
            work()

        self.queue.put(run)

    def _work(self) -> None:
        while (work := self.queue.get()) is not None:
            if self.device.broken:  # a dead device does nothing more
                continue
            try:
                work()
            except Exception as error:
                self.device.broken = self.device.broken or str(error)


class FakeDevice:
    """Fake of :class:`fer_edge.cuda.device.Device` in NumPy, which reports races.

    Parameters
    ----------
    network : FakeNetwork
        What every engine file holds.
    delay : callable or None
        Seconds that each operation waits before it is done; ``None`` does everything at once, without threads.
    fail_at : int or None
        The call, counted from 0, that raises.
    captures : int or None
        How many graphs can be captured; ``None``: any number.
    """

    def __init__(
        self,
        network: FakeNetwork,
        delay: Callable[[], float] | None = None,
        fail_at: int | None = None,
        captures: int | None = None,
    ) -> None:
        self.network, self.delay, self.fail_at, self.captures = network, delay, fail_at, captures
        self.hazards: list[str] = []
        self.calls: Counter[str] = Counter()
        self.log: list[str] = []
        self.batches: list[int] = []  # sizes that were computed
        self.broken = ""  # what failed in a stream; every call tells it from then on
        self.closed = False
        self.live: dict[str, set[Any]] = {
            kind: set() for kind in ("memory", "pinned", "stream", "event", "graph", "context", "engine")
        }
        self.overlaps = 0  # copies to the device that ran while it computed
        self._computing = 0
        self._owner: int | None = None
        self._numbers = itertools.count(100)
        self._regions: dict[int, np.ndarray] = {}
        self._dead: dict[int, np.ndarray] = {}  # kept, so that no address is used twice
        self._streams: dict[int, _Stream] = {}
        self._events: dict[int, _Recorded | None] = {}
        self._graphs: dict[int, list[_Operation]] = {}
        self._accesses: list[_Access] = []
        self._host: Clock = {}
        self._lock = threading.RLock()

    # Memory.

    def allocate(self, size_bytes: int) -> int:
        self._call("allocate")
        address = self._region(size_bytes).ctypes.data
        self.live["memory"].add(address)
        return address

    def free(self, address: int) -> None:
        with self._freeing("free"):
            self._end("memory", address)
            self._bury(address)

    def allocate_pinned(self, size_bytes: int) -> np.ndarray:
        self._call("allocate_pinned")
        memory = self._region(size_bytes)
        self.live["pinned"].add(memory.ctypes.data)
        return memory

    def free_pinned(self, memory: np.ndarray) -> None:
        with self._freeing("free_pinned"):
            self._end("pinned", memory.ctypes.data)
            self._bury(memory.ctypes.data)

    def copy(self, target: int, source: int, size_bytes: int, stream: int) -> None:
        self._call("copy")
        from_host, to_host = self._is_pinned(source), self._is_pinned(target)
        expected = self.view(source, size_bytes).copy() if from_host else None
        if to_host:  # whoever still reads what lay here, or reads too early, gets NaN
            self.view(target, size_bytes).fill(POISON)

        def work() -> None:
            data = self.view(source, size_bytes)
            if expected is not None and not np.array_equal(data, expected):
                self.hazard("the host wrote to pinned memory before it was copied")
            if from_host and self._computing:
                self.overlaps += 1
            self.view(target, size_bytes)[:] = data

        self._enqueue(stream, _Operation(work, [(source, size_bytes)], [(target, size_bytes)]))

    # Streams and events.

    def create_stream(self) -> int:
        self._call("create_stream")
        return self.new_stream(of_others=False)

    def destroy_stream(self, stream: int) -> None:
        with self._freeing("destroy_stream"):
            self._end("stream", stream)
            found = self._streams.pop(stream)
            if not self.broken and found.clock.get(stream, 0) > self._host.get(stream, 0):
                self.hazard("a stream was destroyed while it worked")
            found.queue.put(None)

    def create_event(self) -> int:
        self._call("create_event")
        event = next(self._numbers)
        self._events[event] = None
        self.live["event"].add(event)
        return event

    def destroy_event(self, event: int) -> None:
        with self._freeing("destroy_event"):
            self._end("event", event)
            del self._events[event]

    def record(self, event: int, stream: int) -> None:
        self._call("record")
        self._require("event", event)
        self._record(event, stream)

    def wait(self, stream: int, event: int) -> None:
        self._call("wait")
        self._require("event", event)
        recorded, target = self._events[event], self._stream(stream)
        if recorded is not None:
            with self._lock:
                _merge(target.clock, recorded.clock)
            target.give(lambda: recorded.reached.wait() and None, late=False)

    def is_done(self, event: int) -> bool:
        self._call("is_done")
        self._require("event", event)
        recorded = self._events[event]
        if recorded is None:
            return True
        if not recorded.reached.is_set():
            return False
        with self._lock:
            _merge(self._host, recorded.clock)
            self._accesses = [a for a in self._accesses if a.number > self._host.get(a.stream, 0)]
        return True

    def elapsed_ms(self, begin: int, end: int) -> float:
        self._call("elapsed_ms")
        first, last = self._events[begin], self._events[end]
        if first is None or last is None or not (first.reached.is_set() and last.reached.is_set()):
            raise BackendError("the time was asked of an event that is not reached")
        return (last.time_s - first.time_s) * 1e3

    # Engines and graphs.

    def load_engine(self, file: EngineFile) -> FakeEngine:
        self._call("load_engine")
        return FakeEngine(self, self.network)

    def capture(self, stream: int, enqueue: Callable[[], None]) -> int:
        self._call("capture")
        if self.captures is not None and self.calls["capture"] > self.captures:
            raise BackendError("operation not permitted when stream is capturing")
        found = self._stream(stream)
        found.captured = []
        try:
            enqueue()
            operations = found.captured
        finally:
            found.captured = None
        graph = next(self._numbers)
        self._graphs[graph] = operations
        self.live["graph"].add(graph)
        return graph

    def launch(self, graph: int, stream: int) -> None:
        self._call("launch")
        self._require("graph", graph)
        for operation in self._graphs[graph]:
            self._enqueue(stream, operation)

    def destroy_graph(self, graph: int) -> None:
        with self._freeing("destroy_graph"):
            self._end("graph", graph)
            del self._graphs[graph]

    def close(self) -> None:
        with self._freeing("close"):
            self.closed = True

    # For tests.

    def view(self, address: int, size_bytes: int) -> np.ndarray:
        """Return live memory as bytes."""
        for start, region in list(self._regions.items()):
            if start <= address and address + size_bytes <= start + region.nbytes:
                return region[address - start : address - start + size_bytes]
        dead = any(start <= address < start + region.nbytes for start, region in list(self._dead.items()))
        return self.hazard("memory was used after it was freed" if dead else "memory was used out of bounds")

    def hazard(self, text: str) -> Any:
        """Note that a rule was broken, and raise; a dead device has none."""
        if not self.broken:
            self.hazards.append(text)
        raise Hazard(text)

    def new_stream(self, of_others: bool = True) -> int:
        """Return a stream; one of another library is not counted among what must be freed."""
        stream = next(self._numbers)
        self._streams[stream] = _Stream(stream, self)
        if not of_others:
            self.live["stream"].add(stream)
        return stream

    def put(self, array: np.ndarray, stream: int | None = None, late_s: float = 0.0) -> FakeArray:
        """Return a device array of another library that will hold ``array`` once ``stream`` is done."""
        memory = self._region(array.nbytes)
        result = FakeArray(memory, array.shape, array.dtype, stream)
        if stream is None:
            memory[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        else:

            def work() -> None:
                time.sleep(late_s)
                memory[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)

            self._enqueue(stream, _Operation(work, [], [(memory.ctypes.data, memory.nbytes)]))
        return result

    def run_on(
        self, stream: int, work: Callable[[], None], writes: Sequence[Range], reads: Sequence[Range] = ()
    ) -> None:
        """Give a stream a kernel of somebody else."""
        self._enqueue(stream, _Operation(work, reads, writes))

    def left(self) -> dict[str, int]:
        """Return what was not freed."""
        return {kind: len(found) for kind, found in self.live.items() if found}

    # Inside.

    def _call(self, name: str) -> None:
        self.calls[name] += 1
        self.log.append(name)
        self._require_owner()
        if any(stream.captured is not None for stream in self._streams.values()) and name != "enqueue":
            raise BackendError(f"{name}: operation not permitted when stream is capturing")
        if self.broken:
            raise BackendError(f"{name}: {self.broken}")
        if len(self.log) - 1 == self.fail_at:
            raise BackendError(f"injected failure of call {self.fail_at} ({name})")

    @contextmanager
    def _freeing(self, name: str) -> Iterator[None]:
        """Memory is freed even if CUDA reports an error, which may stem from earlier work."""
        yield
        self._call(name)

    def _require_owner(self) -> None:
        here = threading.get_ident()
        if self._owner is None:
            self._owner = here
        if self._owner != here:
            self.hazard("the device was called by two threads")

    def _region(self, size_bytes: int) -> np.ndarray:
        if size_bytes <= 0:
            self.hazard(f"{size_bytes} bytes were allocated")
        raw = np.full(size_bytes + ALIGNMENT, POISON, np.uint8)
        start = -raw.ctypes.data % ALIGNMENT
        region = raw[start : start + size_bytes]
        self._regions[region.ctypes.data] = region
        return region

    def _bury(self, address: int) -> None:
        region = self._regions.pop(address)
        with self._lock:
            if not self.broken and any(
                _overlap(a.where, (address, region.nbytes)) for a in self._unfinished()
            ):
                self.hazard("memory was freed while a stream used it")
        region.fill(POISON)
        self._dead[address] = region

    def _unfinished(self) -> list[_Access]:
        return [a for a in self._accesses if a.number > self._host.get(a.stream, 0)]

    def _is_pinned(self, address: int) -> bool:
        return any(s <= address < s + self._regions[s].nbytes for s in self.live["pinned"])

    def _require(self, kind: str, handle: Any) -> None:
        if handle not in self.live[kind]:
            self.hazard(f"a {kind} was used that is freed, or never was")

    def _end(self, kind: str, handle: Any) -> None:
        self._require(kind, handle)
        self.live[kind].discard(handle)

    def _stream(self, handle: int) -> _Stream:
        if handle not in self._streams:
            self.hazard("a stream was used that is freed, or never was")
        return self._streams[handle]

    def _enqueue(self, handle: int, operation: _Operation) -> None:
        stream = self._stream(handle)
        if stream.captured is not None:
            stream.captured.append(operation)
            return
        for where in (*operation.reads, *operation.writes):
            self.view(*where)
        with self._lock:
            _merge(stream.clock, self._host)
            number = stream.clock.get(handle, 0) + 1
            stream.clock[handle] = number
            for old in self._accesses:
                for ranges, writes in ((operation.reads, False), (operation.writes, True)):
                    clash = (writes or old.writes) and any(_overlap(old.where, r) for r in ranges)
                    if clash and stream.clock.get(old.stream, 0) < old.number:
                        self.hazard("two streams use the same memory in no order")
            self._accesses += [_Access(handle, number, where, False) for where in operation.reads]
            self._accesses += [_Access(handle, number, where, True) for where in operation.writes]
        stream.give(operation.work)

    def _record(self, event: int, handle: int) -> None:
        stream = self._stream(handle)
        with self._lock:
            recorded = self._events[event] = _Recorded(dict(stream.clock))

        def reach() -> None:
            recorded.time_s = time.perf_counter()
            recorded.reached.set()

        stream.give(reach, late=False)


class FakeEngine:
    """Fake of :class:`fer_edge.cuda.device.Engine`."""

    def __init__(self, device: FakeDevice, network: FakeNetwork) -> None:
        self._device = device
        self.network = network
        self.input, self.outputs = network.input, network.outputs
        self.min_batch, self.max_batch = network.min_batch, network.max_batch
        self.scratch_bytes = network.scratch_bytes
        device.live["engine"].add(self)

    def create_context(self, batch: int, addresses: Mapping[str, int], scratch: int) -> FakeContext:
        self._device._call("create_context")
        if not self.min_batch <= batch <= self.max_batch:
            raise BackendError(f"the engine rejects a batch of {batch}")
        return FakeContext(self._device, self, batch, addresses, scratch)

    def close(self) -> None:
        with self._device._freeing("close_engine"):
            if self._device.live["context"]:
                self._device.hazard("an engine was closed before its contexts")
            self._device._end("engine", self)


class FakeContext:
    """Fake of :class:`fer_edge.cuda.device.Context`."""

    def __init__(
        self, device: FakeDevice, engine: FakeEngine, batch: int, addresses: Mapping[str, int], scratch: int
    ) -> None:
        self._device, self._network, self._batch = device, engine.network, batch
        self._has_run = False
        if set(addresses) != {t.name for t in (engine.input, *engine.outputs)}:
            device.hazard("not every tensor has an address")
        self._input = (addresses[engine.input.name], batch * engine.input.row_bytes)
        self._outputs = {o.name: (addresses[o.name], batch * o.row_bytes) for o in engine.outputs}
        self._scratch = [(scratch, engine.scratch_bytes)] if engine.scratch_bytes else []
        device.live["context"].add(self)

    def enqueue(self, stream: int) -> None:
        self._device._call("enqueue")
        self._device._require("context", self)
        if self._device._streams[stream].captured is not None and not self._has_run:
            raise BackendError("the first run of a context cannot be captured")
        self._has_run = True
        writes = [*self._outputs.values(), *self._scratch]
        self._device._enqueue(stream, _Operation(self._compute, [self._input], writes))

    def close(self) -> None:
        with self._device._freeing("close_context"):
            self._device._end("context", self)

    def _compute(self) -> None:
        device, network = self._device, self._network
        device._require("context", self)
        shape = (self._batch, *network.input.row_shape)
        batch = device.view(*self._input).view(network.input.dtype).reshape(shape)
        device._computing += 1
        device.batches.append(self._batch)
        try:
            if device.delay is not None:
                time.sleep(device.delay())
            results = network.compute(batch)
        finally:
            device._computing -= 1
        for output in network.outputs:
            values = np.ascontiguousarray(results[output.name], output.dtype)
            device.view(*self._outputs[output.name])[:] = values.reshape(-1).view(np.uint8)


class FakeArray:
    """A device array of another library."""

    def __init__(
        self, memory: np.ndarray, shape: tuple[int, ...], dtype: np.dtype, stream: int | None
    ) -> None:
        self.memory, self.shape, self.dtype = memory, shape, dtype
        self.__cuda_array_interface__ = {
            "version": 3,
            "shape": shape,
            "typestr": dtype.str,
            "data": (memory.ctypes.data, False),
            "strides": None,
            "stream": stream,
        }

    def numpy(self) -> np.ndarray:
        """Return what it holds now."""
        return self.memory.view(self.dtype).reshape(self.shape).copy()


def random_delays(seed: int, most_s: float = 0.001) -> Callable[[], float]:
    """Return a function that gives delays, a third of them none."""
    draw = random.Random(seed)
    return lambda: max(0.0, draw.uniform(-0.5, 1.0)) * most_s


def _overlap(a: Range, b: Range) -> bool:
    return a[0] < b[0] + b[1] and b[0] < a[0] + a[1]


def _merge(into: Clock, other: Clock) -> None:
    for stream, number in other.items():
        into[stream] = max(into.get(stream, 0), number)


class Dlpack:
    """An array of the fake device under DLPack, as PyTorch gives it: it waits for its own stream."""

    def __init__(self, array: FakeArray) -> None:
        self.array, self.streams = array, list[int | None]()

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __dlpack__(self, *, stream: int | None = None) -> object:
        self.streams.append(stream)
        return self.array.memory.view(self.array.dtype).reshape(self.array.shape).__dlpack__()

"""The guard: order of calls, closing during a call, errors, signals."""

from __future__ import annotations

import gc
import signal
import threading
import time
import weakref
from collections.abc import Callable
from types import FrameType

import pytest
from crowds import run_together

from fer_edge._utils.guard import Guard
from fer_edge.errors import BackendError, DetectorError


class Resource:
    """Counts the calls that use it at the same time, and refuses to be used once it is freed."""

    def __init__(self) -> None:
        self.inside = self.most = self.freed = 0
        self._lock = threading.Lock()

    def use(self, pause_s: float = 0.0005) -> None:
        with self._lock:
            assert not self.freed
            self.inside += 1
            self.most = max(self.most, self.inside)
        time.sleep(pause_s)
        with self._lock:
            assert not self.freed
            self.inside -= 1

    def free(self) -> None:
        assert not self.inside
        self.freed += 1


def make(parallel: bool = False) -> Guard[Resource]:
    return Guard(Resource(), "session", BackendError, free=Resource.free, parallel=parallel)


def repeat(guard: Guard[Resource], times: int) -> Callable[[], None]:
    def work() -> None:
        for _ in range(times):
            with guard as resource:
                resource.use()

    return work


@pytest.mark.parametrize("parallel", [False, True])
def test_calls_take_turns_unless_they_may_run_together(parallel: bool) -> None:
    guard = make(parallel)
    run_together(*[repeat(guard, 50)] * 6)
    with guard as resource:
        assert (resource.most > 1) == parallel
        assert resource.most <= 6
        assert resource.inside == 0


def start(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def wait_for(done: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 30
    while not done():
        assert time.monotonic() < end_s
        time.sleep(0.001)


def test_turns_are_in_the_order_of_calls() -> None:
    guard, order = make(), list[int]()

    def work(number: int) -> None:
        with guard:
            order.append(number)

    threads = []
    with guard:
        for number in range(8):
            threads.append(start(lambda number=number: work(number)))  # type: ignore[misc]
            wait_for(lambda number=number: len(guard._callers) == number + 2)  # type: ignore[misc]
    for thread in threads:
        thread.join(30)
    assert order == list(range(8))


@pytest.mark.parametrize("parallel", [False, True])
def test_closing_waits_for_calls_and_refuses_those_that_come(parallel: bool) -> None:
    guard, refused = make(parallel), list[str]()

    def ask() -> None:
        try:
            with guard:
                pass
        except BackendError as error:
            refused.append(str(error))

    with guard as resource:
        early = [] if parallel else [start(ask) for _ in range(3)]
        wait_for(lambda: len(guard._callers) == 1 + len(early))
        closing = [start(guard.close) for _ in range(2)]
        wait_for(lambda: guard._closed)
        late = start(ask)
        for thread in (*early, late):
            thread.join(30)
        assert refused == ["this session is closed. Fix: create another"] * (len(early) + 1)
        assert all(thread.is_alive() for thread in closing)
        assert not resource.freed
    for thread in closing:
        thread.join(30)
        assert not thread.is_alive()
    guard.close()
    assert resource.freed == 1


@pytest.mark.parametrize("parallel", [False, True])
def test_a_call_that_raises_is_over(parallel: bool) -> None:
    guard = make(parallel)
    with pytest.raises(KeyError), guard:
        raise KeyError
    repeat(guard, 1)()
    guard.close()


def test_the_error_is_that_of_the_owner() -> None:
    guard = Guard("cascade", "detector", DetectorError, remedy="find another")
    guard.close()
    with pytest.raises(DetectorError, match="this detector is closed. Fix: find another"), guard:
        pass


class Interrupted(Exception):
    """Raised by a signal handler."""


def raise_signal_once(main_waits: Callable[[], bool]) -> threading.Thread:
    main = threading.main_thread().ident
    assert main is not None

    def work() -> None:
        while not main_waits():
            time.sleep(0.001)
        time.sleep(0.1)
        signal.pthread_kill(main, signal.SIGUSR1)

    return start(work)


@pytest.fixture
def on_signal() -> Callable[[Callable[[], None]], None]:
    def install(act: Callable[[], None]) -> None:
        def handle(number: int, frame: FrameType | None) -> None:
            act()

        signal.signal(signal.SIGUSR1, handle)

    yield install  # type: ignore[misc]
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # one that comes late must not end the process


def interrupt() -> None:
    raise Interrupted


def test_a_wait_that_is_interrupted_leaves_the_queue(
    on_signal: Callable[[Callable[[], None]], None],
) -> None:
    """As by Ctrl-C; otherwise all later calls would block."""
    on_signal(interrupt)
    guard, begun, may_end = make(), threading.Event(), threading.Event()

    def hold() -> None:
        with guard:
            begun.set()
            assert may_end.wait(30)

    holder = start(hold)
    assert begun.wait(30)
    sender = raise_signal_once(lambda: len(guard._callers) == 2)
    with pytest.raises(Interrupted), guard:
        pass
    sender.join(30)
    assert len(guard._callers) == 1
    sender = raise_signal_once(lambda: guard._closed)
    with pytest.raises(Interrupted):
        guard.close()
    sender.join(30)
    may_end.set()
    holder.join(30)
    guard.close()
    assert guard._value is None


@pytest.mark.parametrize("parallel", [False, True])
def test_the_handler_of_a_signal_closes_in_mid_call(
    parallel: bool, on_signal: Callable[[Callable[[], None]], None]
) -> None:
    guard = make(parallel)
    on_signal(guard.close)
    with guard as resource:
        signal.raise_signal(signal.SIGUSR1)
        resource.use()
        assert not resource.freed
    assert resource.freed == 1
    with pytest.raises(BackendError, match="closed"), guard:
        pass


def test_the_handler_of_a_signal_cannot_call_in_mid_call() -> None:
    guard = make()
    with guard:
        with pytest.raises(BackendError, match="is in a call of the same thread"), guard:
            pass
        assert len(guard._callers) == 1
    repeat(guard, 1)()


def test_a_guard_that_is_dropped_drops_its_value_at_once() -> None:
    """Without a reference cycle, which would keep a network in memory until garbage collection."""
    gc.disable()
    try:
        guard = make()
        with guard as resource:
            found = weakref.ref(resource)
        del guard, resource
        assert found() is None
    finally:
        gc.enable()

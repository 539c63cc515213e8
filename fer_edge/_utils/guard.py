"""Guards of resources that threads of one process share: calls end before the resource is closed; forks are refused.

Threads of the libraries behind a session do not exist in a forked process, where using or freeing a session may hang.
A resource created before the fork is therefore refused in the child, and never freed there.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Generic, TypeVar

from fer_edge.errors import FerEdgeError

T = TypeVar("T")

_FORK_FIX = (
    "start processes with multiprocessing.get_context('spawn'), or create another in each; "
    "where a GPU is used, only the first helps"
)


class ProcessBound:
    """A resource that only the process that created it may use.

    Parameters
    ----------
    what : str
        Its name in messages, such as ``session``.
    error : type
        Class of the errors.
    """

    def __init__(self, what: str, error: type[FerEdgeError]) -> None:
        self._what, self._error = what, error
        self._process = os.getpid()
        _BOUND.add(self)

    @property
    def is_inherited(self) -> bool:
        """``True`` if this process is a fork of the one that created the resource."""
        return os.getpid() != self._process

    def require_process(self) -> None:
        """Raise the error if this process is a fork of the one that created the resource."""
        if self.is_inherited:
            raise self._error(
                f"this {self._what} was made before the fork of process {os.getpid()}, where it cannot be used. "
                f"Fix: {_FORK_FIX}"
            )


class Guard(ProcessBound, Generic[T]):
    """Owner of a value that calls use; frees it once it is closed and no call uses it.

    A call is a ``with`` block, which gets the value. Calls are serialised in their order of arrival.

    Parameters
    ----------
    value : T
        Value that calls use.
    what, error : str, type
        As for :class:`ProcessBound`.
    remedy : str
        Remedy for a closed value, in messages.
    free : callable
        Frees the value; it is dropped afterwards.
    parallel : bool
        Run calls concurrently; the value must be thread-safe.
    """

    def __init__(
        self,
        value: T,
        what: str,
        error: type[FerEdgeError],
        *,
        remedy: str = "create another",
        free: Callable[[T], object] | None = None,
        parallel: bool = False,
    ) -> None:
        super().__init__(what, error)
        self._value: T | None = value
        self._remedy, self._free, self._parallel = remedy, free, parallel
        # Reentrant: a signal handler may close the value while the interrupted thread is entering a call.
        self._lock = threading.RLock()
        self._change = threading.Condition(self._lock)
        #: Threads in a call or waiting for one, in order of arrival.
        self._callers: list[int] = []
        self._closed = False

    def __enter__(self) -> T:
        self.require_process()
        caller = threading.get_ident()
        if not self._parallel and caller in self._callers:  # it would wait for itself
            raise self._error(
                f"this {self._what} is in a call of the same thread. Fix: do not use it in a signal handler"
            )
        try:
            with self._lock:
                self._callers.append(caller)
                while not (self._parallel or self._closed or self._callers[0] == caller):
                    self._change.wait()
                if self._closed:
                    raise self._error(f"this {self._what} is closed. Fix: {self._remedy}")
                value = self._value
        except BaseException:
            self._leave(caller)
            raise
        return value  # type: ignore[return-value]  # None only once it is closed

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave(threading.get_ident())

    def close(self) -> None:
        """Refuse further calls, wait for those that run, and free the value.

        Waiting calls are refused too. If called in a signal handler that interrupts a call of this thread, the end of
        that call frees the value. In a forked process nothing is done.
        """
        if self.is_inherited:
            return
        caller = threading.get_ident()
        with self._lock:
            self._closed = True
            self._change.notify_all()
            while self._callers and caller not in self._callers:
                self._change.wait()
            self._free_unused()

    def _leave(self, caller: int) -> None:
        with self._lock:
            if caller in self._callers:
                self._callers.remove(caller)
            if self._callers or self._closed:
                self._change.notify_all()
                self._free_unused()

    def _free_unused(self) -> None:
        if not self._closed or self._callers or self._value is None:
            return
        value, self._value = self._value, None
        if self._free is not None:
            self._free(value)


class Activity:
    """Counter of running library calls, each a ``with`` block, for a library that cannot be forked during a call.

    Attributes
    ----------
    was_cut : bool
        ``True`` if this process was forked while another thread was in a call, whose locks are never released here.
    """

    def __init__(self) -> None:
        self.was_cut = False
        self._callers: list[int] = []
        _ACTIVITIES.add(self)

    def __enter__(self) -> None:
        self._callers.append(threading.get_ident())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._callers.remove(threading.get_ident())

    def begin_in_child(self) -> None:
        """Remove the calls of threads that do not exist in the child."""
        here = [caller for caller in self._callers if caller == threading.get_ident()]
        self.was_cut |= len(here) < len(self._callers)
        self._callers = here


#: All resources that a forked process would inherit.
_BOUND: weakref.WeakSet[ProcessBound] = weakref.WeakSet()
_ACTIVITIES: weakref.WeakSet[Activity] = weakref.WeakSet()


def _begin_in_child() -> None:
    for bound in list(_BOUND):  # never freed, not even at the end of this process
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(bound))
    for activity in list(_ACTIVITIES):
        activity.begin_in_child()


os.register_at_fork(after_in_child=_begin_in_child)

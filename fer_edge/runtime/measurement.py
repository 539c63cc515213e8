"""Timing of candidates in turn, with the slow ones dropped early."""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from fer_edge.backends.base import Session, run_in_parts
from fer_edge.errors import FerEdgeError
from fer_edge.runtime.choice import Candidate
from fer_edge.runtime.timing import SEVERAL, Timing, time_per_face

_LOG = logging.getLogger(__name__)
#: A first run that takes so many times that of the best drops a candidate.
_DROPPED_ABOVE = 2.0
#: The same for threads and batches of a backend and a precision, by the first candidate of these.
_FAMILY_DROPPED_ABOVE = 1.5
_MAX_FIRST_RUNS, _SHORT_MS = 4, 100.0
#: After so many rounds, what is slower than the best by so much drops out.
_ELIMINATION = {1: 2.0, 3: 1.3, 6: 1.15, 12: 1.08}
_MIN_CALLS = 3  # a candidate, even beyond the budget
_MAX_ROUNDS = 100
_REASON_LETTERS = 300


@dataclass(frozen=True)
class Limits:
    """How long a measurement takes.

    Attributes
    ----------
    budget_s : float
        For all runs together; three inferences a candidate may take longer.
    opening_s : float
        Opening and self-test of all candidates beside the plain choice: none is opened later. Not part of the budget.
    most_open : int
        Sessions that are open at the same time. With 1 the candidates are timed one after the other.
    """

    budget_s: float = 2.0
    opening_s: float = 20.0
    most_open: int = 8


@dataclass
class _Entry:
    """A candidate whose session is open."""

    candidate: Candidate
    session: Session
    first_ms: float
    keep: bool  # the plain choice, with which the others are compared
    one: list[float] = field(default_factory=list)
    several: list[float] = field(default_factory=list)

    @property
    def face_ms(self) -> float:
        return time_per_face(median(self.one), median(self.several))

    def is_behind(self, best: _Entry, ratio: float) -> bool:
        """Whether it is slower by the medians and by the fastest calls, which other processes disturb the least."""
        fastest, least = (time_per_face(min(entry.one), min(entry.several)) for entry in (self, best))
        return self.face_ms > ratio * best.face_ms and fastest > ratio * least


class Measurement:
    """One measurement of all candidates.

    Parameters
    ----------
    candidates : sequence of Candidate
        The plain choice first, then the first of each family.
    open_session : callable
        Opens and tests the session of a candidate; an error leaves it out.
    faces : array
        ``[4, C, H, W]`` float32.
    limits : Limits
        See there.
    clock : callable
        Seconds, as :func:`time.perf_counter`.
    on_candidate : callable
        Called with (done, total).
    """

    def __init__(
        self,
        candidates: Sequence[Candidate],
        open_session: Callable[[Candidate], Session],
        faces: np.ndarray,
        limits: Limits,
        clock: Callable[[], float] = time.perf_counter,
        on_candidate: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self._candidates, self._open, self._faces = candidates, open_session, faces
        self._limits, self._clock, self._on_candidate = limits, clock, on_candidate
        self._opening_s = self._spent_s = 0.0
        self._calls = 0
        self._first: dict[tuple[str, str], list[float]] = {}  # first runs by backend and precision
        self._failed: set[tuple[str, str]] = set()
        self._found: dict[Candidate, Timing] = {}
        self._shuffle = random.Random(0).shuffle

    def run(self) -> tuple[Timing, ...]:
        """Measure and return what was found, in the order of the candidates."""
        held: list[_Entry] = []
        with ExitStack() as closing:  # whatever ends it
            closing.callback(_close, held)
            for i, candidate in enumerate(self._candidates):
                self._on_candidate(i, len(self._candidates))
                entry = self._try(candidate)
                if entry is None:
                    continue
                held.append(entry)
                if self._limits.most_open == 1:
                    self._take_turns(held, self._limits.budget_s / len(self._candidates))
                elif len(held) > self._limits.most_open:
                    slowest = max((e for e in held if not e.keep), key=lambda e: e.first_ms)
                    self._drop(slowest)
                    held.remove(slowest)
            self._take_turns(held, self._limits.budget_s - self._spent_s)
        self._on_candidate(len(self._candidates), len(self._candidates))
        return tuple(self._found[candidate] for candidate in self._candidates)

    def _try(self, candidate: Candidate) -> _Entry | None:
        """Open a candidate and time its first run; ``None`` where it is left out or dropped."""
        keep = candidate == self._candidates[0]
        reason = "" if keep else self._find_obstacle(candidate)
        if reason:
            self._found[candidate] = Timing(candidate, "left out", reason)
            return None
        started = self._clock()
        try:
            session = self._open(candidate)
        except Exception as error:  # of whatever kind: the others still run
            self._leave_out(candidate, error)
            return None
        finally:
            if not keep:  # it may have to be compiled
                self._opening_s += self._clock() - started
        entry = _Entry(candidate, session, 0.0, keep)
        try:
            entry.first_ms = self._time_first(entry)
        except BaseException as error:
            session.close()
            if not isinstance(error, Exception):
                raise
            self._leave_out(candidate, error)
            return None
        self._first.setdefault(candidate.family, []).append(entry.first_ms)
        if self._is_slow(entry):
            self._drop(entry)
            return None
        return entry

    def _find_obstacle(self, candidate: Candidate) -> str:
        """Return why a candidate is not worth a trial, or empty text."""
        if self._opening_s > self._limits.opening_s:
            return f"opening those before it took {self._opening_s:.0f} s: fer-edge tune has more time"
        first = min(self._first.get(candidate.family, ()), default=None)
        name = f"{candidate.precision} on {candidate.backend}"
        if first is None:
            return f"{name} could not be run" if candidate.family in self._failed else ""
        if first > _FAMILY_DROPPED_ABOVE * self._best_first_ms():
            return f"{name} took {first:.3g} ms, the best {self._best_first_ms():.3g} ms"
        return ""

    def _time_first(self, entry: _Entry) -> float:
        """Return the first run of a candidate; a short one that looks slow is repeated, as another process may be why."""
        taken = [self._time(entry, 1)]
        best = self._best_first_ms()
        while len(taken) < _MAX_FIRST_RUNS and _FAMILY_DROPPED_ABOVE * best < min(taken) < _SHORT_MS:
            taken.append(self._time(entry, 1))
        return min(taken)

    def _best_first_ms(self) -> float:
        return min((min(runs) for runs in self._first.values()), default=math.inf)

    def _is_slow(self, entry: _Entry) -> bool:
        return not entry.keep and entry.first_ms > _DROPPED_ABOVE * self._best_first_ms()

    def _drop(self, entry: _Entry) -> None:
        """Close a candidate by its first run."""
        entry.session.close()
        self._found[entry.candidate] = Timing(
            entry.candidate,
            "dropped",
            f"its first run took {entry.first_ms:.3g} ms, the best {self._best_first_ms():.3g} ms",
            entry.first_ms,
            n=1,
        )

    def _leave_out(self, candidate: Candidate, error: Exception) -> None:
        reason = str(error) if isinstance(error, FerEdgeError) else f"{type(error).__name__}: {error}"
        _LOG.info("%s is left out: %s", candidate, reason)
        self._failed.add(candidate.family)
        self._found[candidate] = Timing(candidate, "left out", reason[:_REASON_LETTERS])

    def _take_turns(self, held: list[_Entry], budget_s: float) -> None:
        """Time what is held in turn, at least once, until the budget is spent, and close it."""
        until_s = self._spent_s + budget_s
        if held and max(entry.first_ms for entry in held) * SEVERAL * len(held) < 1e3 * budget_s / 4:
            for entry in list(held):  # the first call of each size may prepare something
                self._turn(held, entry, record=False)
        else:
            for entry in held:
                entry.one.append(entry.first_ms)
        for number in range(_MAX_ROUNDS):
            # What dropped out leaves its inferences to the others.
            allowed = self._calls + 2 * len(held) <= _MIN_CALLS * (len(self._found) + len(held))
            if not held or (number and self._spent_s >= until_s and not allowed):
                break
            self._shuffle(held)
            for entry in list(held):
                self._turn(held, entry, record=True)
            if held and (ratio := _ELIMINATION.get(number + 1)):
                best = min(held, key=lambda entry: entry.face_ms)
                for entry in [e for e in held if not e.keep and e.is_behind(best, ratio)]:
                    self._finish(held, entry)
        for entry in list(held):
            self._finish(held, entry)

    def _turn(self, held: list[_Entry], entry: _Entry, record: bool) -> None:
        try:
            one, several = self._time(entry, 1), self._time(entry, SEVERAL)
        except Exception as error:
            self._leave_out(entry.candidate, error)
            held.remove(entry)
            entry.session.close()
            return
        if record:
            entry.one.append(one)
            entry.several.append(several)

    def _finish(self, held: list[_Entry], entry: _Entry) -> None:
        held.remove(entry)
        entry.session.close()
        self._found[entry.candidate] = Timing(
            entry.candidate, "measured", "", median(entry.one), median(entry.several), len(entry.several)
        )

    def _time(self, entry: _Entry, faces: int) -> float:
        """Return the milliseconds of one call."""
        rows = self._faces[:faces]
        started = self._clock()
        run_in_parts(entry.session.run, rows, entry.candidate.max_batch)
        taken_s = self._clock() - started
        self._spent_s += taken_s
        self._calls += 1
        return taken_s * 1e3


def _close(entries: Sequence[_Entry]) -> None:
    for entry in entries:
        entry.session.close()

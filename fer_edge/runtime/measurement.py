"""Interleaved timing of candidates, with early elimination of slow ones."""

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
from fer_edge.runtime.timing import MIN_GAIN, SEVERAL, Timing, ratio_interval, spread_of, time_per_face

_LOG = logging.getLogger(__name__)
#: Ratio of the first run to the best one above which a candidate is dropped.
_DROPPED_ABOVE = 2.0
#: The same ratio for all threads and batches of a backend and precision, by the first candidate of these.
_FAMILY_DROPPED_ABOVE = 1.5
_MAX_FIRST_RUNS, _SHORT_MS = 4, 100.0
#: Number of rounds → ratio to the best above which a candidate is eliminated.
_ELIMINATION = {1: 2.0, 3: 1.3, 6: 1.15, 12: 1.08}
_MIN_CALLS = 3  # per candidate, even beyond the budget
_MAX_ROUNDS = 300
#: Multiple of the budget within which an undecided comparison with the plain choice goes on.
_MAX_EXTENSION = 3.0
_REASON_LETTERS = 300


@dataclass(frozen=True)
class Limits:
    """Limits of a measurement.

    Attributes
    ----------
    budget_s : float
        Time of all runs together; three inferences per candidate are always made. Up to three times as much is
        taken while the 95 % interval of the best candidate's gain over the plain choice includes the minimum gain.
    opening_s : float
        Time for opening and self-test of all candidates except the plain choice; none is opened later. Not part of
        ``budget_s``.
    most_open : int
        Maximum number of open sessions. With 1 the candidates are timed one after the other.
    """

    budget_s: float = 2.0
    opening_s: float = 20.0
    most_open: int = 8


@dataclass
class _Entry:
    """A candidate with an open session."""

    candidate: Candidate
    session: Session
    first_ms: float
    keep: bool  # True for the plain choice, the baseline
    one: list[float] = field(default_factory=list)
    several: list[float] = field(default_factory=list)

    @property
    def face_ms(self) -> float:
        return time_per_face(median(self.one), median(self.several))

    def is_behind(self, best: _Entry, ratio: float) -> bool:
        """Return whether medians and fastest calls are slower; other processes disturb the fastest calls least."""
        fastest, least = (time_per_face(min(entry.one), min(entry.several)) for entry in (self, best))
        return self.face_ms > ratio * best.face_ms and fastest > ratio * least


class Measurement:
    """Measurement of all candidates.

    Parameters
    ----------
    candidates : sequence of Candidate
        The plain choice first, then the first of each family.
    open_session : callable
        Opens and self-tests the session of a candidate; a candidate that fails is skipped.
    faces : array
        ``[4, C, H, W]`` float32.
    limits : Limits
        Limits of time and sessions.
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
        """Measure and return the timings, in the order of the candidates."""
        held: list[_Entry] = []
        with ExitStack() as closing:  # also on an error
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
        """Open a candidate and time its first run; ``None`` if it is skipped or dropped."""
        keep = candidate == self._candidates[0]
        reason = "" if keep else self._find_obstacle(candidate)
        if reason:
            self._found[candidate] = Timing(candidate, "left out", reason)
            return None
        started = self._clock()
        try:
            session = self._open(candidate)
        except Exception as error:  # of any kind: the other candidates are still measured
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
        """Return the reason to skip a candidate, or an empty string."""
        if self._opening_s > self._limits.opening_s:
            return (
                f"opening earlier candidates took {self._opening_s:.0f} s, and only fer-edge tune allows more"
            )
        first = min(self._first.get(candidate.family, ()), default=None)
        name = f"{candidate.precision} on {candidate.backend}"
        if first is None:
            return f"{name} failed" if candidate.family in self._failed else ""
        if first > _FAMILY_DROPPED_ABOVE * self._best_first_ms():
            return f"{name} took {first:.3g} ms, the best {self._best_first_ms():.3g} ms"
        return ""

    def _time_first(self, entry: _Entry) -> float:
        """Return the time of the first run in ms; a short but slow one is repeated, since another process may delay it."""
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
        """Close a candidate that is slow by its first run."""
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
        """Time the open candidates interleaved, at least once, until the budget is spent, and close them."""
        until_s, latest_s = self._spent_s + budget_s, self._spent_s + _MAX_EXTENSION * budget_s
        if held and max(entry.first_ms for entry in held) * SEVERAL * len(held) < 1e3 * budget_s / 4:
            for entry in list(held):  # the first call of each size may include warm-up
                self._turn(held, entry, record=False)
        else:
            for entry in held:
                entry.one.append(entry.first_ms)
        for number in range(_MAX_ROUNDS):
            # The inferences of eliminated candidates go to the others.
            allowed = self._calls + 2 * len(held) <= _MIN_CALLS * (len(self._found) + len(held))
            if not held or (number and not allowed and self._is_over(held, until_s, latest_s)):
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

    def _is_over(self, held: Sequence[_Entry], until_s: float, latest_s: float) -> bool:
        """Return whether the budget is spent, and the best candidate's gain is decided or the extension spent too."""
        if self._spent_s < until_s:
            return False
        plain = next((entry for entry in held if entry.keep), None)
        others = [entry for entry in held if not entry.keep]
        if self._spent_s >= latest_s or plain is None or not others:
            return True
        best = min(others, key=lambda entry: entry.face_ms)
        low, high = ratio_interval((best.one, best.several), (plain.one, plain.several))
        return not low <= 1 - MIN_GAIN <= high

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
            entry.candidate,
            "measured",
            "",
            median(entry.one),
            median(entry.several),
            len(entry.several),
            spread_of(entry.one),
        )

    def _time(self, entry: _Entry, faces: int) -> float:
        """Return the time of one call in ms."""
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

"""Timing of candidates, by sessions with a known duration on a simulated clock."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pytest

from fer_edge.errors import BackendError
from fer_edge.runtime.choice import Candidate
from fer_edge.runtime.measurement import Limits, Measurement
from fer_edge.runtime.timing import Timing

PLAIN = Candidate("openvino", "int8")
FACES = np.zeros((4, 1, 2, 2), np.float32)


@dataclass
class Bench:
    """Candidates → seconds of a call with one face; each further face takes the same, or ``more_s``."""

    one_s: Mapping[Candidate, float]
    more_s: Mapping[Candidate, float] = field(default_factory=dict)
    noise: float = 0.0  # relative, of each call
    opening_s: float = 0.1
    fails_to_open: tuple[Candidate, ...] = ()
    fails_after: Mapping[Candidate, int] = field(default_factory=dict)
    error: BaseException = field(default_factory=lambda: BackendError("out of memory"))
    now_s: float = 0.0
    open: list[Candidate] = field(default_factory=list)
    most_open: int = 0
    random: random.Random = field(default_factory=lambda: random.Random(0))
    calls: list[tuple[Candidate, int]] = field(default_factory=list)

    def measure(self, **limits: float) -> dict[Candidate, Timing]:
        measurement = Measurement(
            list(self.one_s), self.open_session, FACES, Limits(**limits), clock=lambda: self.now_s
        )
        found = measurement.run()
        assert self.open == []
        assert [timing.candidate for timing in found] == list(self.one_s)
        return {timing.candidate: timing for timing in found}

    def open_session(self, candidate: Candidate) -> Session:
        self.now_s += self.opening_s
        if candidate in self.fails_to_open:
            raise self.error
        self.open.append(candidate)
        self.most_open = max(self.most_open, len(self.open))
        return Session(self, candidate)

    def count(self, candidate: Candidate) -> int:
        return sum(called == candidate for called, _ in self.calls)


@dataclass
class Session:
    bench: Bench
    candidate: Candidate
    largest_batch: int | None = None

    def run(self, batch: np.ndarray) -> Mapping[str, np.ndarray]:
        one_s = self.bench.one_s[self.candidate]
        call_s = one_s + (len(batch) - 1) * self.bench.more_s.get(self.candidate, one_s)
        self.bench.now_s += call_s * (1 + self.bench.noise * self.bench.random.random())
        self.bench.calls.append((self.candidate, len(batch)))
        if self.bench.count(self.candidate) > self.bench.fails_after.get(self.candidate, 10**9):
            raise self.bench.error
        return {"logits": batch.reshape(len(batch), -1)}

    def close(self) -> None:
        if self.candidate in self.bench.open:
            self.bench.open.remove(self.candidate)


def test_figures_are_medians_and_slow_candidates_are_dropped_by_their_first_run() -> None:
    fast, slow = Candidate("onnxruntime", "int8"), Candidate("onnxruntime", "fp32")
    several = Candidate("onnxruntime", "int8", threads=1)
    family = Candidate("onnxruntime", "fp32", threads=1)
    bench = Bench(
        {PLAIN: 0.1, fast: 0.010, slow: 0.021, several: 0.011, family: 0.001}, more_s={several: 0.005}
    )
    found = bench.measure()
    assert found[fast].one_face_ms == pytest.approx(10)
    assert found[fast].four_faces_ms == pytest.approx(40)
    assert found[several].face_ms == pytest.approx((11 + 26 / 4) / 2)  # slower alone, faster together
    assert found[PLAIN].state == "measured"  # ten times slower, and yet what the others are compared with
    assert found[slow].state == "dropped"
    assert found[slow].face_ms is None
    assert {size for candidate, size in bench.calls if candidate == slow} == {1}
    assert found[family].state == "left out"  # it never ran
    assert bench.count(family) == 0
    assert "fp32 on onnxruntime took 21 ms, the best 10 ms" in found[family].reason


def test_the_budget_is_kept_and_slow_networks_make_three_inferences_each() -> None:
    other = Candidate("onnxruntime", "int8")
    bench = Bench({PLAIN: 0.010, other: 0.011})
    found = bench.measure(budget_s=2.0)
    round_s = 5 * (0.010 + 0.011)
    assert 2.0 <= bench.now_s - 2 * bench.opening_s <= 2.0 + 2 * round_s
    assert found[PLAIN].n > 10
    slow = Bench({PLAIN: 3.0, other: 3.1})
    assert {timing.n for timing in slow.measure(budget_s=2.0).values()} == {1}
    assert {slow.count(candidate) for candidate in slow.one_s} == {3}


def test_an_undecided_gain_is_measured_longer_and_a_decided_one_is_not() -> None:
    other = Candidate("onnxruntime", "int8")
    taken_s = {}
    for gain in (0.05, 0.30, -0.05):
        bench = Bench({PLAIN: 0.001, other: 0.001 * (1 - gain)}, noise=0.5)
        found = bench.measure(budget_s=1.0)
        taken_s[gain] = bench.now_s - 2 * bench.opening_s
        spread = found[PLAIN].spread
        assert spread is not None
        assert 1.1 < spread < 1.5  # p90 of a uniform noise from 0 to 50 %, by its median: 1.45 / 1.25
    assert taken_s[0.30] < 1.2
    assert taken_s[-0.05] < 1.6  # the interval of the noise includes no gain of 5 %
    assert 3.0 <= taken_s[0.05] < 3.3  # the cap


@pytest.mark.parametrize(("most", "held"), [(1, 1), (2, 3)])
def test_few_sessions_are_open_at_the_same_time(most: int, held: int) -> None:
    others = [Candidate("onnxruntime", "fp32", threads=n) for n in range(1, 9)]
    bench = Bench({PLAIN: 0.010, **dict.fromkeys(others, 0.009)})
    found = bench.measure(most_open=most)
    assert bench.most_open == held
    assert found[PLAIN].face_ms == pytest.approx(10)
    best = min((t for t in found.values() if t.face_ms), key=lambda t: t.face_ms or 0)
    assert best.face_ms == pytest.approx(9)


@pytest.mark.parametrize(
    ("error", "reason"),
    [(BackendError("out of memory"), "out of memory"), (MemoryError("no more"), "MemoryError: no more")],
)
def test_what_cannot_be_opened_or_run_is_left_out_with_its_reason(error: Exception, reason: str) -> None:
    lost, weak, good = (Candidate("onnxruntime", precision) for precision in ("fp32", "int8", "fp16"))
    beside = Candidate("onnxruntime", "fp32", threads=1)
    bench = Bench(
        {PLAIN: 0.01, lost: 0.001, weak: 0.009, good: 0.008, beside: 0.001},
        fails_to_open=(lost,),
        fails_after={weak: 4},
        error=error,
    )
    found = bench.measure()
    assert (found[lost].state, found[lost].reason) == ("left out", reason)
    assert (found[weak].state, found[weak].reason) == ("left out", reason)
    assert found[beside].reason == "fp32 on onnxruntime failed"
    assert found[good].face_ms == pytest.approx(8)
    nothing = Bench({PLAIN: 0.01, good: 0.01}, fails_to_open=(PLAIN, good))
    assert {timing.state for timing in nothing.measure().values()} == {"left out"}


@pytest.mark.parametrize("after", [0, 3])
def test_an_interruption_closes_the_sessions(after: int) -> None:
    good = Candidate("onnxruntime", "fp32")
    bench = Bench({PLAIN: 0.01, good: 0.01}, fails_after={good: after}, error=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        bench.measure()
    assert bench.open == []


def test_nothing_is_opened_after_the_time_for_opening() -> None:
    others = [Candidate("onnxruntime", "fp32", threads=n) for n in range(1, 6)]
    bench = Bench({PLAIN: 0.010, **dict.fromkeys(others, 0.009)}, opening_s=8.0)
    found = bench.measure(opening_s=20.0)  # the plain choice does not count
    assert [found[candidate].state for candidate in others] == ["measured"] * 3 + ["left out"] * 2
    assert "opening earlier candidates took 24 s" in found[others[-1]].reason

"""CPU time of other processes, from the counters of the kernel."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from fer_edge.system import load
from fer_edge.system.load import LoadMeter, describe_load
from fer_edge.system.machine import LocalMachine


class Recorded(LocalMachine):
    """A machine with given counters, one text per reading."""

    def __init__(self, *texts: str | None) -> None:
        super().__init__()
        self.texts = list(texts)

    def read(self, path: str) -> str | None:
        assert path == "/proc/stat"
        return self.texts.pop(0)


def stat(*rows: str) -> str:
    lines = [f"cpu{number} {row}" for number, row in enumerate(rows)]
    return "\n".join(["cpu  9 9 9 9 9 9 9 9 0 0", *lines, "intr 1 2 3", ""])


def share(monkeypatch: pytest.MonkeyPatch, machine: Recorded, elapsed_s: float = 2.0) -> float | None:
    now_s = iter((100.0, 100.0 + elapsed_s))
    monkeypatch.setattr(load.time, "monotonic", lambda: next(now_s))
    monkeypatch.setattr(load.os, "times", lambda: _Times())
    return LoadMeter(machine, usable=(0, 2)).share_of_others()


class _Times:
    user = system = children_user = children_system = 0.0


def test_only_work_on_usable_processors_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    before = stat("0 0 0 0 0 0 0 0 0 0", "0 0 0 0 0 0 0 0 0 0", "5 5 5 5 5 5 5 5 0 0")
    # User 30, nice 10, system 20, irq 5, softirq 5, steal 10 ticks of 10 ms; idle, iowait and guests do not count.
    after = stat("30 10 20 999 99 5 5 10 77 77", "200 0 0 0 0 0 0 0 0 0", "25 5 5 905 5 5 5 5 0 0")
    assert share(monkeypatch, Recorded(before, after)) == pytest.approx((0.8 + 0.2) / (2 * 2.0))


@pytest.mark.parametrize("text", [None, "", "cpu0 1 2 3", stat("1 2 3 4 5 6 7 8 0 0")])
def test_without_the_counters_the_share_is_unknown(monkeypatch: pytest.MonkeyPatch, text: str | None) -> None:
    assert share(monkeypatch, Recorded(text, text)) is None


def test_a_short_time_has_no_share(monkeypatch: pytest.MonkeyPatch) -> None:
    text = stat(*["1 2 3 4 5 6 7 8 0 0"] * 3)
    assert share(monkeypatch, Recorded(text, text), elapsed_s=0.1) is None


def test_the_clause_names_a_share_that_disturbs() -> None:
    assert describe_load(None) == describe_load(0.0) == describe_load(0.19) == ""
    assert describe_load(0.62) == "other processes took 62 % of the processors meanwhile"


def test_another_process_counts_and_this_one_does_not() -> None:
    if LoadMeter()._read()[1] is None:
        pytest.skip("needs /proc/stat with the usable processors")
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        try:
            meter = LoadMeter()
            time.sleep(1.0)
            found = meter.share_of_others()
        finally:
            other.kill()
    assert found is not None
    assert found > 0

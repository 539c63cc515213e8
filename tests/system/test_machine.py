"""Reading files and running commands, each bounded in size and time."""

from __future__ import annotations

import os
import time
from pathlib import Path

from fer_edge.system.machine import LocalMachine


def test_reading_is_bounded(tmp_path: Path) -> None:
    machine = LocalMachine()
    (tmp_path / "huge").write_bytes(b"\xff" * (1 << 20))
    os.mkfifo(tmp_path / "pipe")
    text = machine.read(str(tmp_path / "huge"))
    assert text is not None
    assert len(text) == 64 << 10
    for path in ("pipe", "absent", ".", "na\0me"):
        assert machine.read(f"{tmp_path}/{path}") is None
    assert machine.read("/dev/zero") is None
    assert machine.find(f"{tmp_path}/h*") == [f"{tmp_path}/huge"]


def test_commands_are_bounded(tmp_path: Path) -> None:
    machine = LocalMachine(limit_s=0.5)
    assert machine.run("printf", "a\\nb") == "a\nb"
    assert machine.run("sh", "-c", "echo out; echo err >&2; exit 3") == "out\n"
    assert machine.run("no-such-command") is None
    assert machine.run("yes") is None  # never ends
    marker = tmp_path / "marker"
    started = time.monotonic()
    assert machine.run("sh", "-c", f"(sleep 2; touch {marker}) & sleep 60") is None  # with what it started
    assert time.monotonic() - started < 50
    assert machine.run("sh", "-c", "exec >&-; sleep 60") is None
    time.sleep(2.5)
    assert not marker.exists()
    assert LocalMachine(total_s=0).run("printf", "a") is None
    assert LocalMachine(total_s=0).ask("python") is None


def test_a_question_that_is_not_answered() -> None:
    assert LocalMachine().ask("nobody knows this one") is None

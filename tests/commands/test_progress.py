"""Progress without a terminal: a line per stage, and lines during a stage without reports."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fer_edge.commands.progress import Lines, show_progress


def lines_of(stream: io.StringIO) -> list[str]:
    return stream.getvalue().splitlines()


def wait_for(condition: object, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.01)


def test_each_stage_is_announced_once_and_at_once() -> None:
    stream = io.StringIO()
    lines = Lines(stream, interval_s=60)
    for stage, done in (("reading", 0), ("reading", 5), ("measuring", 0), ("reading", 9)):
        lines(stage, done, 10)
    assert lines_of(stream) == ["reading", "measuring"]
    lines.close()


def test_a_silent_stage_is_repeated_with_what_is_done() -> None:
    stream = io.StringIO()
    lines = Lines(stream, interval_s=0.05)
    wait_for(lambda: "working" in stream.getvalue())
    lines("compiling", 3, 12)
    wait_for(lambda: len(lines_of(stream)) >= 4)
    lines.close()
    assert lines_of(stream)[-1].startswith("compiling, 3 of 12, ")
    silent = stream.getvalue()
    time.sleep(0.15)
    assert stream.getvalue() == silent
    assert "fer-edge-progress" not in {thread.name for thread in threading.enumerate()}


def test_a_reader_that_has_gone_does_not_stop_the_work() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as stream:
        lines = Lines(stream, interval_s=0.01)
        for i in range(10):
            lines(f"stage {i}", 0, 1)
        lines.close()
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with show_progress(quiet=True) as show:
        show("reading", 1, 2)
    assert capsys.readouterr().err == ""


def test_an_error_ends_the_lines(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        with show_progress() as show:
            show("reading", 1, 0)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert capsys.readouterr().err == "reading\n"
    assert "fer-edge-progress" not in {thread.name for thread in threading.enumerate()}


def test_a_terminal_gets_bars() -> None:
    parent, child = pty.openpty()
    program = (
        "from fer_edge.commands.progress import show_progress\n"
        "with show_progress() as show:\n"
        "    show('reading [a]', 1, 2); show('counting', 7, 0); show('reading [a]', 2, 2)\n"
    )
    done = subprocess.Popen(
        [sys.executable, "-c", program], stderr=child, env={**os.environ, "TERM": "xterm"}
    )
    os.close(child)
    shown = b""
    while True:
        try:
            part = os.read(parent, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(parent)
    assert done.wait() == 0
    text = shown.decode()
    assert "reading [a]" in text
    assert "2/2" in text
    assert "7/?" in text


def test_a_build_says_what_it_does(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fer_edge", "build", "--fp32", "--output", str(tmp_path / "a.fer")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "recording the self-test" in done.stderr.splitlines()
    assert "recording" not in done.stdout
    done = subprocess.run([*command, "--overwrite", "--quiet"], capture_output=True, text=True, check=True)
    assert done.stderr == ""

"""Show progress on standard error: a bar per stage on a terminal, else a line per stage and one every 30 s."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from fer_edge._utils.progress import Progress

#: Well below the silence of some minutes after which continuous integration ends a job.
SECONDS_BETWEEN_LINES = 30.0


class Lines:
    """Writes a line when a stage begins, and one every ``interval_s`` until it ends, even without progress reports.

    Parameters
    ----------
    stream : text file
        Stream for the lines.
    interval_s : float
        Time between lines.
    """

    def __init__(self, stream: TextIO, interval_s: float = SECONDS_BETWEEN_LINES) -> None:
        self._stream, self._interval_s = stream, interval_s
        self._began_s: dict[str, float] = {}
        self._state: tuple[str, int, int | None] | None = None
        self._said_s = time.monotonic()
        self._changed = threading.Lock()  # guards the fields above
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._repeat, name="fer-edge-progress", daemon=True)
        self._thread.start()

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        """Record that ``done`` of ``total`` are done."""
        with self._changed:
            self._state = (stage, done, total)
            if stage not in self._began_s:
                self._began_s[stage] = time.monotonic()
                self._say(stage)

    def close(self) -> None:
        """Stop writing lines."""
        self._closed.set()
        self._thread.join()

    def _repeat(self) -> None:
        wait_s = self._interval_s
        while not self._closed.wait(wait_s):
            with self._changed:
                wait_s = self._said_s + self._interval_s - time.monotonic()
                if wait_s <= 0:
                    self._say(self._describe())
                    wait_s = self._interval_s

    def _describe(self) -> str:
        if self._state is None:
            return "working"
        stage, done, total = self._state
        count = f", {done} of {total}" if total and total > 1 else f", {done}" if done > 1 else ""
        return f"{stage}{count}, {time.monotonic() - self._began_s[stage]:.0f} s"

    def _say(self, text: str) -> None:
        self._said_s = time.monotonic()
        try:
            print(text, file=self._stream, flush=True)
        except (OSError, ValueError):  # the reader has closed the pipe; the work goes on
            self._closed.set()


@contextmanager
def show_progress(quiet: bool = False) -> Iterator[Progress]:
    """Yield a callback (stage, done, total) that shows progress, or nothing with ``quiet``."""
    if quiet:
        yield lambda stage, done, total: None
    elif sys.stderr.isatty():
        with _bars() as show:
            yield show
    else:
        lines = Lines(sys.stderr)
        try:
            yield lines
        finally:
            lines.close()


@contextmanager
def _bars() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TaskID,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        SpinnerColumn(finished_text="✓"),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=Console(file=sys.stderr)) as progress:

        def show(stage: str, done: int, total: int | None) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=total or None)
            progress.update(tasks[stage], completed=done)

        yield show

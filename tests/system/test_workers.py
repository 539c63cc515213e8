"""Workers that answer, fail, crash, hang, or print unexpected output."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fer_edge
from fer_edge.system import workers
from fer_edge.system.workers import BoundedProcess, WorkerError, read_tail, run_worker

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a worker with this body of its answer function; its log is ``log``."""
    monkeypatch.syspath_prepend(tmp_path)

    def run(body: str, question: Any = None, **settings: Any) -> dict[str, Any]:
        lines = textwrap.indent(textwrap.dedent(body), "    ")
        (tmp_path / "some_worker.py").write_text(
            "import os, subprocess, sys, time\nfrom fer_edge.errors import FerEdgeError\n"
            f"from fer_edge.system.workers import serve\ndef answer(question, on_progress):\n{lines}\nserve(answer)\n"
        )
        return run_worker("some_worker", question, log=tmp_path / "log", **settings)

    return run


def failure(run: Run, body: str, **settings: Any) -> tuple[str, int | None]:
    with pytest.raises(WorkerError) as caught:
        run(body, **settings)
    return caught.value.message, caught.value.status


def test_question_progress_and_answer(run: Run) -> None:
    steps: list[tuple[str, int, int]] = []
    odd = os.fsdecode(b"caf\xe9")  # a name of a file whose bytes are not UTF-8
    answer = run(
        "for done in range(3): on_progress('parse', done, 3)\nreturn {'same': question, 'folder': os.getcwd()}",
        {"name": odd, "sizes": [1, None]},
        on_progress=lambda *step: steps.append(step),
    )
    assert answer == {"same": {"name": odd, "sizes": [1, None]}, "folder": "/"}
    assert steps == [("parse", done, 3) for done in range(3)]


def test_what_libraries_print_is_no_answer(run: Run, tmp_path: Path) -> None:
    body = """
        print('{"event": "done", "answer": {"value": 0}}', flush=True)
        os.write(1, b"native code\\n")
        subprocess.run(["echo", "a process"])
        return {"value": 1}
    """
    assert run(body) == {"value": 1}
    assert set((tmp_path / "log").read_text().splitlines()[1:]) == {"native code", "a process"}


def test_a_caller_with_many_open_files(run: Run) -> None:
    """``select`` supports only the first 1024 file descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        assert run("return {'a': 1}") == {"a": 1}
    finally:
        for file in files:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_an_error_of_ours_keeps_its_message(run: Run) -> None:
    assert failure(run, "raise FerEdgeError('expected ä, found ö')") == ("expected ä, found ö", 1)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("os.abort()", -6),
        ("os.kill(os.getpid(), 9)", -9),
        ("os._exit(0)", 0),  # without an answer
        ("raise RuntimeError('last words')", 1),
        ("return {1: object()}", 1),
    ],
)
def test_a_worker_that_ends_without_an_answer(run: Run, tmp_path: Path, body: str, status: int) -> None:
    assert failure(run, body) == ("", status)
    if "last words" in body:
        assert read_tail(tmp_path / "log", 1) == ("RuntimeError: last words",)


@pytest.mark.parametrize(
    "written",
    ["", "Segmentation fault", "[]", "null", "[" * 50000, '{"event": "done", "answ', "x" * (3 << 20)],
)
def test_events_that_are_none(run: Run, written: str) -> None:
    """Invalid lines written to the event channel, the first free file descriptor."""
    assert run("""os.write(3, b'{"event": "done", "answer": {"a": 1}}'); os._exit(0)""") == {"a": 1}
    body = f"os.write(3, {written.encode()!r}); os._exit(0)"
    if len(written) > 1 << 16:
        body = f"sys.stdin.close(); file = os.fdopen(3, 'wb'); file.write(b'x' * {len(written)}); file.close(); os._exit(0)"
    assert failure(run, body) == ("", 0)


def test_a_worker_that_hangs_ends_with_all_that_it_started(run: Run, tmp_path: Path) -> None:
    marker, started = tmp_path / "marker", time.monotonic()
    body = f"subprocess.Popen(['sh', '-c', 'sleep 2; touch {marker}'])\non_progress('asleep', 0, 1)\ntime.sleep(60)"
    assert failure(run, body, limit_s=1.5) == ("", None)
    assert time.monotonic() - started < 50
    time.sleep(2.5)
    assert not marker.exists()


def test_a_child_that_outlives_the_worker_is_not_waited_for_beyond_the_limit(run: Run) -> None:
    body = "subprocess.Popen(['sleep', '60'], pass_fds=[3])\nreturn {}"
    assert failure(run, body, limit_s=1.5) == ("", None)


def test_an_error_of_the_caller_ends_the_worker(run: Run, tmp_path: Path) -> None:
    def interrupt(*step: object) -> None:
        raise KeyboardInterrupt

    body = f"on_progress('begun', 0, 1)\ntime.sleep(2)\nopen({str(tmp_path / 'marker')!r}, 'w')"
    with pytest.raises(KeyboardInterrupt):
        run(body, on_progress=interrupt)
    time.sleep(2.5)
    assert not (tmp_path / "marker").exists()


def test_the_tail_of_a_log(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"one\n\n  two \n" + b"x" * 999 + b"\n\xff\n")
    assert read_tail(tmp_path / "log", 3) == ("two", "x" * 300, "�")


def test_text_without_an_end_before_the_answer_is_no_part_of_it(run: Run, tmp_path: Path) -> None:
    (tmp_path / "chatty.py").write_text("print('hello', end='', flush=True)\n")
    body = "return {'value': 1}"
    assert run(body) == {"value": 1}
    worker = tmp_path / "some_worker.py"
    worker.write_text("import chatty\n" + worker.read_text())
    assert run_worker("some_worker", None) == {"value": 1}


def test_the_package_is_found_where_the_caller_found_it_and_nothing_else(tmp_path: Path) -> None:
    """A copy that only the caller's search path names; modules of the user's folder are not taken for Python's."""
    (tmp_path / "place").mkdir()
    (tmp_path / "place" / "fer_edge").symlink_to(Path(fer_edge.__file__).parent)
    (tmp_path / "user").mkdir()
    for name in ("select", "typing", "json"):
        (tmp_path / "user" / f"{name}.py").write_text("raise SystemExit('a module of the user')\n")
    program = (
        f"import sys; sys.path[:] = [p for p in sys.path if p]; sys.path.insert(0, {str(tmp_path / 'place')!r})\n"
        "from pathlib import Path\n"
        "from fer_edge.system.workers import run_worker\n"
        f"print(run_worker('fer_edge.doctor.inventory', 'python', folder=Path({str(tmp_path / 'user')!r})))\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], cwd=tmp_path / "user", capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "user")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "version" in done.stdout


def test_a_line_without_an_end_does_not_fill_the_memory() -> None:
    code = f"import sys; sys.stdout.write('x' * {5 << 20}); sys.stdout.write('\\nlast')"
    with BoundedProcess([sys.executable, "-c", code], 60.0) as process:
        *parts, last = process.lines()
    assert last == b"last"
    assert b"".join(parts) == b"x" * (5 << 20)
    assert max(map(len, parts)) <= workers._MAX_LINE_BYTES + workers._BLOCK_BYTES


def start(tmp_path: Path, body: str, parent: int) -> subprocess.Popen[str]:
    """Start a worker as its parent does; ``parent`` is the process that the request names."""
    (tmp_path / "some_worker.py").write_text(
        f"import os, time\nfrom fer_edge.system.workers import serve\ndef answer(question, on_progress):\n    {body}\nserve(answer)\n"
    )
    path = os.pathsep.join([str(tmp_path), str(Path(fer_edge.__file__).resolve().parents[1])])
    process = subprocess.Popen(
        [sys.executable, "-m", "some_worker"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(json.dumps({"parent": parent, "question": None}))
    process.stdin.close()
    return process


def test_a_worker_ends_by_sigpipe_when_nobody_reads(tmp_path: Path) -> None:
    """Not by an error of Python, which native code that prints would not raise."""
    body = "[(on_progress('s', i, 9), time.sleep(0.01)) for i in range(6000)]"
    with start(tmp_path, body, os.getpid()) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "\n"
        process.stdout.close()
        assert process.wait(60) == -signal.SIGPIPE
        assert process.stderr.read() == ""


def test_a_worker_of_another_parent_does_nothing(tmp_path: Path) -> None:
    """The parent may have ended before the kernel was asked to kill the worker with it."""
    marker = tmp_path / "marker"
    with start(tmp_path, f"open({str(marker)!r}, 'w').close()", os.getppid()) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read() == "\n"
        assert process.stderr.read() == "the parent process has ended\n"
        assert process.wait(60) == 1
    assert not marker.exists()


def test_a_worker_ends_with_its_parent(tmp_path: Path) -> None:
    """Also if the parent is killed, and cannot end its workers."""
    pid_file = tmp_path / "pid"
    (tmp_path / "some_worker.py").write_text(
        "import os, pathlib, time\nfrom fer_edge.system.workers import serve\n"
        f"def answer(question, on_progress):\n    pathlib.Path({str(pid_file)!r}).write_text(f'{{os.getpid()}}\\n')\n"
        "    time.sleep(300)\nserve(answer)\n"
    )
    code = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(Path(fer_edge.__file__).resolve().parents[1])!r}]\n"
        "from fer_edge.system.workers import run_worker\nrun_worker('some_worker', None)"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as parent:
        until_s = time.monotonic() + 60
        while not (pid_file.exists() and pid_file.read_text().endswith("\n")):
            assert time.monotonic() < until_s
            time.sleep(0.02)
        parent.kill()
    worker = int(pid_file.read_text())
    try:
        while is_running(worker):
            assert time.monotonic() < until_s
            time.sleep(0.02)
    finally:
        if is_running(worker):
            os.kill(worker, signal.SIGKILL)


def is_running(pid: int) -> bool:
    """Return whether a process exists and has not ended; an orphan may stay a zombie without an init process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False

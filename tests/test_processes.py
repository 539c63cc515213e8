"""The command line as a process: names, encodings, pipes, signals, and users without a home."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

import fer_edge
from fer_edge._utils.files import cache_folder
from fer_edge.errors import FerEdgeError
from fer_edge.models.catalogue import MODELS_FOLDER

FER_EDGE = [sys.executable, "-m", "fer_edge"]
#: A name whose bytes are not UTF-8, which Linux allows.
ODD = os.fsdecode(b"caf\xe9")
#: Background jobs of a shell ignore SIGINT, and so do their children.
_START_WITH_SIGINT = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); from fer_edge.cli import main; sys.exit(main())"


def run(*arguments: str | Path, **settings: object) -> subprocess.CompletedProcess[str]:
    command = [*FER_EDGE, *map(str, arguments)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        **settings,  # type: ignore[call-overload]
    )


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_version(option: str) -> None:
    done = run(option)
    assert (done.returncode, done.stdout) == (0, f"fer-edge {fer_edge.__version__}\n")


def test_version_imports_nothing_else() -> None:
    code = (
        "import sys; from fer_edge.cli import main\n"
        "try: main(['--version'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'numpy', 'cv2', 'rich', 'onnx', 'onnxruntime', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def _complete(tmp_path: Path, line: str) -> list[str]:
    """Request completions as a shell does after ``register-python-argcomplete fer-edge``."""
    pytest.importorskip("argcomplete", reason="needs pip install argcomplete")
    found = tmp_path / "found"
    environment = {
        **os.environ,
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(found),
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "COMP_TYPE": "9",
    }
    done = subprocess.run(["fer-edge"], executable=_script(), env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [name.strip() for name in found.read_text().split("\n")]


def _script() -> str:
    script = Path(sys.executable).with_name("fer-edge")
    if not script.is_file():
        pytest.skip("fer-edge is not installed beside this Python")
    return str(script)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("fer-edge bui", "build"),
        ("fer-edge run --so", "--source"),
        ("fer-edge build --model resmasking-n", "resmasking-nodropout"),
        ("fer-edge inspect def", "default"),
        ("fer-edge run --detector yu", "yunet"),
        ("fer-edge run --backend onnxruntime-c", "onnxruntime-cuda"),
        ("fer-edge run --precision f", "fp32"),
    ],
)
def test_completion(tmp_path: Path, line: str, expected: str) -> None:
    assert expected in _complete(tmp_path, line)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize("arguments", [("models",), ("inspect", "default"), ("run", "--source", "PHOTO")])
def test_a_terminal_of_few_letters(encoding: str, arguments: tuple[str, ...], astronaut_file: Path) -> None:
    given = [str(astronaut_file) if a == "PHOTO" else a for a in arguments]
    done = run(*given, env={**os.environ, "PYTHONIOENCODING": encoding})
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("arguments", [["models", "--json"], ["models"], ["inspect", "default"]])
def test_a_reader_that_closes_the_pipe_is_no_error(arguments: list[str]) -> None:
    with subprocess.Popen([*FER_EDGE, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 141


def test_lines_into_a_closed_pipe_keep_the_pictures(tmp_path: Path, astronaut: np.ndarray) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(40):
        cv2.imwrite(str(photos / f"{i}.png"), astronaut)
    command = [*FER_EDGE, "run", "--source", str(photos), "--jsonl", "-", "--output", str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["schema"] == "fer-edge/frames"
        process.stdout.close()
        assert process.stderr.read() == "finding faces\n"
        assert process.wait() == 141
    assert list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_prints_its_summary(
    number: signal.Signals, code: int, tmp_path: Path, astronaut: np.ndarray
) -> None:
    (tmp_path / "photos").mkdir()
    for i in range(60):
        cv2.imwrite(str(tmp_path / "photos" / f"{i}.png"), astronaut)
    lines, output = tmp_path / "faces.jsonl", tmp_path / "out"
    arguments = ("run", "visual-attention", "--source", str(tmp_path / "photos"), "--output", str(output))
    command = [sys.executable, "-c", _START_WITH_SIGINT, *arguments, "--jsonl", str(lines), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        until_s = time.monotonic() + 120
        while time.monotonic() < until_s and (not lines.exists() or lines.read_text().count("\n") < 4):
            time.sleep(0.02)
        process.send_signal(number)
        value = json.loads(process.stdout.read())
        rest = process.stderr.read()
        assert process.wait(60) == code, rest
    assert "Traceback" not in rest
    _header, *frames = lines.read_text().splitlines()
    assert value["interrupted"]
    assert 3 <= value["frames"] == value["faces"] < 60
    assert value["frames"] <= len(frames) <= value["frames"] + 1
    assert value["latency_ms"]["total"]["n"] >= value["frames"]
    assert value["written"] == [str(output), str(lines)]
    assert len(list(output.iterdir())) >= value["frames"]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)]
)
def test_signals_end_a_build_and_leave_nothing(tmp_path: Path, number: signal.Signals, code: int) -> None:
    (tmp_path / "tmp").mkdir()
    command = [
        sys.executable,
        "-c",
        _START_WITH_SIGINT,
        "build",
        "--int8",
        "--output",
        str(tmp_path / "a.fer"),
    ]
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        process.stderr.readline()  # the first stage has begun
        time.sleep(0.5)
        process.send_signal(number)
        rest = process.stderr.read()
        assert process.wait(60) == code, rest
    assert "Traceback" not in rest
    assert [p.name for p in tmp_path.iterdir()] == ["tmp"]
    assert list((tmp_path / "tmp").iterdir()) == []


def test_an_ignored_signal_stays_ignored() -> None:
    code = (
        "import signal, os; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from fer_edge import cli\n"
        "with cli._signals(): os.kill(os.getpid(), signal.SIGHUP); print('lives')\n"
        "assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "lives\n"


_NOBODY = "def nobody(number): raise KeyError(number)\n"


def _without_home(code: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Run as a user without an entry in the user database, as in containers, if the process may change its user."""
    environment = {
        k: v for k, v in os.environ.items() if k not in ("HOME", "XDG_CACHE_HOME", "FER_EDGE_CACHE")
    }
    environment["TMPDIR"] = str(tmp_path)
    return subprocess.run(
        [sys.executable, "-c", f"import pwd\n{_NOBODY}pwd.getpwuid = nobody\n{code}"],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    "arguments", [["run", "--source", "PHOTO"], ["doctor"], ["eval", "default", "--data", "none"]]
)
def test_a_user_without_home(arguments: list[str], tmp_path: Path, astronaut_file: Path) -> None:
    given = [str(astronaut_file) if a == "PHOTO" else a for a in arguments]
    done = _without_home(f"import sys; from fer_edge.cli import main; sys.exit(main({given!r}))", tmp_path)
    assert "Traceback" not in done.stderr
    assert done.returncode == (1 if "eval" in arguments else 0), done.stderr
    assert {p.name for p in tmp_path.iterdir()} <= {f"fer-edge-{os.getuid()}"}


@pytest.mark.parametrize("home", ["", "relative", None])
def test_the_cache_is_never_beside_the_work(
    home: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("XDG_CACHE_HOME", "FER_EDGE_CACHE", "HOME"):
        monkeypatch.delenv(name, raising=False)
    if home is not None:
        monkeypatch.setenv("HOME", home)
    monkeypatch.chdir(tmp_path)
    assert cache_folder().is_absolute()
    assert not cache_folder().is_relative_to(tmp_path)


@pytest.mark.parametrize("spoil", ["link", "others may write", "another's"])
def test_a_temporary_cache_of_somebody_else_is_refused(
    spoil: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("XDG_CACHE_HOME", "FER_EDGE_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "relative")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = cache_folder()
    assert folder.stat().st_mode & 0o777 == 0o700
    if spoil == "link":
        folder.rmdir()
        folder.symlink_to("/")
    elif spoil == "others may write":
        folder.chmod(0o777)
    else:
        monkeypatch.setattr(os, "getuid", lambda: 4_000_000)
        (tmp_path / "fer-edge-4000000").mkdir()
    with pytest.raises(FerEdgeError, match="set FER_EDGE_CACHE"):
        cache_folder()


@pytest.fixture
def odd(tmp_path: Path, astronaut: np.ndarray) -> Path:
    """A folder whose name is not UTF-8, with a picture and a video."""
    folder = tmp_path / ODD
    folder.mkdir()
    (folder / "a.png").write_bytes(cv2.imencode(".png", astronaut)[1].tobytes())
    writer = cv2.VideoWriter(str(tmp_path / "a.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, (512, 512))
    for _ in range(3):
        writer.write(astronaut)
    writer.release()
    (tmp_path / "a.mp4").rename(folder / "a.mp4")
    return folder


@pytest.mark.parametrize(
    "arguments",
    [
        lambda odd: (
            "run",
            "--source",
            odd / "a.png",
            "--output",
            odd / "out.png",
            "--jsonl",
            odd / "l.jsonl",
        ),
        lambda odd: ("run", "--source", odd / "a.mp4", "--output", odd / "out.mp4", "--json"),
        lambda odd: ("run", odd / "copy.fer", "--source", odd, "--output", odd / "pictures", "--jsonl", "-"),
        lambda odd: (
            "explain",
            odd / "copy.fer",
            odd / "a.png",
            "--output",
            odd / "e.png",
        ),
        lambda odd: ("inspect", odd / "copy.fer"),
        lambda odd: ("build", "--fp32", "--weights", odd / "w.safetensors", "--output", odd / "b.fer"),
        lambda odd: ("export", "--weights", odd / "w.safetensors", "--output", odd / "m.onnx"),
        lambda odd: ("eval", odd / "copy.fer", "--data", odd / "data", "--output", odd / "figures"),
    ],
    ids=["picture", "video", "folder", "explain", "inspect", "build", "export", "eval"],
)
def test_names_that_are_not_utf8(odd: Path, arguments: Callable[[Path], tuple[str | Path, ...]]) -> None:
    models = f"{MODELS_FOLDER}/"
    shutil.copytree(models + "conv-attention.fer", odd / "copy.fer")
    shutil.copy(models + "conv-attention.safetensors", odd / "w.safetensors")
    (odd / "data" / "happy").mkdir(parents=True)
    shutil.copy(odd / "a.png", odd / "data" / "happy" / "a.png")
    done = run(*arguments(odd))
    assert "Traceback" not in done.stderr
    assert done.returncode == 0, done.stderr


def test_an_unreadable_picture_does_not_stop_a_folder(tmp_path: Path, astronaut: np.ndarray) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.png", "c.png"):
        cv2.imwrite(str(photos / name), astronaut)
    (photos / "b.png").write_bytes((photos / "a.png").read_bytes()[:50])
    arguments = ("run", "--source", photos, "--output", tmp_path / "out", "--jsonl", tmp_path / "l.jsonl")
    done = run(*arguments)
    assert done.returncode == 1
    assert "Unreadable" in done.stdout
    assert "photos/b.png is not an image" in done.stdout
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"a.png", "c.png"}
    assert len((tmp_path / "l.jsonl").read_text().splitlines()) == 3
    done = run(*arguments, "--skip-bad", "--json")
    assert done.returncode == 0
    assert len(json.loads(done.stdout)["unreadable"]) == 1


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_streams_that_the_caller_has_closed(closed: str, tmp_path: Path, astronaut_file: Path) -> None:
    lines = tmp_path / "l.jsonl"
    command = f"{sys.executable} -m fer_edge run --source {astronaut_file} --jsonl {lines} {closed}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert len(lines.read_text().splitlines()) == 2


def test_the_bundle_that_ships_is_not_overwritten(astronaut_file: Path) -> None:
    manifest = MODELS_FOLDER / "conv-attention.fer" / "manifest.json"
    before = manifest.read_bytes()
    done = run("run", "--source", astronaut_file, "--jsonl", manifest)
    assert done.returncode == 2
    assert "would overwrite the input" in done.stderr
    assert manifest.read_bytes() == before


def test_an_empty_source_is_not_the_working_folder(tmp_path: Path) -> None:
    done = run("run", "--source", "", cwd=tmp_path)
    assert done.returncode == 1
    assert "the source is an empty string" in done.stderr

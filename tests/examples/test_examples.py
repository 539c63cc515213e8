"""Every example runs as its docstring says, on real pictures and videos."""

from __future__ import annotations

import csv
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from crowds import draw_crowds
from places import ROOT
from web_server import Behaviour, serving

from fer_edge import Face, FrameResult, open_bundle

EXAMPLES = ROOT / "examples"
SCRIPTS = sorted(EXAMPLES.rglob("*.py"))


def run(
    name: str, *arguments: object, code: int = 0, folder: Path | None = None, **settings: str | Path
) -> subprocess.CompletedProcess:
    """Run an example, in ``folder`` and with ``settings`` in its environment; require its exit code."""
    command = [sys.executable, "-W", "error", EXAMPLES / name, *map(str, arguments)]
    environment = {**os.environ, **{key: str(value) for key, value in settings.items()}}
    result = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, check=False)
    assert result.returncode == code, result.stdout + result.stderr
    return result


def write_video(path: Path, frames: Sequence[np.ndarray]) -> Path:
    """Write frames of equal size, as a camera would give them."""
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (width, height))
    for frame in frames:
        writer.write(frame)
    writer.release()
    return path


def write_stream(frames: Sequence[np.ndarray]) -> bytes:
    """Return frames as a network camera sends them: JPEG after JPEG (multipart/x-mixed-replace)."""
    parts = [cv2.imencode(".jpg", frame)[1].tobytes() for frame in frames]
    heads = (f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(part)}\r\n\r\n" for part in parts)
    return b"".join(head.encode() + part + b"\r\n" for head, part in zip(heads, parts, strict=True))


@pytest.fixture
def two_seats(astronaut: np.ndarray) -> np.ndarray:
    """A face on each half."""
    return np.hstack([astronaut, astronaut])


def test_the_readme_lists_every_example() -> None:
    table = set(re.findall(r"^\| \[`([\w./]+)`\]", (EXAMPLES / "README.md").read_text(), re.MULTILINE))
    assert table == {path.name for path in EXAMPLES.glob("*.py")} | {"cpp/"}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_an_example_is_short_and_says_how_it_is_run(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    assert text.count("\n") <= 90
    assert f"python {script.relative_to(ROOT)} " in text.split('"""')[1]


def test_photograph(astronaut_file: Path, astronaut: np.ndarray, tmp_path: Path) -> None:
    found = tmp_path / "found.png"
    first, last = run("photograph.py", astronaut_file, "--output", found).stdout.splitlines()
    left, right, top, bottom = map(int, re.findall(r"\d+", first)[:4])
    assert 170 < left < right < 280
    assert 50 < top < bottom < 185
    assert re.search(r": happiness (0\.9\d|1\.00)$", first)
    assert last.startswith("faces: 1, ")
    changed = (cv2.imread(str(found)) != astronaut).any(axis=2)
    assert changed[top - 2 : top + 3, left:right].any()
    assert not changed[: top - 10].any()


def test_folder_to_csv(astronaut: np.ndarray, tmp_path: Path) -> None:
    folder, table = tmp_path / "pictures", tmp_path / "faces.csv"
    folder.mkdir()
    for number, picture in enumerate(draw_crowds(astronaut, 3)):  # of 0, 1 and 2 faces
        cv2.imwrite(str(folder / f"{number}.png"), picture)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    assert "broken.jpg" in run("folder_to_csv.py", folder, table, code=1).stderr
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["picture"] for row in rows] == ["0.png", "1.png", "2.png", "2.png"]
    assert set(rows[0].values()) == {"0.png", ""}
    for row in rows[1:]:
        probabilities = [float(value) for value in list(row.values())[7:]]
        assert sum(probabilities) == pytest.approx(1, abs=1e-3)
        assert int(row["left"]) < int(row["right"])


def test_robot_loop(astronaut: np.ndarray, tmp_path: Path) -> None:
    video = write_video(tmp_path / "camera.avi", [astronaut, np.zeros_like(astronaut), astronaut, astronaut])
    lines = run("robot_loop.py", "--source", video, "--max-age-ms", 60_000, "--frames", 3).stdout.splitlines()
    endings = [line.partition("dropped: ")[2] for line in lines]
    assert endings == ["happiness → approach", "nobody → stop", "happiness → approach"]
    (late,) = run("robot_loop.py", "--source", video, "--max-age-ms", 0, "--frames", 1).stdout.splitlines()
    assert late.endswith("happiness → stop")


@pytest.mark.parametrize(("before", "then"), [("approach", "stop"), ("retreat", "retreat"), ("stop", "stop")])
def test_the_robot_comes_no_nearer_where_the_expression_is_not_certain(before: str, then: str) -> None:
    decide = runpy.run_path(str(EXAMPLES / "robot_loop.py"))["decide"]
    face = Face((0, 0, 50, 50), 1.0, None, 0.5, {"happiness": 0.5, "anger": 0.5}, reason="uncertain")
    assert decide(FrameResult(0, 0.0, 10.0, 0, (face,)), 100.0, before) == then
    assert decide(FrameResult(0, 0.0, 101.0, 0, (face,)), 100.0, before) == "stop"


def test_in_cabin_monitor_writes_nothing_of_anybody(two_seats: np.ndarray, tmp_path: Path) -> None:
    video = write_video(tmp_path / "cabin.avi", [two_seats, two_seats, np.zeros_like(two_seats)])
    home = tmp_path / "home"
    home.mkdir()
    folders = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "TMPDIR"), home)
    result = run("in_cabin_monitor.py", "--source", video, "--frames", 3, folder=home, **folders)
    assert result.stdout.splitlines() == [
        "passenger: happiness",
        "driver: happiness",
        "passenger: empty",
        "driver: empty",
    ]
    written = [path for path in home.rglob("*") if path.is_file()]
    assert {path.suffix for path in written} <= {".onnx"}  # networks of the detector


def test_in_cabin_monitor_abstains(two_seats: np.ndarray, tmp_path: Path) -> None:
    two_seats[:, 512:] = 0
    video = write_video(tmp_path / "cabin.avi", [two_seats])
    options = ("--source", video, "--frames", 1, "--min-probability", 1)
    lines = run("in_cabin_monitor.py", *options).stdout.splitlines()
    assert lines == ["passenger: unknown (uncertain)", "driver: empty"]


def test_in_cabin_monitor_reads_the_largest_face_of_a_seat() -> None:
    read_seats = runpy.run_path(str(EXAMPLES / "in_cabin_monitor.py"))["read_seats"]
    large, small = (
        Face((600, 0, 600 + side, side), 1.0, label, 1.0, {label: 1.0})
        for side, label in ((200, "happiness"), (50, "anger"))
    )
    seats = read_seats(FrameResult(0, 0.0, 10.0, 0, (large, small)), 1000)
    assert seats == {"passenger": "empty", "driver": "happiness"}


def test_in_cabin_monitor_opens_the_camera_again(two_seats: np.ndarray, tmp_path: Path) -> None:
    video = write_video(tmp_path / "cabin.avi", [two_seats])
    result = run("in_cabin_monitor.py", "--source", f"file://{video}", "--attempts", 2, "--frames", 5)
    states = [line.partition(": ")[2] for line in result.stdout.splitlines()]
    seen, lost = ["happiness"] * 2, ["unknown (no picture)"] * 2
    assert states == [*seen, *lost, *seen, *lost, *seen]
    assert result.stderr == "the camera ended\n" * 2


def test_in_cabin_monitor_gives_up_without_a_camera(tmp_path: Path) -> None:
    address = f"file://{tmp_path / 'none.avi'}"
    result = run("in_cabin_monitor.py", "--source", address, "--attempts", 2, code=1)
    assert result.stderr.count("cannot be opened") == 2
    assert result.stderr.splitlines()[-1].startswith("the camera failed 2 times in a row. Fix: ")
    assert result.stdout.splitlines() == ["passenger: unknown (no picture)", "driver: unknown (no picture)"]


def test_in_cabin_monitor_watches_a_video_once(two_seats: np.ndarray, tmp_path: Path) -> None:
    video = write_video(tmp_path / "cabin.avi", [two_seats])
    result = run("in_cabin_monitor.py", "--source", video)
    assert result.stdout.splitlines() == ["passenger: happiness", "driver: happiness"]
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("photograph.py", ["none.png"]),
        ("folder_to_csv.py", ["none", "faces.csv"]),
        ("robot_loop.py", ["--source", "none.avi"]),
        ("in_cabin_monitor.py", ["--source", "none.avi"]),
        ("own_backend.py", ["none.png"]),
        ("cpp/golden.py", ["none.fer", "golden"]),
    ],
)
def test_an_error_is_one_line_and_exit_1(name: str, arguments: list[str], tmp_path: Path) -> None:
    result = run(name, *arguments, code=1, folder=tmp_path, PYTHONPATH=ROOT)
    assert re.fullmatch(r"[^\n]*none[^\n]* Fix: [^\n]+\n", result.stderr)


@pytest.mark.slow
def test_in_cabin_monitor_notices_a_camera_that_stalls(two_seats: np.ndarray) -> None:
    body = write_stream([two_seats] * 8)
    stalls = Behaviour(
        headers={"Content-Type": "multipart/x-mixed-replace; boundary=frame", "Content-Length": None},
        body=body,
        pause_at=len(body),
        pause_s=40,
    )
    with serving({"/cabin": b""}) as server:
        server.always = stalls
        address = f"{server.address}/cabin"
        result = run("in_cabin_monitor.py", "--source", address, "--attempts", 1, code=1)
    assert "gave no frame for 5 s" in result.stderr
    assert result.stdout.splitlines() == [
        "passenger: happiness",
        "driver: happiness",
        "passenger: unknown (no picture)",
        "driver: unknown (no picture)",
    ]


@pytest.mark.slow
def test_own_network(astronaut_file: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "own.fer"
    options = ("--output", bundle, "--weights", tmp_path / "own.safetensors")
    first, *faces = run("own_network.py", astronaut_file, *options).stdout.splitlines()
    assert float(re.search(r"([\d.]+)% of the faces", first)[1]) > 90
    assert len(faces) == 1
    manifest = open_bundle(bundle).manifest
    assert (manifest.spec.network, manifest.precision) == ("own-network", "int8")
    assert "model.int8.cpu.onnx" in manifest.files


def test_own_backend(astronaut_file: Path) -> None:
    first, face = run("own_backend.py", astronaut_file).stdout.splitlines()
    assert re.fullmatch(r"fp32 on opencv: self-test passed, error \d\.\de-0[4-9]", first)
    assert face.startswith("happy: 0.")

"""The command line from the user's side: output, exit codes and files on disk."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from fer_edge.cli import COMMANDS, main
from fer_edge.detection import create_detector
from fer_edge.detection.base import Detector, DetectorOptions
from fer_edge.models.catalogue import shipped_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A copy of the shipped bundle, to be damaged."""
    return Path(shutil.copytree(shipped_bundle(), tmp_path / "copy.fer"))


def test_demo_builds_runs_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--output", str(tmp_path / "demo"), "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["build"]["precision"] == value["run"]["precision"] == "int8"
    assert value["run"]["results"][0]["faces"][0]["label"] == "happiness"
    assert cv2.imread(str(tmp_path / "demo" / "annotated.png")).shape == (512, 512, 3)


def test_run_as_a_process(tmp_path: Path, astronaut_file: Path) -> None:
    output, lines = tmp_path / "out.png", tmp_path / "faces.jsonl"
    command = [sys.executable, "-m", "fer_edge.cli", "run", "--source", str(astronaut_file)]
    result = subprocess.run(
        [*command, "--output", str(output), "--jsonl", str(lines)], capture_output=True, text=True, check=True
    )
    assert "happiness" in result.stdout
    assert result.stderr == "finding faces\n"
    header, line = lines.read_text().splitlines()
    assert json.loads(header)["info"]["self_test"]["mode"] == "passed"
    assert json.loads(line)["faces"][0]["label"] == "happiness"
    annotated, original = cv2.imread(str(output)), cv2.imread(str(astronaut_file))
    assert annotated.shape == original.shape
    assert 0 < (annotated != original).any(axis=2).mean() < 0.2


def test_run_over_a_video_writes_a_video(
    tmp_path: Path, astronaut: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    video, output = tmp_path / "in.mp4", tmp_path / "out.mp4"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"mp4v"), 12, (512, 512))
    for shift in range(4):
        writer.write(np.roll(astronaut, 8 * shift, axis=1))
    writer.release()
    assert main(["run", "--source", str(video), "--output", str(output), "--jsonl", "-"]) == 0
    captured = capsys.readouterr()
    header, *frames = (json.loads(line) for line in captured.out.splitlines())
    assert header["schema"] == "fer-edge/frames"
    assert [frame["index"] for frame in frames] == [0, 1, 2, 3]
    assert json.loads(captured.err.splitlines()[-1])["frames"] == 4
    capture = cv2.VideoCapture(str(output))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 4
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(12)


def test_rows_of_a_video_carry_index_and_time(
    tmp_path: Path, astronaut: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    video = tmp_path / "in.mp4"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"mp4v"), 10, (512, 512))
    for _ in range(3):
        writer.write(astronaut)
    writer.release()
    assert main(["run", "--source", str(video)]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if "×" in line]
    assert [row.split("│")[1].strip() for row in rows] == ["0, 0.00 s", "1, 0.10 s", "2, 0.20 s"]


@pytest.mark.parametrize("source", ["97", "rtsp://127.0.0.1:9/a"])
def test_a_camera_that_does_not_open_fails_before_the_network_is_loaded(
    source: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import fer_edge.runtime

    monkeypatch.setattr(fer_edge.runtime, "Runtime", lambda *arguments: pytest.fail("the network was loaded"))
    assert main(["run", "--source", source]) == 1
    assert "cannot be opened. Fix: " in capsys.readouterr().err


def test_demo_reads_its_photograph_before_it_builds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("none.png", "text.png"):
        (tmp_path / "text.png").write_text("no picture")
        assert main(["demo", "--image", str(tmp_path / name), "--output", str(tmp_path / "demo")]) == 1
        error = capsys.readouterr().err
        assert name in error
        assert "Fix: " in error
        assert error.count("\n") == 1  # no stage of a build
    assert not (tmp_path / "demo").exists()


def test_a_relative_folder_is_named(
    tmp_path: Path, astronaut_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine" / "happy").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "mine")
    assert main(["eval", "visual-attention", "--data", ".", "-q"]) == 1
    assert f"{tmp_path / 'mine'} holds no pictures" in capsys.readouterr().err
    shutil.copy(astronaut_file, tmp_path / "mine" / "happy")
    assert main(["eval", "visual-attention", "--data", ".", "--json", "-q"]) == 0
    assert json.loads(capsys.readouterr().out)["data"] == "mine"


def test_run_turns_frames_of_a_camera_on_its_side(
    tmp_path: Path, astronaut: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    upright, side = tmp_path / "upright.png", tmp_path / "side.png"
    cv2.imwrite(str(upright), astronaut)
    cv2.imwrite(str(side), cv2.rotate(astronaut, cv2.ROTATE_90_COUNTERCLOCKWISE))
    found = []
    for arguments in ((upright,), (side, "--rotate", "90"), (side, "--rotate", "auto")):
        assert main(["run", "--json", "--source", *map(str, arguments)]) == 0
        (face,) = json.loads(capsys.readouterr().out)["results"][0]["faces"]
        found.append(face)
    left, top, right, bottom = found[0]["box_xyxy"]
    for face in found[1:]:
        assert face["label"] == found[0]["label"] == "happiness"
        assert face["box_xyxy"] == pytest.approx([top, 512 - right, bottom, 512 - left], abs=0.11)


@pytest.mark.parametrize(("given", "of_video"), [((), 0.125), (("--turned-looks", "1.5"), 1.5)])
def test_run_looks_at_few_turned_frames_of_a_video(
    given: tuple[str, ...], of_video: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The options of the detector are those that the runtime got."""
    asked: list[float] = []

    def remember(name: str, options: DetectorOptions) -> Detector:
        asked.append(options.turned_looks)
        return create_detector(name, options)

    monkeypatch.setattr("fer_edge.runtime.runtime.create_detector", remember)
    picture, video = tmp_path / "a.png", tmp_path / "a.avi"
    cv2.imwrite(str(picture), np.zeros((64, 64, 3), np.uint8))
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"MJPG"), 12, (64, 64))
    writer.write(np.zeros((64, 64, 3), np.uint8))
    writer.release()
    for source in (picture, video):
        assert main(["run", "--quiet", "--no-tracking", "--source", str(source), *given]) == 0
    assert asked == [float(given[1]) if given else 2, of_video]


def test_eval_writes_figures_and_a_picture(
    tmp_path: Path, shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = []
    for i, row in enumerate(_rows(shared / "data/fer2013/fer2013.csv.gz")):
        if i in (0, *range(4, 40)):
            lines.append(row)
    (tmp_path / "fer2013.csv").write_text("".join(lines))
    arguments = [
        "eval",
        "default",
        "--data",
        str(tmp_path / "fer2013.csv"),
        "--output",
        str(tmp_path / "out"),
    ]
    assert main([*arguments, "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["metrics"]["count"] == 36
    assert 0 <= value["metrics"]["accuracy"] <= 1
    assert cv2.imread(str(tmp_path / "out" / "confusion.png")) is not None
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["metrics"]["count"] == 36


def test_eval_on_photographs_uses_a_detector(
    shared: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    source = shared / "data/faces_in_context"
    rows = (source / "legend.csv").read_text().splitlines()[:9]
    (tmp_path / "legend.csv").write_text("\n".join(rows) + "\n")
    for row in rows[1:]:
        name = row.split(",")[0]
        shutil.copy(source / "images" / name, tmp_path / name)
    assert main(["eval", "default", "--data", str(tmp_path), "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["metrics"]["count"] + value["no_face"] == 8


def _rows(path: Path) -> list[str]:
    import gzip

    with gzip.open(path, "rt") as file:
        return [next(file) for _ in range(40)]


@pytest.mark.parametrize("command", ["models", "doctor", "inspect"])
def test_commands_that_only_show(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [command, *(["default"] if command == "inspect" else [])]
    assert main(arguments) == 0
    assert capsys.readouterr().out.strip()
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)


def test_export_writes_onnx(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = shipped_bundle().parent / "conv-attention.safetensors"
    output = tmp_path / "m.onnx"
    assert main(["export", "--weights", str(weights), "--output", str(output), "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["max_abs_difference"] <= 1e-4
    assert output.stat().st_size > 1e6


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert "--json" in capsys.readouterr().out


def _flip(bundle: Path) -> None:
    data = bytearray((bundle / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / "model.onnx").write_bytes(data)


def _edit(change: Callable[[dict], None]) -> Callable[[Path], None]:
    def damage(bundle: Path) -> None:
        value = json.loads((bundle / "manifest.json").read_text())
        change(value)
        (bundle / "manifest.json").write_text(json.dumps(value))

    return damage


def _escape(value: dict) -> None:
    value["files"]["../outside"] = {"size": 0, "sha256": "0" * 64}


def _next_version(value: dict) -> None:
    value["format_version"] = 3


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_flip, "model.onnx does not match its sha256"),
        (_edit(_next_version), "format version 3"),
        (_edit(_escape), "lies outside the bundle"),
        (lambda b: (b / "model.onnx").unlink(), "model.onnx is missing"),
        (lambda b: (b / "manifest.json").write_text("{"), "cannot be read"),
        (lambda b: shutil.rmtree(b), "does not exist"),
    ],
    ids=["flipped-byte", "version", "escape", "missing", "manifest", "absent"],
)
def test_a_damaged_bundle_is_one_line_and_exit_1(
    bundle: Path, astronaut_file: Path, damage: Callable[[Path], None], message: str,
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    damage(bundle)
    output = tmp_path / "out.png"
    assert main(["run", str(bundle), "--source", str(astronaut_file), "--output", str(output)]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not output.exists()


def _sources(folder: Path) -> dict[str, str]:
    (folder / "empty").mkdir()
    (folder / "text.jpg").write_text("this is no image")
    (folder / "zero.png").write_bytes(b"")
    (folder / "text.mp4").write_text("this is no video")
    return {
        "not an image that OpenCV can decode": str(folder / "text.jpg"),
        "is not an image": str(folder / "zero.png"),
        "is not a video that OpenCV can read": str(folder / "text.mp4"),
        "holds no images": str(folder / "empty"),
        "does not exist": str(folder / "none.png"),
        "camera 97 cannot be opened": "97",
    }


def test_sources_that_cannot_be_read_are_one_line_and_exit_1(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for message, source in _sources(tmp_path).items():
        output = tmp_path / "output" / ("out.mp4" if source.isdecimal() else "out.png")
        assert main(["run", "--source", source, "--output", str(output)]) == 1, source
        error = capfd.readouterr().err.removeprefix("finding faces\n")
        assert message in error
        assert error.count("\n") == 1, error
        assert not output.exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["build", "--model", "resmaskin"], 2, "did you mean 'resmasking'"),
        (["build", "--weights", "missing.safetensors"], 1, "does not exist"),
        (["build", "--backend", "tensorflow"], 2, "unknown backend"),
        (
            ["build", "--method", "mse"],
            2,
            "ranges ship with conv-attention, and --method mse cannot change them",
        ),
        (["build", "--method", "entropie"], 2, "unknown calibration method .*did you mean 'entropy'"),
        (["build", "--generator", "faces"], 2, "unknown generator 'faces'. Fix: choose from drawn, leaves"),
        (["build", "--max-drop", "nan"], 2, "--max-drop: must be a number from 0 to 100, found 'nan'"),
        (["build", "--fp32", "--min-cosine", "0.99"], 2, "are for INT8, found the precision fp32"),
        (
            ["build", "--sensitivity-images", "0"],
            2,
            "--sensitivity-images: must be a whole number of at least 1, found '0'",
        ),
        (["run", "--source", "0", "--detector", "yunnet"], 2, "unknown detector .*did you mean 'yunet'"),
        (["run", "--source", "0", "--min-face", "0"], 2, "a whole number of at least 1, found '0'"),
        (
            ["run", "--source", "0", "--max-batch", "0"],
            2,
            "--max-batch: must be a whole number of at least 1",
        ),
        (["run", "--source", "x", "--jsonl", "-", "--json"], 2, "Fix: leave one out"),
        (["eval", "default", "--data", "missing.csv"], 1, "does not exist"),
        (["train", "--recipe", "conv", "--data", "x", "--output", "y"], 2, "unknown recipe"),
        (["inspect", "missing.fer"], 1, "does not exist"),
    ],
)
def test_wrong_requests(
    arguments: list[str], code: int, message: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    import re

    monkeypatch.chdir(tmp_path)
    try:
        found = main(arguments)
    except SystemExit as stopped:  # by the parser
        found = stopped.code
    assert found == code
    assert re.search(message, capfd.readouterr().err)
    assert list(tmp_path.iterdir()) == []


def test_truncated_weights_are_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (shipped_bundle().parent / "conv-attention.safetensors").read_bytes()
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(whole[: len(whole) // 2])
    assert main(["build", "--weights", str(weights), "--output", str(tmp_path / "b.fer")]) == 1
    assert "it is truncated: " in capsys.readouterr().err
    assert not (tmp_path / "b.fer").exists()


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["run"], ["build", "--int8", "--fp32"]])
def test_wrong_usage_is_exit_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [[], ["--no-tracking"], ["--classify-every", "0", "--max-faces", "1"]])
def test_the_faces_of_a_video_are_tracked_unless_asked_otherwise(
    flags: list[str], tmp_path: Path, astronaut: np.ndarray
) -> None:
    video, lines = tmp_path / "in.mp4", tmp_path / "out.jsonl"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"mp4v"), 25, (512, 512))
    for _ in range(6):
        writer.write(astronaut)
    writer.release()
    assert main(["run", "--source", str(video), "--jsonl", str(lines), "--no-tune", "--quiet", *flags]) == 0
    frames = [json.loads(line) for line in lines.read_text().splitlines()[1:]]
    tracks = [face["track_id"] for frame in frames for face in frame["faces"]]
    assert tracks == [None if flags == ["--no-tracking"] else 1] * 6
    classified = {face["classified_at_s"] for frame in frames for face in frame["faces"]}
    assert len(classified) == (2 if flags == [] else 6)


def test_a_schedule_without_tracking_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--source", "0", "--no-tracking", "--detect-every", "0"]) == 2
    assert "Fix: leave one out" in capsys.readouterr().err


def test_a_command_leaves_the_log_of_its_caller_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("fer_edge")
    before = log.level, list(log.handlers)
    for flag in ("--quiet", "-vv"):
        assert main(["models", flag]) == 0
        assert (log.level, list(log.handlers)) == before

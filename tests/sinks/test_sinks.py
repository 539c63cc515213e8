"""Sinks: image and video files, JSON Lines, and their selection."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from fer_edge import annotate
from fer_edge.errors import DataError, UsageError
from fer_edge.results import Face, FrameResult
from fer_edge.sinks import JsonLinesSink, picture_sink
from fer_edge.sinks.files import ImageFileSink, ImageFolderSink, VideoFileSink, write_image
from fer_edge.sources.files import ImageSource, VideoSource
from fer_edge.sources.live import LiveSource

PROBABILITIES = {"sad": 0.05, "happy": 0.8, "fear": 0.02, "neutral": 0.13}


def face(box: tuple[float, float, float, float], **fields: Any) -> Face:
    values = {"label": "happy", "probability": 0.8, "probabilities": PROBABILITIES, **fields}
    return Face(box, 0.9, **values)


def result(*faces: Face, index: int = 0, source: str = "") -> FrameResult:
    return FrameResult(index, 12.3456789, 1.5, 2, faces, {"total": 1.23456}, source=source)


def frame(height: int = 120, width: int = 160, value: int = 90) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def make_video(path: Path, frames: int = 3) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (32, 24))
    for _ in range(frames):
        writer.write(frame(24, 32))
    writer.release()
    return path


def read_video(path: Path) -> list[np.ndarray]:
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1])
    capture.release()
    return frames


LANDMARKS = np.array([[30, 40], [60, 40], [45, 55], [32, 70], [58, 70]], np.float32)


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv", ".mov", ".MP4"])
def test_video_has_every_frame_that_was_written(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "out" / f"a{suffix}"
    sink = VideoFileSink(path, 10)
    for index in range(7):
        sink.write(frame(48, 64, 30 * index), result(index=index))
        assert not path.exists()
    sink.close()
    frames = read_video(path)
    assert len(frames) == 7
    assert max(abs(f.mean() - 30 * i) for i, f in enumerate(frames)) < 12
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("fps", "expected"), [(None, 25.0), (0.0, 25.0), (0.01, 1.0), (30.0, 30.0), (240.0, 240.0)]
)
@pytest.mark.parametrize("size", [(2, 2), (33, 47)])
def test_video_of_any_rate(tmp_path: Path, fps: float | None, expected: float, size: tuple[int, int]) -> None:
    sink = VideoFileSink(tmp_path / "a.mp4", fps)
    for _ in range(3):
        sink.write(frame(*size, 0), result())
    sink.close()
    capture = cv2.VideoCapture(str(tmp_path / "a.mp4"))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(expected, rel=0.01)
    capture.release()
    assert len(read_video(tmp_path / "a.mp4")) == 3


def test_a_video_keeps_its_first_size(tmp_path: Path) -> None:
    sink = VideoFileSink(tmp_path / "a.avi", 10)
    for size in ((48, 64), (100, 20), (48, 64)):
        sink.write(frame(*size), result())
    sink.close()
    assert [f.shape for f in read_video(tmp_path / "a.avi")] == [(48, 64, 3)] * 3


def test_discard_leaves_nothing_new(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_text("old")
    sink = VideoFileSink(path, 10)
    sink.write(frame(), result())
    sink.discard()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("ending", ["close", "discard"])
def test_a_video_without_frames_is_no_file(tmp_path: Path, ending: str) -> None:
    sink = VideoFileSink(tmp_path / "a.mp4", 10)
    getattr(sink, ending)()
    assert list(tmp_path.iterdir()) == []


def test_discard_after_close_keeps_the_video(tmp_path: Path) -> None:
    sink = VideoFileSink(tmp_path / "a.mp4", 10)
    sink.write(frame(), result())
    sink.close()
    sink.discard()
    assert len(read_video(tmp_path / "a.mp4")) == 1


def test_a_video_that_cannot_be_written(tmp_path: Path) -> None:
    sink = VideoFileSink(tmp_path / "a.mp4", 10)
    with pytest.raises(DataError, match="cannot be written as video"):
        sink.write(frame(1, 1), result())
    assert list(tmp_path.iterdir()) == []


def test_image_file(tmp_path: Path) -> None:
    shown = result(face((20, 20, 80, 80)))
    sink = ImageFileSink(tmp_path / "new" / "a.png")
    sink.write(frame(), shown)
    sink.close()
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "new" / "a.png")), annotate(frame(), shown))


@pytest.mark.parametrize("name", ["a.xyz", "a.txt"])
def test_images_of_unknown_format(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="cannot be written as an image"):
        write_image(tmp_path / name, frame())
    assert list(tmp_path.iterdir()) == []


def test_image_folder_uses_the_source_names(tmp_path: Path) -> None:
    sink = ImageFolderSink(tmp_path / "out")
    for index, name in enumerate(["x.jpg", "y.png", "x.png", "", "../../z.png"]):
        sink.write(frame(), result(index=index, source=name))
    names = ["frame_000003.png", "x.png", "x_000002.png", "y.png", "z.png"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == names
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_image_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(DataError, match="expected a folder or a new name, found the file"):
        ImageFolderSink(tmp_path / "out")


def test_every_frame_of_a_video_gets_its_image(tmp_path: Path) -> None:
    source = VideoSource(make_video(tmp_path / "clip.avi"))
    sink = picture_sink(tmp_path / "out", source)
    for shown in source:
        sink.write(shown.image, result(index=shown.index, source=shown.name))
    source.close()
    names = [f"clip_00000{i}.png" for i in range(3)]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == names


@pytest.mark.parametrize(
    ("images", "name", "kind"),
    [
        (1, "a.png", ImageFileSink),
        (1, "A.JPG", ImageFileSink),
        (1, "folder", ImageFolderSink),
        (2, "folder", ImageFolderSink),
        (2, "a.mp4", VideoFileSink),
    ],
)
def test_choice_of_a_sink(tmp_path: Path, images: int, name: str, kind: type) -> None:
    source = ImageSource(tuple(Path("in") / f"{i}.png" for i in range(images)))
    assert isinstance(picture_sink(tmp_path / name, source), kind)


@pytest.mark.parametrize(("images", "name"), [(2, "a.png"), (1, "a.gif"), (1, "a.txt")])
def test_names_that_do_not_fit_the_source(tmp_path: Path, images: int, name: str) -> None:
    source = ImageSource((tmp_path / "in" / "x.png",) * images)
    with pytest.raises(UsageError, match="does not fit this source"):
        picture_sink(tmp_path / name, source)


def test_the_source_is_not_overwritten(tmp_path: Path) -> None:
    video = VideoSource(make_video(tmp_path / "a.avi"))
    images = ImageSource((tmp_path / "pictures" / "x.png",))
    (tmp_path / "pictures").mkdir()
    for name, source in (("a.avi", video), ("pictures/x.png", images), ("pictures/../pictures", images)):
        with pytest.raises(UsageError, match="would overwrite the source"):
            picture_sink(tmp_path / name, source)
    video.close()


def test_a_stream_can_be_written(tmp_path: Path) -> None:
    source = LiveSource(str(make_video(tmp_path / "a.avi")))
    assert isinstance(picture_sink(tmp_path / "out", source), ImageFolderSink)
    assert isinstance(picture_sink(tmp_path / "b.mp4", source), VideoFileSink)
    source.close()


def test_json_lines_have_the_documented_fields(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.jsonl"
    sink = JsonLinesSink(str(path))
    seen = face((1.26, 2, np.float32(3.14), 4), landmarks=LANDMARKS + np.float32(0.26), track_id=7)
    unsure = face((1, 2, 3, 4), label=None, reason="uncertain", probabilities={}, probability=0.0)
    sink.write(frame(), result(seen, unsure, source='a "quoted"\nname.png'))
    assert len(path.read_text().splitlines()) == 1
    sink.write(frame(), result(index=1))
    sink.close()
    first, second = (json.loads(line) for line in path.read_text().splitlines())
    assert list(first) == ["index", "source", "captured_at_s", "media_time_s", "frame_age_ms", "dropped", "state", "faces", "more_faces", "events", "timings_ms"]  # fmt: skip
    assert first["source"] == 'a "quoted"\nname.png'
    assert first["timings_ms"] == {"total": 1.235}
    assert first["state"] == "running"
    assert first["faces"][0] == {
        "box_xyxy": [1.3, 2.0, 3.1, 4.0],
        "detection_score": 0.9,
        "track_id": 7,
        "label": "happy",
        "probability": 0.8,
        "probabilities": PROBABILITIES,
        "reason": None,
        "stable_for_ms": None,
        "classified_at_s": None,
        "landmarks": [[30.3, 40.3], [60.3, 40.3], [45.3, 55.3], [32.3, 70.3], [58.3, 70.3]],
    }
    assert (first["faces"][1]["label"], first["faces"][1]["reason"]) == (None, "uncertain")
    assert (second["index"], second["faces"]) == (1, [])


def test_json_lines_begin_with_what_made_them(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    sink = JsonLinesSink(str(path), {"precision": "int8"})
    for index in range(2):
        sink.write(frame(), result(index=index))
    sink.close()
    header, *frames = (json.loads(line) for line in path.read_text().splitlines())
    assert header == {"schema": "fer-edge/frames", "schema_version": 1, "info": {"precision": "int8"}}
    assert [line["index"] for line in frames] == [0, 1]


def test_json_lines_survive_a_discard(tmp_path: Path) -> None:
    sink = JsonLinesSink(str(tmp_path / "a.jsonl"))
    sink.write(frame(), result())
    sink.discard()
    assert json.loads((tmp_path / "a.jsonl").read_text())["index"] == 0


def test_json_lines_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    sink = JsonLinesSink("-")
    sink.write(frame(), result(index=5))
    sink.close()
    print("still open")
    lines = capsys.readouterr().out.splitlines()
    assert json.loads(lines[0])["index"] == 5
    assert lines[1] == "still open"


def test_json_lines_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be written"):
        JsonLinesSink(str(tmp_path)).write(frame(), result())

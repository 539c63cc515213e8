"""Sources: real and damaged images, folders and videos, and streams, which yield only the newest frame."""

from __future__ import annotations

import itertools
import re
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from fer_edge.errors import DataError, SourceError, UnreadableFilesError, UsageError
from fer_edge.frames import Frame
from fer_edge.sources.files import ImageSource, VideoSource
from fer_edge.sources.live import LiveSource
from fer_edge.sources.open import as_source, is_live, is_video, open_source

CODECS = {".mp4": "mp4v", ".avi": "MJPG"}


def write_video(path: Path, frames: int = 20, size: tuple[int, int] = (64, 48)) -> Path:
    codec = cv2.VideoWriter.fourcc(*CODECS[path.suffix])
    writer = cv2.VideoWriter(str(path), codec, 10, size)
    assert writer.isOpened()
    for index in range(frames):
        writer.write(np.full((size[1], size[0], 3), 10 * index % 250, np.uint8))
    writer.release()
    return path


@pytest.mark.parametrize("suffix", CODECS)
def test_a_video_tells_the_time_of_its_frames(tmp_path: Path, suffix: str) -> None:
    frames = list(open_source(write_video(tmp_path / f"a{suffix}")))
    assert [frame.media_time_s for frame in frames] == pytest.approx([i / 10 for i in range(20)])
    assert [frame.time_s for frame in frames] == [frame.media_time_s for frame in frames]


@pytest.mark.parametrize(("start_s", "wrong"), [(0, 3.0), (10, 12.0), (10, float("nan")), (10, float("inf"))])
def test_a_time_stamp_that_does_not_increase_is_bridged(start_s: float, wrong: float, tmp_path: Path) -> None:
    source = open_source(write_video(tmp_path / "a.avi", 6))
    stamps = [start_s + i / 10 for i in range(6)]
    stamps[3] = stamps[2] if wrong < 12 else wrong

    class Capture:
        def __init__(self, inner: cv2.VideoCapture) -> None:
            self.inner, self.read_count = inner, 0

        def read(self) -> tuple[bool, np.ndarray]:
            self.read_count += 1
            return self.inner.read()

        def get(self, key: int) -> float:
            return stamps[self.read_count - 1] * 1000 if key == cv2.CAP_PROP_POS_MSEC else self.inner.get(key)

        def release(self) -> None:
            self.inner.release()

    source._capture = Capture(source._capture)
    times = [frame.media_time_s for frame in source]
    assert (np.diff(times) >= 0).all()
    assert times[3] == pytest.approx(start_s + 0.3) or times[3] == wrong


def test_a_picture_has_no_media_time(tmp_path: Path) -> None:
    (frame,) = open_source(write_image(tmp_path / "a.png"))
    assert frame.media_time_s is None
    assert frame.time_s == frame.captured_at_s


def write_image(path: Path, value: int = 128) -> Path:
    assert cv2.imwrite(str(path), np.full((30, 40, 3), value, np.uint8))
    return path


def test_cameras_streams_and_video_files_are_videos(tmp_path: Path) -> None:
    picture, video = write_image(tmp_path / "a.png"), tmp_path / "a.avi"
    video.write_bytes(b"RIFF")
    kinds = {
        source: (is_live(source), is_video(source))
        for source in ("0", "rtsp://a/b", video, picture, tmp_path)
    }
    assert kinds == {
        "0": (True, True),
        "rtsp://a/b": (True, True),
        video: (False, True),
        picture: (False, False),
        tmp_path: (False, False),
    }


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "A.PNG"])
def test_one_image(tmp_path: Path, name: str) -> None:
    source = open_source(str(write_image(tmp_path / name)))
    frames = list(source)
    assert source.frame_count == len(frames) == 1
    assert not source.is_live
    assert (frames[0].index, frames[0].name, frames[0].dropped) == (0, name, 0)
    np.testing.assert_array_equal(frames[0].image, np.full((30, 40, 3), 128, np.uint8))


def test_a_folder_in_order_of_names(tmp_path: Path) -> None:
    for name, value in (("b.png", 2), ("a.png", 1), ("c.png", 3)):
        write_image(tmp_path / name, value)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "d.png").mkdir()
    source = open_source(tmp_path)
    assert source.frame_count == 3
    assert [(f.index, f.name, int(f.image[0, 0, 0])) for f in source] == [
        (0, "a.png", 1),
        (1, "b.png", 2),
        (2, "c.png", 3),
    ]


def test_a_folder_in_natural_order_without_leavings_of_other_programs(tmp_path: Path) -> None:
    for name in ("10.png", "9.png", "1.ppm"):
        write_image(tmp_path / name)
    for name in ("._9.png", ".trash.jpg"):
        (tmp_path / name).write_bytes(b"no image")
    assert [frame.name for frame in open_source(tmp_path)] == ["1.ppm", "9.png", "10.png"]


def test_a_gif_is_a_video(tmp_path: Path) -> None:
    frame = "21f90401000001002c00000000010001000002024c0100"
    data = bytes.fromhex(f"47494638396101000100800100ffffff000000{frame * 3}3b")
    (tmp_path / "a.gif").write_bytes(data)
    assert len(list(open_source(tmp_path / "a.gif"))) == 3


@pytest.mark.parametrize("suffix", list(CODECS))
def test_every_frame_of_a_video(tmp_path: Path, suffix: str) -> None:
    source = open_source(write_video(tmp_path / f"a{suffix}"))
    frames = list(source)
    assert isinstance(source, VideoSource)
    assert source.frame_count == len(frames) == 20
    assert source.fps == pytest.approx(10)
    assert [f.index for f in frames] == list(range(20))
    assert max(abs(f.image.mean() - 10 * f.index) for f in frames) < 12
    assert all(a.captured_at_s <= b.captured_at_s for a, b in itertools.pairwise(frames))
    source.close()


def test_a_video_goes_on_where_it_was_left(tmp_path: Path) -> None:
    source = open_source(write_video(tmp_path / "a.mp4"))
    assert next(iter(source)).index == 0
    assert [f.index for f in source] == list(range(1, 20))
    assert list(source) == []
    source.close()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.mp4", b"just text\n" * 50),
        ("a.mp4", b""),
        ("a.mp4", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n"),
        ("a.mp4", b"ffconcat version 1.0\nfile '/etc/hostname'\n"),
        ("a.avi", b"RIFF\xff\xff\xff\xffAVI LIST"),
        ("noname", b"\x00" * 1000),
    ],
    ids=["text", "empty", "playlist", "concat", "avi header", "zeros"],
)
def test_what_is_no_video(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SourceError, match=f"{name} is not a video that OpenCV can read"):
        open_source(path)


def test_an_mp4_without_its_end(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4")
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(SourceError, match="is not a video"):
        open_source(path)


def test_an_avi_without_its_end_gives_what_it_has(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 8 // 10])
    source = open_source(path)
    frames = list(source)
    assert 0 < len(frames) < 20
    assert abs(frames[0].image.mean()) < 12
    source.close()


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("missing.png", "missing.png does not exist"),
        ("", "the source is an empty string"),
        ("a\0b", "does not exist"),
        ("-1", "does not exist"),
        ("99", "camera 99 cannot be opened"),
        (99, "camera 99 cannot be opened"),
        ("9" * 30, "camera 9+ cannot be opened"),
        ("file:///missing.mp4", "cannot be opened"),
        ("nonsense://a/b", "cannot be opened"),
    ],
)
def test_what_cannot_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str | int, problem: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match=problem):
        open_source(source)


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=f"^{re.escape(str(tmp_path))} holds no images"):
        open_source(f"{tmp_path}/")


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    with pytest.raises(DataError, match=r"a\.png is not an image"):
        list(open_source(tmp_path / "a.png"))


def test_opencv_keeps_its_log_level(tmp_path: Path) -> None:
    level = cv2.utils.logging.getLogLevel()
    with pytest.raises(SourceError):
        open_source(99)
    assert cv2.utils.logging.getLogLevel() == level


def wait_for_end(source: LiveSource) -> None:
    source._thread.join(timeout=60)
    assert not source._thread.is_alive()


def test_a_live_source_keeps_the_newest_frame_and_counts_the_rest(tmp_path: Path) -> None:
    source = LiveSource(str(write_video(tmp_path / "a.mp4")))
    wait_for_end(source)
    frames = list(source)
    assert source.is_live
    assert source.frame_count is None
    assert [(f.index, f.dropped) for f in frames] == [(19, 19)]
    assert abs(frames[0].image.mean() - 190) < 12
    source.close()


def test_frames_and_drops_of_a_live_source_add_up(tmp_path: Path) -> None:
    source = open_source(f"file://{write_video(tmp_path / 'a.mp4', 200)}")
    assert isinstance(source, LiveSource)
    frames: list[Frame] = []
    for frame in source:
        frames.append(frame)
        time.sleep(0.005)
    indices = [f.index for f in frames]
    assert indices == sorted(set(indices))
    assert indices[-1] == 199
    assert all(f.dropped == f.index - i for i, f in enumerate(frames))
    source.close()


@pytest.mark.parametrize(
    ("source", "live"),
    [
        ("0", True),
        (0, True),
        ("rtsp://camera/1", True),
        ("http://host/a.mjpg", True),
        ("a.mp4", False),
        ("", False),
    ],
)
def test_cameras_and_streams_are_live(source: str | int, live: bool) -> None:
    assert is_live(source) == live


def test_closing_a_live_source_ends_it(tmp_path: Path) -> None:
    source = LiveSource(str(write_video(tmp_path / "a.avi", 200)))
    next(iter(source))
    source.close()
    assert not source._thread.is_alive()
    assert len(list(source)) <= 1
    assert list(source) == []
    source.close()


def test_passwords_stay_out_of_messages_and_results(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as caught:
        open_source("rtsp://admin:p@ss@127.0.0.1:9/stream")
    assert "rtsp://127.0.0.1:9/stream cannot be opened" in str(caught.value)
    for address in ("rtsp://u:p@127.0.0.1:9/a?token=p#p", "rtsp://u:p/p?p#p@127.0.0.1:9/a"):
        with pytest.raises(
            SourceError, match=r"^rtsp://127\.0\.0\.1:9/a cannot be opened\. Fix: check [^.]*$"
        ):
            open_source(address)
    path = write_video(tmp_path / "a.mp4", 2)
    source = LiveSource(f"file://{path}")
    assert [f.name for f in source][-1] == f"file://{path}"
    source.close()


def test_an_image_source_can_be_read_twice(tmp_path: Path) -> None:
    source = ImageSource((write_image(tmp_path / "a.png"),))
    assert len(list(source)) == len(list(source)) == 1
    source.close()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (cv2.VideoCapture(), "found VideoCapture. Fix: give its camera number or address"),
        (None, "found NoneType"),
        (True, "found bool"),
        (3.5, "found float"),
        ([np.zeros((9, 9, 3), np.uint8)], "found list. Fix: call runtime(frame) for single frames"),
    ],
)
def test_what_is_no_source_is_named(source: object, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        as_source(source)


def test_numbers_of_numpy_are_cameras() -> None:
    with pytest.raises(SourceError, match="camera 97 cannot be opened"):
        as_source(np.int64(97))


def test_pictures_that_cannot_be_read_are_named_after_the_last(tmp_path: Path) -> None:
    for name in ("a.png", "d.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((9, 9, 3), np.uint8))
    (tmp_path / "b.png").write_bytes(b"")
    (tmp_path / "c.jpg").write_bytes(b"no picture")
    seen: list[Frame] = []
    with pytest.raises(UnreadableFilesError, match="2 of 4 pictures cannot be read, all others") as caught:
        seen.extend(open_source(tmp_path))
    assert [frame.name for frame in seen] == ["a.png", "d.png"]
    assert [Path(problem.split(" ")[0]).name for problem in caught.value.problems] == ["b.png", "c.jpg"]

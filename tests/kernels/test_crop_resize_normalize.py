"""The preprocessing kernel, run on the CPU, gives bit for bit what OpenCV and preprocess.py give."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

from fer_edge.preprocess import crop_face, crop_rectangle, prepare_batch
from fer_edge.spec import CropRule, ModelSpec

DTYPES = {"half": np.float16, "float": np.float32}
Rectangle = tuple[int, int, int, int]


def make_spec(
    color: str = "rgb", channels: int = 3, size: tuple[int, int] = (48, 40), crop: CropRule | None = None
) -> ModelSpec:
    mean, std = (0.485, 0.456, 0.406)[:channels], (0.229, 0.224, 0.225)[:channels]
    return ModelSpec("net", *size, color, channels, mean, std, ("a", "b"), crop or CropRule(min_side_px=1))


@dataclass(frozen=True)
class Planes:
    """A frame as it lies in memory, and as OpenCV sees it."""

    format: str
    planes: tuple[np.ndarray, ...]  # [rows, bytes of a row]
    bgr: np.ndarray


def bgr_planes(frame_bgr: np.ndarray) -> Planes:
    return Planes("bgr", (frame_bgr.reshape(len(frame_bgr), -1),), frame_bgr)


def nv12_planes(frame_bgr: np.ndarray) -> Planes:
    """As a video decoder gives it: the even part of the frame, every 2×2 pixels with one colour."""
    height, width = (side // 2 * 2 for side in frame_bgr.shape[:2])
    planar = cv2.cvtColor(frame_bgr[:height, :width], cv2.COLOR_BGR2YUV_I420)
    luma, colors = planar[:height], planar[height:].reshape(2, height // 2, width // 2)
    chroma = np.stack(colors, axis=-1).reshape(height // 2, width)
    return Planes("nv12", (luma, chroma), cv2.cvtColor(np.vstack([luma, chroma]), cv2.COLOR_YUV2BGR_NV12))


FORMATS: dict[str, Callable[[np.ndarray], Planes]] = {"bgr": bgr_planes, "nv12": nv12_planes}


class Driver:
    """The kernel as a program, see crop_resize_normalize_driver.cpp."""

    def __init__(self, program: Path, folder: Path) -> None:
        self.program, self.folder = program, folder

    def run(
        self,
        frame: Planes,
        rectangles: Sequence[Rectangle],
        spec: ModelSpec,
        padding: int = 0,
        **options: object,
    ) -> subprocess.CompletedProcess:
        """Run with rows ``padding`` bytes longer than their pixels."""
        padded = [np.pad(plane, ((0, 0), (0, padding)), constant_values=77) for plane in frame.planes]
        parts = [plane.ravel()[: plane.size - padding] for plane in padded]
        parts.append(np.array(rectangles, np.int32).reshape(-1, 4))
        parts += [np.resize(values, 3) for values in spec.gain_and_offset()]
        (self.folder / "in").write_bytes(b"".join(part.tobytes() for part in parts))
        names = {
            "format": frame.format,
            "frame_height": frame.bgr.shape[0],
            "frame_width": frame.bgr.shape[1],
            "pitch": padded[0].shape[1],
            "chroma_pitch": padded[-1].shape[1] if frame.format == "nv12" else 0,
            "color": spec.color,
            "channels": spec.channels,
            "height": spec.input_height,
            "width": spec.input_width,
            "count": len(rectangles),
            "type": "float",
            **options,
        }
        command = [self.program, self.folder / "in", self.folder / "out"]
        command += [f"{name}={value}" for name, value in names.items()]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    def batch(
        self,
        frame: Planes,
        rectangles: Sequence[Rectangle],
        spec: ModelSpec,
        padding: int = 0,
        **options: object,
    ) -> tuple[np.ndarray, dict[str, int]]:
        result = self.run(frame, rectangles, spec, padding, **options)
        assert result.returncode == 0, result.stderr
        out = np.fromfile(self.folder / "out", DTYPES[str(options.get("type", "float"))])
        return out.reshape(len(rectangles), *spec.input_shape), json.loads(result.stdout)


@pytest.fixture(scope="module")
def driver(build_driver: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Driver:
    return Driver(build_driver("crop_resize_normalize_driver"), tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "sanitized"])
def any_driver(
    request: pytest.FixtureRequest,
    build_driver: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Driver:
    program = build_driver("crop_resize_normalize_driver", sanitize=request.param)
    return Driver(program, tmp_path_factory.mktemp("any"))


def boxes_around(height: int, width: int) -> list[tuple[float, float, float, float]]:
    """Inside, over each edge and corner, the whole frame, beyond it, slim ones, and single pixels."""
    third = min(height, width) / 3
    boxes = [
        (x - third / 2, y - third / 2, x + third / 2, y + third / 2)
        for x in (0, width / 2.7, width - 1)
        for y in (0, height / 2.3, height - 1)
    ]
    boxes += [(0, 0, width, height), (-width, -height, 2 * width, 2 * height)]
    boxes += [(5, 3, 8, height - 2), (2, 7, width - 5, 11)]
    boxes += [(0, 0, 4, 4), (width - 5, height - 5, width - 1, height - 1), (9.7, 11.2, 12.9, 14.4)]
    return boxes


def check_boxes(driver: Driver, frame: Planes, spec: ModelSpec, padding: int = 0, **options: object) -> int:
    """Compare the crops of many boxes with preprocess.py, bit for bit; return how many there were."""
    boxes = boxes_around(*frame.bgr.shape[:2])
    rectangles = [crop_rectangle(box, spec.crop, *frame.bgr.shape[:2]) for box in boxes]
    crops = [crop_face(frame.bgr, box, spec.crop) for box in boxes]
    assert [crop is None for crop in crops] == [rectangle is None for rectangle in rectangles]
    expected = prepare_batch([crop for crop in crops if crop is not None], spec)
    kept = [rectangle for rectangle in rectangles if rectangle is not None]
    batch, _ = driver.batch(frame, kept, spec, padding, **options)
    np.testing.assert_array_equal(batch, expected.astype(batch.dtype))
    return len(kept)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("color", "channels", "size"), [("gray", 1, (48, 48)), ("gray", 3, (31, 37)), ("rgb", 3, (64, 48)), ("bgr", 3, (7, 5))]
)  # fmt: skip
@pytest.mark.parametrize("pixel_format", FORMATS)
def test_a_photograph(
    driver: Driver, astronaut: np.ndarray, pixel_format: str, color: str, channels: int, size: tuple[int, int], dtype: str
) -> None:  # fmt: skip
    for edge in ("clip", "replicate"):
        spec = make_spec(color, channels, size, CropRule(edge=edge, min_side_px=1))
        assert check_boxes(driver, FORMATS[pixel_format](astronaut), spec, type=dtype) > 12


@pytest.mark.parametrize("pixel_format", FORMATS)
def test_faces_in_context(driver: Driver, shared: Path, pixel_format: str) -> None:
    files = sorted((shared / "data" / "faces_in_context" / "images").glob("*.jpg"))[::20]
    assert len(files) > 8
    for index, file in enumerate(files):
        frame = FORMATS[pixel_format](cv2.imread(str(file)))
        color, channels = [("gray", 1), ("rgb", 3)][index % 2]
        check_boxes(
            driver, frame, make_spec(color, channels, (48, 48)), type=("float", "half")[index // 2 % 2]
        )


@pytest.mark.parametrize("pixel_format", FORMATS)
def test_a_network_of_224_pixels(driver: Driver, astronaut: np.ndarray, pixel_format: str) -> None:
    """Enlarged from single pixels, reduced from the whole frame, and exactly by half (OpenCV averages there)."""
    frame = FORMATS[pixel_format](astronaut)
    spec = make_spec("rgb", 3, (224, 224))
    rectangles = [
        (100, 50, 101, 51),
        (7, 9, 10, 11),
        (0, 0, 512, 512),
        (32, 64, 480, 512),
        (100, 100, 324, 324),
    ]
    batch, _ = driver.batch(frame, rectangles, spec)
    crops = [frame.bgr[top:bottom, left:right] for left, top, right, bottom in rectangles]
    np.testing.assert_array_equal(batch, prepare_batch(crops, spec))


def test_every_ratio_of_sizes(driver: Driver) -> None:
    rng = np.random.default_rng(3)
    for _ in range(40):
        height, width = rng.integers(1, (90, 130))
        noise = rng.integers(0, 256, (height, width, 3), np.uint8)
        spec = make_spec(*[("gray", 1), ("bgr", 3)][rng.integers(2)], tuple(map(int, rng.integers(1, 70, 2))))
        batch, _ = driver.batch(bgr_planes(noise), [(0, 0, int(width), int(height))], spec)
        np.testing.assert_array_equal(batch, prepare_batch([noise], spec))


def test_every_color_of_nv12(driver: Driver) -> None:
    """All pairs of luma and chroma on a grid, out of range ones too."""
    levels = np.arange(0, 256, 5, dtype=np.uint8)
    luma = np.repeat(np.tile(levels, (2 * len(levels), 1)), 2, axis=1)
    for u in levels[::3]:
        chroma = np.empty((len(levels), len(levels), 2), np.uint8)
        chroma[..., 0], chroma[..., 1] = u, levels[:, None]
        chroma = chroma.reshape(len(levels), -1)
        bgr = cv2.cvtColor(np.vstack([luma, chroma]), cv2.COLOR_YUV2BGR_NV12)
        spec = make_spec("bgr", 3, luma.shape)
        batch, _ = driver.batch(
            Planes("nv12", (luma, chroma), bgr), [(0, 0, luma.shape[1], luma.shape[0])], spec
        )
        np.testing.assert_array_equal(batch, prepare_batch([bgr], spec))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pixel_format", FORMATS)
@pytest.mark.parametrize(("height", "width"), [(61, 83), (2, 3), (90, 64)])
def test_odd_frames_and_pitches(
    any_driver: Driver, astronaut: np.ndarray, pixel_format: str, height: int, width: int, dtype: str
) -> None:
    """Rows end where their memory ends, and begin at any address; so do the planes of the output."""
    frame = FORMATS[pixel_format](np.ascontiguousarray(astronaut[60 : 60 + height, 200 : 200 + width]))
    for edge in ("clip", "replicate"):
        for color, channels, size, offset in (
            ("gray", 1, (9, 7), 0),
            ("rgb", 3, (5, 11), 1),
            ("rgb", 3, (6, 4), 1),
        ):
            spec = make_spec(color, channels, size, CropRule(edge=edge, min_side_px=1))
            assert check_boxes(any_driver, frame, spec, padding=5, type=dtype, offset=offset, order="random")


def test_more_faces_than_one_launch_carries(any_driver: Driver, astronaut: np.ndarray) -> None:
    spec = make_spec("gray", 1, (8, 8))
    corners = np.random.default_rng(1).integers(0, 400, (150, 2)).tolist()
    rectangles = [(x, y, x + 40 + x % 50, y + 30 + y % 70) for x, y in corners]
    batch, counters = any_driver.batch(bgr_planes(astronaut), rectangles, spec, threads=2)
    crops = [astronaut[top:bottom, left:right] for left, top, right, bottom in rectangles]
    np.testing.assert_array_equal(batch, prepare_batch(crops, spec))
    assert counters["stored_bytes"] == batch.nbytes


@pytest.mark.parametrize("pixel_format", FORMATS)
def test_no_face(any_driver: Driver, astronaut: np.ndarray, pixel_format: str) -> None:
    batch, counters = any_driver.batch(FORMATS[pixel_format](astronaut), [], make_spec())
    assert batch.shape == (0, 3, 48, 40)
    assert counters["loaded_bytes"] == counters["stored_bytes"] == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_each_output_is_written_once_in_whole_words(
    driver: Driver, astronaut: np.ndarray, dtype: str
) -> None:
    spec = make_spec("rgb", 3, (48, 48))
    batch, counters = driver.batch(bgr_planes(astronaut), [(150, 30, 310, 200)], spec, type=dtype)
    assert counters["stored_bytes"] == batch.nbytes
    assert counters["narrow_stores"] == batch.nbytes // 4
    assert counters["loaded_bytes"] == 12 * 48 * 48


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fault": "null_frame"}, "the luma plane is a null pointer"),
        ({"fault": "null_frame", "format": "bgr", "pitch": 192}, "the frame is a null pointer"),
        ({"fault": "null_chroma"}, "the chroma plane is a null pointer"),
        ({"fault": "null_rectangles"}, "rectangles is a null pointer"),
        ({"fault": "null_out"}, "out is a null pointer"),
        ({"fault": "short_pitch"}, "the rows of the luma plane need 64 bytes, found a pitch of 63"),
        ({"fault": "short_chroma_pitch"}, "the rows of the chroma plane need 64 bytes, found a pitch of 63"),
        ({"fault": "negative_count"}, "count must be at least 0, found -1"),
        ({"fault": "two_channels"}, "the output must have 3 channels, or 1 if it is gray, found 2"),
        ({"channels": 1}, "the output must have 3 channels, or 1 if it is gray, found 1"),
        ({"fault": "huge_output"}, "the output must have 1 to 4096 pixels a side, found 40×4097"),
        ({"fault": "odd_frame"}, "an NV12 frame must have even sides, found 63×64"),
        ({"fault": "empty_frame"}, "a frame must have 1 to 32768 pixels a side, found 64×0"),
        ({"fault": "infinite_gain"}, "gain and offset of channel 0 must be finite"),
        ({"fault": "misaligned"}, "out must be aligned to 4 bytes"),
        ({"fault": "in_place"}, "out overlaps the luma plane: it must have memory of its own"),
        ({"rectangle": (5, 5, 5, 9)}, "rectangle 1 is empty: (5, 5, 5, 9)"),
        ({"rectangle": (9, 5, 5, 9)}, "rectangle 1 is empty: (9, 5, 5, 9)"),
        ({"rectangle": (64, 0, 70, 9)}, "rectangle 1 lies outside of the frame of 64×64: (64, 0, 70, 9)"),
        ({"rectangle": (-5, -9, 20, 0)}, "rectangle 1 lies outside of the frame of 64×64: (-5, -9, 20, 0)"),
        ({"rectangle": (-200000, 0, 60000, 9)}, "rectangle 1 is too large: its side times that of the output"),
        ({"rectangle": (-(2**31), 0, 2**31 - 1, 9)}, "rectangle 1 is too large: its side times that of the output"),
    ],
    ids=str,
)  # fmt: skip
def test_the_launcher_refuses(
    any_driver: Driver, astronaut: np.ndarray, options: dict[str, object], message: str
) -> None:
    frame = nv12_planes(astronaut[:64, :64])
    if options.get("format") == "bgr":
        frame = bgr_planes(astronaut[:64, :64])
    others = {name: value for name, value in options.items() if name != "rectangle"}
    rectangles = [(0, 0, 9, 9), options.get("rectangle", (1, 1, 7, 7))]
    result = any_driver.run(frame, rectangles, make_spec(), **others)
    assert result.returncode == 4, result.stderr
    assert message in result.stderr

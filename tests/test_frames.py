"""Types that a runtime accepts as a frame, and the errors for others."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest

from fer_edge.cuda.arrays import DeviceArray
from fer_edge.errors import DataError
from fer_edge.frames import as_frame, check_device_frame, check_frame
from fer_edge.levels import LevelConverter, LevelOptions

RNG = np.random.default_rng(0)
PICTURE = cv2.resize(RNG.integers(0, 256, (6, 5, 3), np.uint8), (50, 60), interpolation=cv2.INTER_NEAREST)


def encoded(suffix: str = ".png") -> bytes:
    return bytes(cv2.imencode(suffix, PICTURE)[1].tobytes())


def test_files_and_their_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded())
    for given in (path, str(path), encoded(), bytearray(encoded()), memoryview(encoded())):
        assert np.array_equal(check_frame(given), PICTURE)


def test_an_array_is_not_copied() -> None:
    assert as_frame(PICTURE) is PICTURE


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "CMYK", "1", "I;16", "I"])
def test_pil_images_of_every_mode(mode: str) -> None:
    pil = pytest.importorskip("PIL.Image", reason="needs pip install pillow")
    gray = cv2.cvtColor(PICTURE, cv2.COLOR_BGR2GRAY)
    if mode in ("I;16", "I"):
        values = gray.astype(np.uint16) * 257
        image = pil.fromarray(values if mode == "I;16" else values.astype(np.int32))
        assert image.mode == mode
    else:
        image = pil.fromarray(PICTURE[..., ::-1]).convert(mode)
    frame = check_frame(image)
    expected = {
        "RGB": PICTURE,
        "RGBA": PICTURE,
        "I;16": np.repeat(gray[..., None], 3, 2),
        "I": np.repeat(gray[..., None], 3, 2),
    }.get(mode, np.asarray(image.convert("RGB"))[..., ::-1] if mode not in ("I", "I;16") else None)
    assert np.array_equal(frame, expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pil_images_are_turned_as_files_are(orientation: int) -> None:
    pil = pytest.importorskip("PIL.Image", reason="needs pip install pillow")
    exif = pil.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    pil.fromarray(PICTURE[..., ::-1]).save(stream, "JPEG", exif=exif, quality=100, subsampling=0)
    by_opencv = check_frame(stream.getvalue())
    by_pil = check_frame(pil.open(io.BytesIO(stream.getvalue())))
    assert by_pil.shape == by_opencv.shape
    assert np.abs(by_pil.astype(int) - by_opencv).max() <= 3  # two decoders


def test_a_truncated_pil_image_is_an_error() -> None:
    pil = pytest.importorskip("PIL.Image", reason="needs pip install pillow")
    image = pil.open(io.BytesIO(encoded(".jpg")[:-200]))
    with pytest.raises(DataError, match="the PIL image cannot be decoded"):
        check_frame(image)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "cv2.imread returns None"),
        ([[1]], "give one frame at a time"),
        ((True, PICTURE), "found tuple. Fix: give the second value of cv2.VideoCapture.read"),
        (7, "found int. Fix: convert it with numpy.asarray"),
        (b"", "the given data is not an image"),
        (encoded()[:40], "the given data is not an image"),
        ("none.png", "cannot read none.png: No such file"),
        ("a\0b.png", "cannot read"),
        (PICTURE[..., 0] / 255, "(255 * frame).round().astype(numpy.uint8)"),
        (PICTURE[0, 0], "convert it to [H, W, 3], BGR"),
        (PICTURE[..., 0].astype(">u2"), "swap its bytes with frame.astype(numpy.uint16)"),
        (np.dstack([PICTURE, PICTURE[..., :1]]), "cv2.COLOR_BGRA2BGR"),
        (PICTURE[..., :2], "cv2.COLOR_YUV2BGR_YUY2"),
        (PICTURE.transpose(2, 0, 1), "frame.transpose(1, 2, 0)"),
        (PICTURE[None], "one frame of the batch at a time"),
        (PICTURE / 255, "(255 * frame).round().astype(numpy.uint8)"),
        (PICTURE.astype(np.uint16), "levels=LevelOptions(bits=10)"),
        (PICTURE[..., 0].astype(np.uint16), "levels=LevelOptions(bits=10)"),
        (PICTURE.astype(np.int64), "frame.astype(numpy.uint8)"),
        (PICTURE > 3, "give the image instead of its mask"),
        (PICTURE[:0], "has no pixels"),
        (np.array(PICTURE.tobytes()), "expected a frame of uint8 BGR pixels"),
        (np.zeros((1, 40000, 3), np.uint8), "at most 32766 pixels per side"),
    ],
)
def test_what_is_no_frame_is_answered_with_its_conversion(value: object, message: str) -> None:
    with pytest.raises(DataError) as caught:
        check_frame(value)
    assert message in str(caught.value)


GRAY = np.ascontiguousarray(PICTURE[..., 1])


@pytest.mark.parametrize(
    "frame", [GRAY, GRAY[..., None], GRAY[:, ::-1][:, ::-1]], ids=["2D", "one channel", "a view"]
)
def test_gray_is_repeated_in_three_channels(frame: np.ndarray) -> None:
    found = check_frame(frame)
    assert found.flags.c_contiguous
    assert np.array_equal(found, np.dstack([GRAY, GRAY, GRAY]))


@pytest.mark.parametrize("bits", [8, 9, 10, 12, 14, 16])
@pytest.mark.parametrize("channels", [(), (1,), (3,)], ids=str)
def test_uint16_with_declared_bits(bits: int, channels: tuple[int, ...]) -> None:
    values = RNG.integers(0, 1 << bits, (7, 9, *channels)).astype(np.uint16)
    found = check_frame(values, LevelOptions(bits=bits))
    expected = np.rint(values.astype(np.float64) * 255 / ((1 << bits) - 1)).astype(np.uint8)
    assert np.array_equal(found, np.broadcast_to(expected.reshape(7, 9, -1), (7, 9, 3)))


def test_a_converter_is_taken_as_well_and_remembers() -> None:
    converter = LevelConverter(LevelOptions(bits=10, stretch="percentile", half_life_frames=1))
    dark = np.tile(np.arange(100, dtype=np.uint16), (100, 1))
    first, second = check_frame(dark, converter), check_frame(dark + 900, converter)
    assert (first.min(), first.max(), second.min()) == (0, 255, 255)


def written(path: Path, values: np.ndarray) -> Path:
    assert cv2.imwrite(str(path), values)
    return path


def test_files_of_16_bits(tmp_path: Path) -> None:
    values = RNG.integers(0, 1 << 16, (20, 30)).astype(np.uint16)
    whole = written(tmp_path / "whole.png", values)
    assert np.array_equal(check_frame(whole)[..., 0], (values >> 8).astype(np.uint8))
    assert np.array_equal(check_frame(whole, LevelOptions(bits=16))[..., 0], np.rint(values / 257.0))
    ten = written(tmp_path / "ten.png", values >> 6)
    for given in (ten, ten.read_bytes()):
        found = check_frame(given, LevelOptions(bits=10))
        assert np.array_equal(found[..., 2], np.rint((values >> 6) * (255 / 1023)))


def test_a_file_with_the_low_bits_of_16_is_an_error_until_they_are_declared(tmp_path: Path) -> None:
    ten = written(tmp_path / "ten.png", np.full((20, 30), 1023, np.uint16))
    with pytest.raises(DataError, match=r"values of at most 1023 of 65535.*LevelOptions\(bits=10\)"):
        check_frame(ten)
    assert check_frame(ten, LevelOptions(bits=10)).min() == 255
    assert check_frame(ten, LevelOptions(bits=16)).max() == 4
    for black in (np.zeros((5, 5), np.uint16), np.full((5, 5), 3, np.uint8)):
        assert check_frame(written(tmp_path / "black.png", black)).max() <= 3


def test_pil_images_of_16_bits_with_declared_bits() -> None:
    pil = pytest.importorskip("PIL.Image", reason="needs pip install pillow")
    values = np.tile(np.arange(1024, dtype=np.uint16), (3, 1))
    found = check_frame(pil.fromarray(values), LevelOptions(bits=10))
    assert np.array_equal(found[..., 0], check_frame(values, LevelOptions(bits=10))[..., 0])


@pytest.mark.parametrize(
    ("dtype", "shape"), [(np.uint8, (20, 30)), (np.uint8, (20, 30, 1)), (np.uint16, (20, 30, 3))], ids=str
)
def test_frames_of_a_device_are_bgr(dtype: type, shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="on the device, or give it in host memory"):
        check_device_frame(DeviceArray(1, shape, np.dtype(dtype)))

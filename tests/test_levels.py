"""Maps from 8 to 16 bits to 8: fixed ones, by percentiles, and smoothed over the frames of a camera."""

from __future__ import annotations

import dataclasses
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fer_edge.errors import DataError, UsageError
from fer_edge.levels import LevelConverter, LevelOptions, to_8_bits

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("bits", range(8, 17))
def test_every_value_is_mapped_to_the_nearest_level(bits: int) -> None:
    white = (1 << bits) - 1
    values = np.arange(white + 1, dtype=np.uint16)[None]
    found = to_8_bits(values, LevelOptions(bits=bits))
    assert found.dtype == np.uint8
    assert np.abs(found - values.astype(np.float64) * 255 / white).max() <= 0.5
    assert (found[0, 0], found[0, -1]) == (0, 255)


def test_8_bits_are_returned_as_they_are() -> None:
    frame = RNG.integers(0, 256, (20, 30), np.uint8)
    assert to_8_bits(frame) is frame
    assert to_8_bits(frame, LevelOptions(bits=10)) is frame


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [(), (3,)], ids=str)
def test_percentiles_are_mapped_to_black_and_white(dtype: type, channels: tuple[int, ...]) -> None:
    white = 255 if dtype == np.uint8 else 1023
    frame = (RNG.random((200, 300, *channels)) * 0.3 * white + 0.1 * white).astype(dtype)
    found = to_8_bits(frame, LevelOptions(bits=10, stretch="percentile")).astype(np.float64)
    low, high = np.percentile(frame, (1, 99))
    expected = (255 * (frame - low) / (high - low)).clip(0, 255)
    assert np.abs(found - expected).max() <= 255 * 2.5 / (high - low) + 1  # 2 values of rounding and sampling
    assert (found == 0).mean() < 0.05
    assert (found == 255).mean() < 0.05


def test_the_stretch_keeps_the_order_and_all_channels_together() -> None:
    frame = np.dstack([np.full((50, 50), level, np.uint8) for level in (20, 40, 60)])
    blue, green, red = to_8_bits(frame, LevelOptions(stretch="percentile"))[0, 0]
    assert (blue, green, red) == (0, 128, 255)


def test_noise_in_the_dark_is_not_shown_as_a_picture() -> None:
    frame = RNG.integers(10, 13, (100, 100)).astype(np.uint16)
    found = to_8_bits(frame, LevelOptions(bits=12, stretch="percentile"))
    assert np.ptp(found) <= 2 * 255 / (4095 / 32) + 1


@pytest.mark.parametrize("frame", [np.zeros((1, 1), np.uint16), np.full((3, 4), 1023, np.uint16)])
def test_a_frame_of_one_value(frame: np.ndarray) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = to_8_bits(frame, LevelOptions(bits=10, stretch="percentile"))
    assert found.shape == frame.shape
    assert np.ptp(found) == 0


def ramp(low: int, high: int) -> np.ndarray:
    return np.tile(np.linspace(low, high, 256).astype(np.uint16), (100, 1))


def test_without_half_life_a_lamp_darkens_the_rest_at_once_and_with_it_slowly() -> None:
    dark, lit = ramp(0, 100), ramp(0, 1000)
    plain = LevelConverter(LevelOptions(bits=10, stretch="percentile"))
    slow = dataclasses.replace(plain.options, half_life_frames=4)
    converter = LevelConverter(slow)
    assert np.array_equal(plain(dark), converter(dark))
    first = plain(lit)
    steps = [converter(lit) for _ in range(40)]
    middle = [int(step[0, 128]) for step in steps]
    assert middle[0] == 255 > first[0, 128]
    assert middle == sorted(middle, reverse=True)
    assert abs(middle[-1] - int(first[0, 128])) <= 1
    assert np.array_equal(plain(dark), to_8_bits(dark, plain.options))  # it has forgotten the lamp


def test_half_of_an_old_range_is_left_after_the_half_life() -> None:
    converter = LevelConverter(LevelOptions(bits=16, stretch="percentile", half_life_frames=8))
    converter(np.tile(np.linspace(0, 10000, 256).astype(np.uint16), (100, 1)))
    for _ in range(8):
        found = converter(np.tile(np.linspace(0, 60000, 256).astype(np.uint16), (100, 1)))
    white = np.flatnonzero(found[0] == 255)[0] * 60000 / 255
    assert white == pytest.approx(35000, rel=0.03)


def test_threads_share_a_converter() -> None:
    converter = LevelConverter(LevelOptions(bits=10, stretch="percentile", half_life_frames=2))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(converter, [ramp(0, 500)] * 40))
    assert all(np.array_equal(one, found[0]) for one in found)


def test_undeclared_bits_are_an_error_that_says_how_to_declare_them() -> None:
    with pytest.raises(
        DataError,
        match=r"values up to 900\. Fix: declare it, as with Runtime\(levels=LevelOptions\(bits=10\)",
    ):
        to_8_bits(np.full((4, 4), 900, np.uint16))


def test_values_beyond_the_declared_bits_are_an_error() -> None:
    with pytest.raises(DataError, match="10 bits, at most 1023, found 1024. Fix: declare bits=11"):
        to_8_bits(np.full((4, 4), 1024, np.uint16), LevelOptions(bits=10))


@pytest.mark.parametrize(
    "changes",
    [{"bits": 7}, {"bits": 17}, {"bits": 10.0}, {"bits": True}, {"stretch": "log"}, {"stretch": None},
     {"half_life_frames": -1}, {"half_life_frames": float("nan")}],
    ids=str,
)  # fmt: skip
def test_bad_options_are_named(changes: dict) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(changes))} must be"):
        LevelOptions(**changes)

"""The emulation carries out what CUDA defines, and catches what a GPU would not forgive."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

SCHEDULES = [("forward",), ("reverse",), ("random", "1"), ("random", "2")]


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "sanitized"])
def driver(request: pytest.FixtureRequest, build_driver) -> Path:
    return build_driver("emulation_driver", sanitize=request.param)


def run(driver: Path, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess:
    return subprocess.run([driver, *arguments], input=stdin, capture_output=True, check=False, timeout=60)


def output(driver: Path, *arguments: str) -> list[str]:
    result = run(driver, *arguments)
    assert result.returncode == 0, result.stderr.decode()
    return result.stdout.decode().splitlines()


def numbers(driver: Path, *arguments: str) -> np.ndarray:
    return np.array(output(driver, *arguments)[0].split(), dtype=np.float64)


def counters(driver: Path, *arguments: str) -> dict[str, int]:
    return json.loads(output(driver, *arguments)[1])


@pytest.mark.parametrize("schedule", SCHEDULES, ids=" ".join)
def test_a_kernel_with_its_barriers_gives_one_result(driver: Path, schedule: tuple[str, ...]) -> None:
    reversed_ = numbers(driver, "reverse", *schedule)
    np.testing.assert_array_equal(reversed_, np.arange(128)[::-1])
    sums = numbers(driver, "overtaken", *schedule)
    np.testing.assert_array_equal(sums, 6000 + 4 * ((np.arange(128) + 32) % 128))


@pytest.mark.parametrize(("command", "expected"), [("reverse", 127), ("overtaken", 6000 + 4 * 32)])
def test_a_missing_barrier_shows(build_driver, command: str, expected: float) -> None:
    broken = build_driver("emulation_driver", "INJECT_MISSING_BARRIER")
    results = [numbers(broken, command, *schedule) for schedule in SCHEDULES]
    assert any(not np.array_equal(result, results[0], equal_nan=True) for result in results[1:])
    assert any(result[0] != expected for result in results)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("early_exit", "divergent barrier: thread 0 waits at the barrier of"),
        ("early_exit", "thread 32 has ended"),
        ("two_barriers", "divergent barrier: thread 0 waits at the barrier of"),
        ("divergent_shuffle", "thread 1 waits for its warp at"),
        ("foreign_mask", "thread 4 is not in the mask"),
        ("misaligned", "global load of 16 bytes at a misaligned address"),
    ],
)
def test_a_mistake_stops_the_launch(driver: Path, command: str, message: str) -> None:
    result = run(driver, command)
    assert result.returncode == 3
    assert message in result.stderr.decode()


def test_unwritten_shared_memory_is_not_a_number(driver: Path) -> None:
    values = numbers(driver, "unwritten")
    assert np.isnan(values).all()


def test_shared_memory_out_of_bounds_is_caught_by_the_sanitizer(build_driver) -> None:
    result = run(build_driver("emulation_driver", sanitize=True), "out_of_bounds")
    assert result.returncode not in (0, 3)
    assert b"heap-buffer-overflow" in result.stderr
    assert b"out_of_bounds_kernel" in result.stderr


def test_an_asynchronous_copy_arrives_at_the_wait(driver: Path) -> None:
    values, counted = numbers(driver, "copy"), counters(driver, "copy")
    np.testing.assert_array_equal(values[:16].reshape(2, 8), [[0, 1, 2, 3, 4, 5, 6, 0]] * 2)
    assert counted["loaded_bytes"] == 2 * 28
    assert (counted["wide_loads"], counted["narrow_loads"]) == (2, 4)
    early = numbers(driver, "copy_too_early")
    np.testing.assert_array_equal(early[:8], [0, 1, 2, 3, *[np.nan] * 4])


def test_warp_operations(driver: Path) -> None:
    values = numbers(driver, "warp")
    lane, first = np.arange(64) % 32, np.arange(64) // 32 * 32
    source, from_xor, down, up, ballot, votes, half_warp = values.reshape(64, 7).T
    np.testing.assert_array_equal(source, first + 5)
    np.testing.assert_array_equal(from_xor, first + (lane ^ 3))
    np.testing.assert_array_equal(down, first + np.where(lane + 2 < 32, lane + 2, lane))
    np.testing.assert_array_equal(up, first + np.where(lane % 8 >= 2, lane - 2, lane))
    np.testing.assert_array_equal(ballot, lane % 3 == 0)
    np.testing.assert_array_equal(votes, np.ones(64))
    np.testing.assert_array_equal(half_warp, first + np.where(lane < 16, lane ^ 1, lane))


@pytest.mark.parametrize(("command", "conflicts"), [("ldmatrix", 0), ("ldmatrix_conflicts", 7 * 8)])
def test_tensor_cores(driver: Path, command: str, conflicts: int) -> None:
    a = (np.arange(256) * 7 % 17 - 8).reshape(16, 16)
    b = (np.arange(128) * 7 % 13 - 8).reshape(16, 8)
    by_element = numbers(driver, "mma")
    np.testing.assert_array_equal(by_element.reshape(16, 8), a @ b)
    from_shared, counted = numbers(driver, command), counters(driver, command)
    np.testing.assert_array_equal(from_shared.reshape(16, 8), a @ b)
    assert counted["tensor_multiply_adds"] == 16 * 16 * 8
    assert counted["bank_conflicts"] == conflicts


def test_blocks_and_threads_have_their_indices(driver: Path) -> None:
    values, counted = numbers(driver, "index"), counters(driver, "index")
    np.testing.assert_array_equal(
        values.reshape(24, 12), 5 + np.add.outer(1000 * np.arange(24), np.arange(12))
    )
    assert {name: count for name, count in counted.items() if count} == {
        "stored_bytes": 4 * 288,
        "narrow_stores": 288,
        "scalar_multiply_adds": 288,
    }


def test_an_empty_grid_is_an_error_as_in_cuda(driver: Path) -> None:
    values = numbers(driver, "empty_grid")
    assert values[0] == 1


def test_half_precision_rounds_to_nearest_even(driver: Path) -> None:
    halves = np.arange(65536, dtype=np.uint16).view(np.float16)
    exact = halves[np.isfinite(halves)].astype(np.float32)
    between = (exact[:-1] + exact[1:]) / 2  # ties
    rng = np.random.default_rng(0)
    anything = rng.integers(0, 2**32, 20000, dtype=np.uint32).view(np.float32)
    values = np.concatenate([exact, between, np.nextafter(between, np.float32(0)), anything])
    values = values[~np.isnan(values)]
    result = run(driver, "half", stdin=values.tobytes())
    answer = np.frombuffer(result.stdout, dtype=[("half", np.float16), ("back", np.float32)])
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16)
    np.testing.assert_array_equal(answer["half"].view(np.uint16), expected.view(np.uint16))
    np.testing.assert_array_equal(answer["back"], expected.astype(np.float32))

"""The self-attention kernel, run on the CPU, against float64 and against PyTorch."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from places import ROOT

SOURCE = ROOT / "kernels" / "self_attention.cuh"
DTYPES = {"half": np.float16, "float": np.float32}
POSITIONS = (1, 2, 7, 49, 83, 169)
CHANNELS = (8, 16, 24, 64, 128, 512)


@dataclass(frozen=True)
class Tensors:
    """query, key ``[B, C/8, N]``; value, residual ``[B, C, N]``; gamma scalar; all of one dtype."""

    query: np.ndarray
    key: np.ndarray
    value: np.ndarray
    residual: np.ndarray
    gamma: np.ndarray

    def all(self) -> tuple[np.ndarray, ...]:
        return self.query, self.key, self.value, self.residual, self.gamma

    def as_type(self, dtype: type) -> Tensors:
        return Tensors(*(tensor.astype(dtype) for tensor in self.all()))


@dataclass(frozen=True)
class Result:
    out: np.ndarray
    received: np.ndarray | None
    counters: dict[str, int]


def draw(dtype: str, batch: int, channels: int, positions: int, seed: int = 0) -> Tensors:
    """Tensors as a network has them: scores of a few units."""
    rng = np.random.default_rng([seed, batch, channels, positions])
    depth = channels // 8
    shapes = [(batch, depth, positions)] * 2 + [(batch, channels, positions)] * 2
    query, key, value, residual = (rng.standard_normal(shape) for shape in shapes)
    scale = (4 / depth) ** 0.25
    return Tensors(scale * query, scale * key, value, residual, np.array(0.7)).as_type(DTYPES[dtype])


class Driver:
    """The kernel as a program, see self_attention_driver.cpp."""

    def __init__(self, program: Path, folder: Path, processors: int) -> None:
        self.program, self.folder, self.processors = program, folder, processors

    def start(self, tensors: Tensors, **options: object) -> subprocess.CompletedProcess[str]:
        batch, channels, positions = tensors.value.shape
        dtype = {2: "half", 4: "float"}[tensors.value.itemsize]
        (self.folder / "in").write_bytes(b"".join(tensor.tobytes() for tensor in tensors.all()))
        known = {"type": dtype, "batch": batch, "channels": channels, "positions": positions}
        named = {**known, "threads": self.processors, **options}
        return subprocess.run(
            [self.program, self.folder / "in", self.folder / "out", *(f"{k}={v}" for k, v in named.items())],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def __call__(self, tensors: Tensors, received: bool = False, **options: object) -> Result:
        completed = self.start(tensors, received=int(received), **options)
        assert completed.returncode == 0, completed.stderr
        values = np.frombuffer((self.folder / "out").read_bytes(), tensors.value.dtype)
        size, (batch, _, positions) = tensors.value.size, tensors.value.shape
        return Result(
            out=values[:size].reshape(tensors.value.shape),
            received=values[size:].reshape(batch, positions) if received else None,
            counters=json.loads(completed.stdout),
        )


@pytest.fixture(scope="module")
def driver(build_driver, tmp_path_factory: pytest.TempPathFactory, processors: int) -> Driver:
    return Driver(build_driver("self_attention_driver"), tmp_path_factory.mktemp("plain"), processors)


@pytest.fixture(scope="module")
def sanitized(build_driver, tmp_path_factory: pytest.TempPathFactory, processors: int) -> Driver:
    program = build_driver("self_attention_driver", sanitize=True)
    return Driver(program, tmp_path_factory.mktemp("sanitized"), processors)


def softmax(scores: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def reference(tensors: Tensors) -> tuple[np.ndarray, np.ndarray]:
    """out and received in float64."""
    query, key, value, residual, gamma = tensors.as_type(np.float64).all()
    weights = softmax(query.transpose(0, 2, 1) @ key)
    return gamma * (value @ weights.transpose(0, 2, 1)) + residual, weights.mean(1)


def unfused_half(tensors: Tensors) -> np.ndarray:
    """The same in halves, step by step: every product is summed in single precision, every result rounded."""

    def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a.astype(np.float32) @ b.astype(np.float32)).astype(np.float16)

    scores = product(tensors.query.transpose(0, 2, 1), tensors.key)
    weights = softmax(scores.astype(np.float32)).astype(np.float16)
    mixed = product(tensors.value, weights.transpose(0, 2, 1))
    return tensors.gamma * mixed + tensors.residual


def error(out: np.ndarray, expected: np.ndarray) -> tuple[float, float]:
    """The largest and the root-mean-square difference."""
    difference = out.astype(np.float64) - expected
    return float(np.abs(difference).max()), float(np.sqrt(np.square(difference).mean()))


def check(driver: Driver, tensors: Tensors, **options: object) -> Result:
    """Run, and compare with float64: halves with the error of the unfused computation, the largest within twice."""
    result = driver(tensors, received=True, **options)
    out, received = reference(tensors)
    largest, rms = error(result.out, out)
    if tensors.value.dtype == np.float16:
        largest_unfused, rms_unfused = error(unfused_half(tensors), out)
        assert largest <= 2 * largest_unfused
        assert rms <= rms_unfused
        np.testing.assert_allclose(result.received, received, rtol=2e-3, atol=1e-7)
    else:
        assert largest <= 4e-6 * np.abs(out).max()
        np.testing.assert_allclose(result.received, received, rtol=2e-5, atol=1e-9)
    return result


def minimum_bytes(tensors: Tensors) -> int:
    """Every query tile reads K and V once, its queries and residuals once, γ; and writes its outputs once."""
    batch, channels, positions = tensors.value.shape
    size = tensors.value.itemsize
    tile = (128 if channels <= 256 else 64) // size
    tiles = -(-positions // tile)
    keys_and_values = tiles * (channels + channels // 8) * positions
    return batch * size * (keys_and_values + (channels // 8 + 2 * channels) * positions + tiles)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("channels", CHANNELS)
def test_against_float64(driver: Driver, dtype: str, channels: int, positions: int) -> None:
    batch = 3 if positions < 100 and channels < 512 else 1
    check(driver, draw(dtype, batch, channels, positions))


@pytest.mark.parametrize("channels", [32, 40, 72, 136, 256, 264])
@pytest.mark.parametrize("dtype", DTYPES)
def test_at_the_limits_of_the_tilings(driver: Driver, dtype: str, channels: int) -> None:
    check(driver, draw(dtype, 1, channels, 65))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_map_of_the_paper(driver: Driver, dtype: str) -> None:
    """N = 28², C = 128: bytes moved, 16 bytes at once, and the work of the tensor cores."""
    tensors = draw(dtype, 1, 128, 784)
    counters = driver(tensors).counters
    moved = counters["loaded_bytes"] + counters["stored_bytes"]
    assert 0.99 * minimum_bytes(tensors) <= moved <= 1.15 * minimum_bytes(tensors)
    queries = 128 // tensors.value.itemsize
    assert counters["narrow_loads"] == -(-784 // queries) * 2 * queries  # γ, by every thread
    assert counters["narrow_stores"] == 0
    assert counters["bank_conflicts"] == 0
    if dtype == "half":
        tensor, scalar = counters["tensor_multiply_adds"], counters["scalar_multiply_adds"]
        assert tensor >= 784 * 784 * (16 + 128)
        assert tensor >= 0.9 * (tensor + scalar)


def test_twice_the_positions_need_no_more_memory_per_block(driver: Driver) -> None:
    """Bytes grow as tiles times positions: the map of N × N weights is never written."""
    small, large = (driver(draw("half", 1, 64, n)).counters for n in (128, 256))
    assert large["stored_bytes"] == 2 * small["stored_bytes"] == 2 * 128 * 64 * 2


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_empty_batch(driver: Driver, dtype: str) -> None:
    result = driver(draw(dtype, 0, 64, 49), received=True)
    assert result.out.shape == (0, 64, 49)
    assert not any(result.counters.values())
    assert driver(draw(dtype, 2, 64, 0)).out.size == 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("side", [48, 224])
def test_on_the_features_of_a_photograph(
    driver: Driver, astronaut: np.ndarray, dtype: str, side: int
) -> None:
    """The shipped network on a real face, at its own size and at that of the paper, against PyTorch."""
    import cv2
    import torch

    from fer_edge.export.networks.attention_op import attend, attention_weights
    from fer_edge.export.weights import load_weights

    network = load_weights(ROOT / "fer_edge" / "models" / "conv-attention.safetensors").module
    gray = cv2.cvtColor(astronaut[40:220, 130:310], cv2.COLOR_BGR2GRAY)
    batch = (cv2.resize(gray, (side, side)) / 255 - 0.508) / 0.255
    with torch.no_grad():
        features = network.features(torch.from_numpy(batch.astype(np.float32))[None, None])
        operands = [
            *(layer(features).flatten(2) for layer in (network.attention.query, network.attention.key)),
            network.attention.value(features).flatten(2),
            features.flatten(2),
            network.attention.gamma,
        ]
        tensors = Tensors(*(operand.numpy() for operand in operands)).as_type(DTYPES[dtype])
        result = check(driver, tensors)
        halves_or_floats = [torch.from_numpy(tensor).float() for tensor in tensors.all()]
        expected = attend(*halves_or_floats).numpy()
        received = attention_weights(*halves_or_floats[:2]).mean(1).numpy()
    assert result.out.shape == (1, 128, (side // 8) ** 2)
    tolerance = 2.0**-10 if dtype == "half" else 1e-5
    np.testing.assert_allclose(result.out, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())
    np.testing.assert_allclose(result.received, received, rtol=4 * tolerance, atol=1e-6)


@pytest.mark.parametrize(("dtype", "size"), [("float", 1e4), ("half", 6e4)])
@pytest.mark.parametrize("channels", [8, 64, 512])
def test_large_scores_do_not_overflow(driver: Driver, dtype: str, size: float, channels: int) -> None:
    tensors = draw(dtype, 1, channels, 83)
    largest = max(np.abs(tensors.query).max(), np.abs(tensors.key).max())
    grown = [(tensor.astype(np.float64) * size / largest) for tensor in (tensors.query, tensors.key)]
    tensors = replace(tensors, query=grown[0], key=grown[1]).as_type(DTYPES[dtype])
    result, (out, received) = driver(tensors, received=True), reference(tensors)
    np.testing.assert_allclose(result.out, out, rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(result.received, received, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("score", [0.0, 200.0, -200.0])
def test_equal_scores_give_the_mean_exactly(driver: Driver, dtype: str, score: float) -> None:
    """Σ v / N is exact for these integers, N = 64, and so is every weight."""
    rng = np.random.default_rng(0)
    query, key = (
        np.full((1, 2, 64), np.sqrt(abs(score))),
        np.full((1, 2, 64), np.copysign(np.sqrt(abs(score)), score)),
    )
    value, residual = rng.integers(-2, 3, (1, 16, 64)), rng.integers(-8, 9, (1, 16, 64)) / 8
    tensors = Tensors(query, key, value, residual, np.array(0.5)).as_type(DTYPES[dtype])
    result = driver(tensors, received=True)
    exact = value.mean(-1, keepdims=True) / 2 + residual
    np.testing.assert_array_equal(result.out, exact.astype(DTYPES[dtype]))
    np.testing.assert_array_equal(result.received, np.full((1, 64), 1 / 64))


@pytest.mark.parametrize("dtype", DTYPES)
def test_keys_of_minus_infinity_are_left_out(driver: Driver, dtype: str) -> None:
    """Also where the whole first tile is: nothing is subtracted from it that would give NaN."""
    tensors = draw(dtype, 1, 8, 83)
    key = tensors.key.copy()
    key[..., :40] = -np.inf
    key[..., 60] = -np.inf
    tensors = replace(tensors, query=np.abs(tensors.query) + DTYPES[dtype](0.1), key=key)
    result, (out, received) = driver(tensors, received=True), reference(tensors)
    np.testing.assert_allclose(result.out, out, rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(result.received, received, rtol=2e-3, atol=1e-7)
    all_left_out = driver(replace(tensors, key=np.full_like(key, -np.inf))).out
    assert np.isnan(all_left_out).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("where", ["query", "key", "value", "residual"])
def test_not_a_number_stays_where_it_belongs(driver: Driver, dtype: str, where: str) -> None:
    tensors = draw(dtype, 3, 64, 49)
    clean = driver(tensors, received=True)
    spoilt_tensor = getattr(tensors, where).copy()
    spoilt_tensor[1, 3, 17] = np.nan
    spoilt = driver(replace(tensors, **{where: spoilt_tensor}), received=True)
    for sample in (0, 2):
        np.testing.assert_array_equal(spoilt.out[sample], clean.out[sample])
        np.testing.assert_array_equal(spoilt.received[sample], clean.received[sample])
    expected = np.zeros((64, 49), bool)  # where NaN belongs by the equations
    expected[{"query": np.s_[:, 17], "key": np.s_[:], "value": np.s_[3], "residual": np.s_[3, 17]}[where]] = (
        True
    )
    np.testing.assert_array_equal(np.isnan(spoilt.out[1]), expected)
    assert np.isnan(spoilt.received[1]).all() == (where in ("query", "key"))


@pytest.mark.parametrize(
    ("dtype", "positions", "offset", "bytes_at_once"),
    [
        ("half", 80, 0, 16),
        ("half", 80, 2, 4),
        ("half", 82, 0, 4),
        ("half", 80, 1, 2),
        ("half", 81, 0, 2),
        ("float", 80, 0, 16),
        ("float", 80, 1, 4),
        ("float", 81, 0, 4),
    ],
)
def test_memory_is_read_as_wide_as_its_alignment_allows(
    driver: Driver, dtype: str, positions: int, offset: int, bytes_at_once: int
) -> None:
    tensors = draw(dtype, 2, 64, positions)
    counters = driver(tensors, offset=offset).counters
    size, gammas = tensors.value.itemsize, 2 * 2 * (128 // tensors.value.itemsize)
    gammas *= -(-positions // (128 // size))
    wide, narrow = counters["wide_loads"], counters["narrow_loads"] - gammas
    assert (wide == 0) == (bytes_at_once < 16)
    assert 16 * wide + bytes_at_once % 16 * narrow == counters["loaded_bytes"] - size * gammas
    assert (counters["wide_stores"] == 0) == (bytes_at_once < 16)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [1, 2])
def test_misaligned_tensors_give_the_same(driver: Driver, dtype: str, offset: int) -> None:
    tensors = draw(dtype, 2, 64, 80)
    aligned, moved = driver(tensors, received=True), driver(tensors, received=True, offset=offset)
    np.testing.assert_array_equal(moved.out, aligned.out)
    np.testing.assert_array_equal(moved.received, aligned.received)
    assert moved.counters["loaded_bytes"] == aligned.counters["loaded_bytes"]


SCHEDULES = [
    {"order": "forward"},
    {"order": "reverse"},
    *({"order": "random", "seed": seed} for seed in (1, 2)),
]
# Two stages and one; whole tiles and a rest; 16 bytes at once, 4, and single halves.
SHAPES = [(128, 83), (64, 90), (128, 96), (264, 80)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("channels", "positions"), SHAPES)
def test_the_schedule_does_not_matter(driver: Driver, dtype: str, channels: int, positions: int) -> None:
    tensors = draw(dtype, 1, channels, positions)
    first, *others = (driver(tensors, received=True, **schedule) for schedule in SCHEDULES)
    for other in others:
        np.testing.assert_array_equal(other.out, first.out)
        np.testing.assert_array_equal(other.received, first.received)


BARRIERS = [
    number
    for number, line in enumerate(SOURCE.read_text().splitlines(), start=1)
    if line.strip().startswith("__syncthreads();")
]


def test_the_barriers_are_found() -> None:
    assert len(BARRIERS) == SOURCE.read_text().count("__syncthreads()") >= 6


@pytest.mark.parametrize("line", BARRIERS)
def test_every_barrier_is_needed(driver: Driver, line: int) -> None:
    """Without it some schedule of some shape gives another result."""

    def differs(dtype: str, channels: int, positions: int, schedule: dict) -> bool:
        tensors = draw(dtype, 1, channels, positions)
        whole, broken = (driver(tensors, received=True, **schedule, skip=skip) for skip in (0, line))
        return not (
            np.array_equal(whole.out, broken.out, equal_nan=True)
            and np.array_equal(whole.received, broken.received, equal_nan=True)
        )

    assert any(
        differs(dtype, *shape, schedule) for schedule in SCHEDULES for shape in SHAPES for dtype in DTYPES
    )


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("null", "key is a null pointer"),
        ("misaligned", "value must be aligned to 2 bytes"),
        ("in_place", "out overlaps residual: it must have memory of its own"),
        ("overlap", "out overlaps residual"),
        ("no_statistics", "row_statistics is a null pointer"),
    ],
)
def test_bad_pointers_are_refused(driver: Driver, fault: str, message: str) -> None:
    completed = driver.start(draw("half", 1, 16, 9), received=1, fault=fault)
    assert completed.returncode == 4
    assert message in completed.stderr


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"batch": -1}, "batch must be 0 to 65535, found -1"),
        ({"batch": 65536}, "batch must be 0 to 65535, found 65536"),
        ({"channels": 12}, "channels must be a multiple of 8 from 8 to 512, found 12"),
        ({"channels": 0}, "channels must be a multiple of 8 from 8 to 512, found 0"),
        ({"channels": 520}, "channels must be a multiple of 8 from 8 to 512, found 520"),
        ({"positions": -1}, "positions must be 0 to 4194239, found -1"),
        ({"batch": 0, "positions": 4194240}, "positions must be 0 to 4194239, found 4194240"),
    ],
)
def test_bad_shapes_are_refused(driver: Driver, shape: dict[str, int], message: str) -> None:
    completed = driver.start(draw("half", 0, 8, 0), **shape)
    assert completed.returncode == 4
    assert message in completed.stderr


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("channels", "positions", "offset"),
    [(8, 1, 0), (8, 49, 1), (24, 83, 0), (64, 80, 0), (128, 72, 0), (264, 33, 1), (72, 66, 2), (512, 24, 0)],
)
def test_under_the_sanitizers(
    sanitized: Driver, dtype: str, channels: int, positions: int, offset: int
) -> None:
    check(sanitized, draw(dtype, 2, channels, positions), offset=offset)

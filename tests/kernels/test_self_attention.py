"""The self-attention kernel, run on the CPU, against float64 and against PyTorch."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
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
    """Run, and compare with float64: halves with twice the error of the unfused computation."""
    result = driver(tensors, received=True, **options)
    out, received = reference(tensors)
    largest, rms = error(result.out, out)
    if tensors.value.dtype == np.float16:
        largest_unfused, rms_unfused = error(unfused_half(tensors), out)
        assert largest <= 2 * largest_unfused
        assert rms <= 2 * rms_unfused
        np.testing.assert_allclose(result.received, received, rtol=2e-3, atol=1e-7)
    else:
        assert largest <= 4e-6 * np.abs(out).max()
        np.testing.assert_allclose(result.received, received, rtol=2e-5, atol=1e-9)
    return result


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("channels", CHANNELS)
def test_against_float64(driver: Driver, dtype: str, channels: int, positions: int) -> None:
    batch = 3 if positions < 100 and channels < 512 else 1
    check(driver, draw(dtype, batch, channels, positions))

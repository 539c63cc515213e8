"""Counted traffic and arithmetic of the kernels equal values computed by hand."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from types import ModuleType

import pytest
from places import ROOT

BENCHMARKS = ROOT / "benchmarks"
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++ to run kernels on the CPU")


@pytest.fixture
def kernel_work(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("kernel_work")


@needs_compiler
def test_attention_at_48_pixels_by_hand(kernel_work: ModuleType, tmp_path: Path) -> None:
    """36 positions, 128 channels, 16 of queries and keys, halves: one tile of 64 queries, two of 32 keys."""
    work = kernel_work.count_attention(kernel_work.Emulation(tmp_path), "conv-attention 48×48", 2)
    # Query and key 2 · 16 · 36, value, residual and out 3 · 128 · 36; γ once.
    assert work.once_bytes == 2 * (2 * (2 * 16 * 36 + 3 * 128 * 36) + 1) == 59906
    # γ by each of 128 threads of a sample's block.
    assert work.counted_bytes == 2 * 2 * (2 * 16 * 36 + 3 * 128 * 36 + 128)
    # Four N × N maps, and the mixed values written and read.
    assert work.unfused_bytes == work.once_bytes + 2 * 2 * (4 * 36 * 36 + 2 * 128 * 36)
    # Padded to 48 queries (three warps of 16 that have any) or more, and to 64 keys at most.
    assert 2 * 2 * 36 * 36 * 144 <= work.operations <= 1.1 * 2 * 2 * 64 * 64 * 144
    nano = kernel_work.BOARDS["Orin Nano 8 GB"]
    # Below 10.25 TFLOP/s over 68 GB/s = 151 FLOP per byte, memory decides.
    assert work.intensity < 151
    assert work.times_us(nano) == pytest.approx((59906 / 68e3, work.counted_bytes / 68e3))


@needs_compiler
def test_crops_at_48_pixels_by_hand(kernel_work: ModuleType, tmp_path: Path) -> None:
    """160 → 48: samples are 3⅓ pixels apart, so that each has four pixels of its own."""
    work = kernel_work.count_crops(kernel_work.Emulation(tmp_path), "gray 48×48", 3)
    assert work.once_bytes == work.counted_bytes == 3 * (48 * 48 * 4 * 3 + 48 * 48 * 2)


def test_pixels_that_a_crop_reads(kernel_work: ModuleType) -> None:
    assert kernel_work._pixels_read(160) == 160
    assert kernel_work._pixels_read(224) == 160
    assert kernel_work._pixels_read(48) == 96


@pytest.mark.parametrize(
    ("operations", "moved", "expected_us"),
    [(42.6e6, 0, 1.0), (0, 204.8e3, 1.0), (2 * 42.6e6, 204.8e3, 2.0), (42.6e6, 3 * 204.8e3, 3.0)],
)
def test_the_roofline(kernel_work: ModuleType, operations: float, moved: float, expected_us: float) -> None:
    """AGX Orin: 85.2 TOPS in INT8, half of that in FP16, and 204.8 GB/s."""
    assert kernel_work.BOARDS["AGX Orin 64 GB"].time_us(operations, moved) == pytest.approx(expected_us)

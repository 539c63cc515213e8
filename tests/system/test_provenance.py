"""Latency percentiles, and the record beside a figure."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from fer_edge.results import summarise
from fer_edge.system.provenance import device_name, measurement_record, processor_features, tool_versions


def test_percentiles_interpolate() -> None:
    summary = summarise([4.0, 1.0, 3.0, 2.0, 5.0])
    # Position q * (n - 1) in the sorted list: 2, 3.6, 3.96.
    assert (summary.n, summary.p50_ms) == (5, 3.0)
    assert summary.p90_ms == pytest.approx(4.6)
    assert summary.p99_ms == pytest.approx(4.96)


@pytest.mark.parametrize("values", [[2.5], np.array([2.5], np.float32)], ids=["list", "array"])
def test_one_latency_is_every_percentile(values: list[float]) -> None:
    assert summarise(values).to_dict() == {"n": 1, "p50_ms": 2.5, "p90_ms": 2.5, "p99_ms": 2.5}


def test_no_latency_is_no_number() -> None:
    summary = summarise([])
    assert summary.n == 0
    assert math.isnan(summary.p50_ms)
    assert math.isnan(summary.p99_ms)


def test_tool_versions_are_those_that_run() -> None:
    versions = tool_versions()
    assert versions["numpy"] == np.__version__
    assert set(versions) >= {"python", "fer-edge", "onnxruntime"}


def test_measurement_record_is_json() -> None:
    record = json.loads(json.dumps(measurement_record(), allow_nan=False))
    assert record["device"] == device_name() != ""
    assert record["cores"] >= 1
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", record["date"])
    assert record["commit"] is None or re.fullmatch(r"[0-9a-f]{12}", record["commit"])


def test_record_without_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert measurement_record()["commit"] is None


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        ("processor\t: 0\nflags\t\t: fpu sse4_2 avx2 fma\n", ("avx2",)),
        ("flags : amx_int8 avx512_vnni avx2 avx512f avx_vnni\n", ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8")),
        ("Features\t: fp asimd evtstrm asimddp i8mm\nCPU part\t: 0xd42\n", ("asimd", "asimddp", "i8mm")),
        ("Features\t: asimd asimddp i8mm\n\nFeatures\t: asimd asimddp\n", ("asimd", "asimddp")),
        ("vmx flags\t: avx2\nmodel name\t: avx512f\n", ()),
        ("", ()),
    ],
)  # fmt: skip
def test_processor_features_are_those_that_every_core_has(cpuinfo: str, expected: tuple[str, ...]) -> None:
    assert processor_features(cpuinfo) == expected


def test_processor_features_of_this_machine_are_in_the_record() -> None:
    flags = Path("/proc/cpuinfo").read_text()
    found = processor_features()
    assert measurement_record()["processor_features"] == list(found)
    assert all(f" {name}" in flags for name in found)
    assert found or "avx2" not in flags

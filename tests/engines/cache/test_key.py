"""The GPU in the key of an engine."""

from __future__ import annotations

import importlib
import sys
import types

import pytest
from cuda_runtime import Recorder

from fer_edge.engines.cache import key
from fer_edge.engines.cache.key import EngineKey, GpuKey, identify_gpu


@pytest.mark.parametrize(
    ("name", "multiprocessors", "gib", "expected"),
    [
        (b"Orin", 8, 7.4, "Orin, 8 multiprocessors, 7 GiB"),
        (b"Orin", 16, 61.4, "Orin, 16 multiprocessors, 61 GiB"),
        (b"NVIDIA A100-SXM4-40GB MIG 1g.5gb", 14, 4.75, "NVIDIA A100-SXM4-40GB MIG 1g.5gb, 14 multiprocessors, 5 GiB"),
        ("Größe\x1b[2J".encode(), 1, 1, "Gr--e--2J, 1 multiprocessors, 1 GiB"),
        (b"x" * 200, 1, 1, "x" * 80),
    ],
)  # fmt: skip
def test_what_a_gpu_is_to_an_engine(
    name: bytes, multiprocessors: int, gib: float, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cuda.bindings.runtime", reason="needs cuda-python")
    found = types.SimpleNamespace(
        name=name, multiProcessorCount=multiprocessors, totalGlobalMem=int(gib * 2**30), major=8, minor=7
    )
    real = importlib.import_module("cuda.bindings.runtime").cudaDeviceProp
    assert all(hasattr(real, attribute) for attribute in vars(found))
    for method, answer in {
        "cudaGetDeviceCount": (0, 1),
        "cudaGetDeviceProperties": (0, found),
        "cudaDriverGetVersion": (0, 12060),
    }.items():
        monkeypatch.setattr(Recorder, method, lambda self, *rest, answer=answer: answer, raising=False)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", Recorder())
    for version, driver in (("540.4.0", "540.4.0, CUDA 12.6"), (None, "CUDA 12.6")):
        monkeypatch.setattr(key, "read_driver_version", lambda machine, version=version: version)
        assert identify_gpu() == GpuKey((8, 7), expected, driver)
        EngineKey("a" * 64, "fp32", (1, 1, 1), "tensorrt", "10.3", (8, 7), expected, driver)

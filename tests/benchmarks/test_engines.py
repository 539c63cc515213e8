"""The benchmark of engines continues an interrupted run, and reports refused engines."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from places import ROOT

from fer_edge.system.memory import FreeMemory

SCRIPT = ROOT / "benchmarks" / "engines.py"
NOW = {"commit": "abc", "compiler": "1.7", "plugin": None}


@pytest.fixture
def engines() -> ModuleType:
    """Loaded from its file: ``engines`` may be the name of the folder of tests as well."""
    spec = importlib.util.spec_from_file_location("benchmark_of_engines", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def row(**changes: Any) -> dict[str, Any]:
    return {
        "network": "resnet18",
        "precision": "fp16",
        "compute_capability": "8.6",
        "seconds": 1.0,
        **changes,
    }


def test_rows_of_the_same_conditions_are_kept(engines: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "engines.json"
    assert engines.kept_rows(None, NOW) == engines.kept_rows(path, NOW) == []
    refused = row(compute_capability="7.5", refused="too old")
    path.write_text(json.dumps({"record": {**NOW, "date": "2026-01-01"}, "rows": [row(), refused]}))
    assert engines.kept_rows(path, NOW) == [row(), refused]
    for changed in ({"commit": "def"}, {"compiler": "1.8"}, {"plugin": "a" * 64}):
        assert engines.kept_rows(path, NOW | changed) == []


def test_what_does_not_fit_is_left_out(engines: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    for gigabytes, expected in ((8, False), (17, True)):
        free = FreeMemory(gigabytes * 10**9, 0, limited=False)
        monkeypatch.setattr(engines, "measure_free_memory", lambda machine, free=free: free)
        found = engines.default_networks()
        assert ("resmasking-ensemble" in found) == expected
        assert len(found) == len(engines.NETWORKS) - (not expected)


def test_the_ends_of_a_table(engines: ModuleType) -> None:
    built = row(onnx_bytes=2e6, weights_memory_bytes=None, engine_bytes=3e6, peak_memory_bytes=4e6)
    built |= {"layers": 55, "plugin_layers": 2}
    assert engines.cells(built)[3:] == ("1.0", "2.0", "–", "3.0", "4.0", "55", "2")
    refused = {**row(onnx_bytes=2e6, refused="too old")}
    del refused["seconds"]
    assert engines.cells(refused)[3:] == ("refused", "2.0", "–", "–", "–", "–", "–")


@pytest.mark.slow
def test_an_interrupted_benchmark_goes_on(tmp_path: Path) -> None:
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("needs TensorRT-RTX: pip install 'fer-edge[rtx]'")
    path = tmp_path / "engines.json"
    command = [sys.executable, SCRIPT, "--network", "conv-attention", "--precision", "fp16", "--json", path]
    for devices, measured in ((["8.6", "7.5"], 2), (["8.6"], 0)):
        result = subprocess.run(
            [*command, "--compute-capability", *devices], capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
        assert f"conv-attention: {measured} measured" in result.stdout
        assert all(device in result.stdout for device in devices)
        assert ("compute capability 7.5 supports only FP16 networks" in result.stdout) == ("7.5" in devices)
    rows = {r["compute_capability"]: r for r in json.loads(path.read_text())["rows"]}
    assert "supports only FP16 networks" in rows["7.5"]["refused"]
    found = rows["8.6"]
    assert found["engine_bytes"] > found["weights_memory_bytes"] > 0
    assert found["layers"] > 40

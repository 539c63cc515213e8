"""INT8 on a processor with AVX2 and without VNNI, emulated: probed, cured, tested, and equal to the host's.

Its products are added in pairs of 16 bits, which saturate. A host with VNNI and the emulated one are both kinds.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fer_edge import Runtime
from fer_edge.backends import BACKENDS, SessionOptions, available_backends, load_session
from fer_edge.backends.base import DEFAULT_INT8, Int8Config
from fer_edge.backends.int8_probe import probe_int8
from fer_edge.backends.onnxruntime import EXACT_INT8
from fer_edge.backends.openvino import FLOAT_INT8
from fer_edge.backends.self_test import TOLERANCES
from fer_edge.bundle import open_bundle
from fer_edge.system.provenance import processor_features

CPU_BACKENDS = available_backends("cpu")
needs_openvino = pytest.mark.skipif("openvino" not in CPU_BACKENDS, reason="needs openvino")
needs_vnni = pytest.mark.skipif(
    not {"avx512_vnni", "avx_vnni"} & set(processor_features()),
    reason="unshown here: this processor has no VNNI",
)
SATURATING = {"conv3x3", "conv1x1", "dense"}

Check = Callable[..., dict[str, Any]]
RunEmulated = Callable[..., Any]


@pytest.fixture(scope="module")
def onnxruntime(check: Check, batch: np.ndarray) -> dict[str, Any]:
    """Results of ONNX Runtime on that processor."""
    names = ("features", "probe", "refusal", "self_test", "unchecked_self_test", "logits")
    return check("onnxruntime", batch, *names)


def check_probe(found: dict[str, Any], cure: Int8Config) -> None:
    assert found["features"] == {"AVX2": True, "AVX512F": False, "AVX512VNNI": False}
    assert found["probe"]["entries"] == cure.entries
    levels = found["probe"]["levels"]
    for operator in SATURATING:
        assert 34 <= levels[f"cpu.{operator}"] <= 38, operator  # 32767 in place of 2 · 255 · 127
    error = found["refusal"]
    assert error.startswith("BackendError: uncured-")
    assert "does not compute INT8 exactly on this processor" in error
    assert "cpu.conv3x3 36" in error
    assert "--precision fp32" in error


def host_logits(bundle: Path, backend: str, batch: np.ndarray) -> np.ndarray:
    session = load_session(open_bundle(bundle), BACKENDS[backend], "int8", SessionOptions(threads=1))
    try:
        return session.run(batch)["logits"]
    finally:
        session.close()


def test_onnx_runtime_saturates_and_is_cured_or_refused(onnxruntime: dict[str, Any]) -> None:
    check_probe(onnxruntime, EXACT_INT8)


def test_onnx_runtime_gives_the_logits_of_the_host(
    onnxruntime: dict[str, Any], int8_bundle: Path, batch: np.ndarray
) -> None:
    expected = host_logits(int8_bundle, "onnxruntime", batch)
    np.testing.assert_allclose(
        onnxruntime["logits"], expected, rtol=0, atol=1e-3 * float(np.abs(expected).max())
    )


def test_the_self_test_passes_with_the_cure_and_refuses_saturation(onnxruntime: dict[str, Any]) -> None:
    report = onnxruntime["self_test"]
    assert report["mode"] == "passed"
    assert report["error"] < 1e-3
    error = onnxruntime["unchecked_self_test"]
    assert error.startswith("SelfTestError: the outputs of int8.cpu of")
    assert f"expected a relative error of at most {TOLERANCES['int8']:g}" in error


@needs_openvino
def test_openvino_saturates_and_is_cured_or_refused(check: Check, batch: np.ndarray) -> None:
    check_probe(check("openvino", batch, "features", "probe", "refusal"), FLOAT_INT8)


@needs_openvino
@pytest.mark.slow
def test_openvino_passes_with_the_cure_and_gives_the_logits_of_the_host(
    check: Check, int8_bundle: Path, batch: np.ndarray
) -> None:
    """Its kernels of floating point take 14 s a face under emulation."""
    found = check("openvino", batch[:1], "self_test", "logits")
    expected = host_logits(int8_bundle, "openvino", batch[:1])
    np.testing.assert_allclose(found["logits"], expected, rtol=0, atol=2e-2 * float(np.abs(expected).max()))
    report = found["self_test"]
    assert report["mode"] == "passed"
    assert report["error"] < TOLERANCES["int8"] / 2


@needs_vnni
@pytest.mark.parametrize("name", CPU_BACKENDS)
def test_with_vnni_the_default_is_exact(name: str) -> None:
    found = probe_int8(BACKENDS[name], SessionOptions(threads=1))
    assert found.config == DEFAULT_INT8
    assert all(abs(level - 71) <= 1 for level in found.levels.values()), found.levels


@pytest.mark.slow
def test_a_photograph_gives_the_result_of_the_host(
    run_emulated: RunEmulated, int8_bundle: Path, astronaut_file: Path, astronaut: np.ndarray
) -> None:
    """Detection, crop and INT8 network, by the command that users run."""
    options = ("--source", astronaut_file, "--backend", "onnxruntime", "--json")
    result = run_emulated("-m", "fer_edge.cli", "run", int8_bundle, *options)
    assert result.returncode == 0, result.stderr
    (found,) = json.loads(result.stdout)["results"][0]["faces"]
    with Runtime(int8_bundle, backend="onnxruntime") as runtime:
        (expected,) = runtime(astronaut).faces
    assert found["label"] == expected.label == "happiness"
    np.testing.assert_allclose(found["box_xyxy"], expected.box_xyxy, atol=1)
    assert found["probability"] == pytest.approx(expected.probability, abs=0.02)

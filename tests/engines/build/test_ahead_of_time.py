"""Engines of a bundle compiled ahead of time, by the command line."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from fer_edge.builder import BuildOptions, build
from fer_edge.bundle import ENGINES, open_bundle
from fer_edge.engines.cache.header import read_header
from fer_edge.engines.cache.store import EngineCache
from fer_edge.errors import EngineError, UsageError

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="needs TensorRT-RTX: pip install 'fer-edge[rtx]'"
)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_bundle_with_engines(precision: str, tmp_path: Path) -> None:
    report = build(
        BuildOptions(
            precision=precision,
            backend="tensorrt-rtx",
            compute_capabilities=("8.6", "12.0"),
            comparison_images=8,
            plugin="none",
            output=tmp_path / "rtx.fer",
        )
    )
    bundle = open_bundle(tmp_path / "rtx.fer")  # every engine and header has its sha256 in the manifest
    engines = [name for name in bundle.manifest.files if name.endswith(".engine")]
    assert len(engines) == 2
    headers = [read_header(bundle.path / name.replace(".engine", ".json")) for name in engines]
    keys = [header.key for header in headers if header is not None]
    assert {key.compute_capability for key in keys} == {(8, 6), (12, 0)}
    parts = {(key.precision, key.gpu, key.driver, key.plugin, len(key.options)) for key in keys}
    assert parts == {(precision, None, None, None, 0)}
    for key in keys:
        found = EngineCache(tmp_path / "cache", also=[bundle.path / ENGINES]).find(key)
        assert found is not None
        assert found.path == bundle.path / ENGINES / f"{key.digest()}.engine"
    model = bundle.model_path(precision, "tensorrt").stat().st_size
    for engine in report.engines:
        assert engine.weights_memory_bytes == pytest.approx(model, rel=0.15)
        assert engine.plugin_layers == 0
    assert {tuple(e["options"]["compute_capability"]) for e in report.to_dict()["engines"]} == {
        (8, 6),
        (12, 0),
    }


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"compute_capabilities": ("8.7",)}, EngineError, "Jetson Orin.*build on the device itself"),
        ({"compute_capabilities": ("11.0",)}, EngineError, "Jetson.*build on the device itself"),
        ({"compute_capabilities": ("86",)}, UsageError, "expected a compute capability such as 8.6"),
        (
            {"compute_capabilities": ("8.6",), "backend": "onnxruntime"},
            UsageError,
            "compiled by tensorrt-rtx, found --backend .*Fix: give --backend tensorrt-rtx",
        ),
        ({"plugin": "maybe"}, UsageError, "unknown choice for the plugin 'maybe'"),
    ],
)
def test_what_cannot_be_compiled_leaves_nothing(
    options: dict, error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        build(BuildOptions(precision="fp32", output=tmp_path / "x.fer", **options))
    assert list(tmp_path.iterdir()) == []


def test_without_a_gpu_the_devices_must_be_named(tmp_path: Path) -> None:
    from fer_edge.backends import BACKENDS

    if BACKENDS["tensorrt-rtx"].available().ok:
        pytest.skip("this machine has a GPU")
    with pytest.raises(
        UsageError,
        match="expects a GPU or --compute-capability, found neither.*Fix: .*--compute-capability 8.6",
    ):
        build(BuildOptions(backend="tensorrt-rtx", output=tmp_path / "x.fer"))

"""Cache key of an engine from its model, options and device."""

from __future__ import annotations

from pathlib import Path

from fer_edge._utils.files import sha256_of
from fer_edge.engines.build.options import EngineOptions
from fer_edge.engines.cache.key import EngineKey, GpuKey, PluginKey
from fer_edge.engines.plugin import NAME, NAMESPACE, VERSION


def make_key(
    onnx_sha256: str,
    options: EngineOptions,
    version: str,
    gpu: GpuKey,
    plugin: Path | None,
) -> EngineKey:
    """Return the key of an engine.

    Parameters
    ----------
    onnx_sha256 : str
        Hash of the ONNX file.
    options : EngineOptions
        Build options.
    version : str
        Version of the compiler.
    gpu : GpuKey
        The device; without name and driver for an engine that is compiled ahead of time.
    plugin : Path or None
        The plugin library, if the engine needs it.
    """
    return EngineKey(
        onnx_sha256=onnx_sha256,
        precision=options.precision,
        batches=(options.min_batch, options.opt_batch, options.max_batch),
        flavour=options.flavour,
        flavour_version=version,
        compute_capability=gpu.compute_capability,
        gpu=gpu.name,
        driver=gpu.driver,
        options=options.of_the_engine(),
        plugin=None if plugin is None else PluginKey(f"{NAMESPACE}::{NAME}", VERSION, sha256_of(plugin)),
    )

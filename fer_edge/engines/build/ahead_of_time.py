"""Engines compiled ahead of time for other devices by TensorRT-RTX, without a GPU, and stored in the bundle."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from fer_edge._utils.files import sha256_of
from fer_edge.cuda.gpus import ComputeCapability
from fer_edge.engines.build.builder import build_engine
from fer_edge.engines.build.keys import make_key
from fer_edge.engines.build.options import EngineOptions, EngineReport
from fer_edge.engines.cache.header import write_header
from fer_edge.engines.cache.key import GpuKey
from fer_edge.engines.flavours import FLAVOURS

#: The only compiler that needs no GPU.
FLAVOUR = "tensorrt-rtx"


def compile_ahead(
    model: Path,
    folder: Path,
    precision: str,
    capabilities: Sequence[ComputeCapability],
    plugin: str = "auto",
    on_progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> tuple[EngineReport, ...]:
    """Compile ``model`` for each of ``capabilities`` into ``folder``, and write the headers.

    Parameters
    ----------
    model : Path
        ONNX file, of ``precision``.
    folder : Path
        ``engines`` of a bundle; created if it does not exist.
    precision : {"fp32", "fp16", "int8"}
        Precision of ``model``.
    capabilities : sequence of (int, int)
        Such as (8, 6).
    plugin : {"auto", "required", "none"}
        Use of the self-attention plugin.
    on_progress : callable
        Called with (stage, done, total).

    Raises
    ------
    EngineError
        As :func:`fer_edge.engines.build.builder.build_engine`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    reports = []
    for capability in capabilities:
        options = EngineOptions(FLAVOUR, precision, compute_capability=capability, plugin=plugin)
        part = folder / "part.engine"
        report = build_engine(model, part, options, on_progress)
        version = report.versions[FLAVOURS[FLAVOUR].module]
        used = report.plugin if report.plugin_layers else None
        key = make_key(sha256_of(model), options, version, GpuKey(capability), used)
        engine = part.replace(folder / f"{key.digest()}.engine")
        write_header(folder / f"{key.digest()}.json", key, engine)
        reports.append(dataclasses.replace(report, path=engine))
    return tuple(reports)

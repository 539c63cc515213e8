"""Options and report of an engine build."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fer_edge._utils.checks import require_flag, require_number, require_path, require_whole
from fer_edge.cuda.gpus import ComputeCapability
from fer_edge.engines.flavours import FLAVOURS, Flavour
from fer_edge.engines.plugin import PLUGIN_CHOICES
from fer_edge.errors import UsageError, lookup
from fer_edge.manifest import PRECISIONS

#: TensorRT silently clamps higher levels to this one.
_MAX_BUILDER_LEVEL = 5
MAX_BATCH = 1 << 16
#: Generous: a Jetson has at most two.
MAX_DLA_CORES = 16
_MAX_BYTES = 1 << 50
_MIN_SHARE = 1e-3
_MIN_LIMIT_S = 1e-3


@dataclass(frozen=True)
class EngineOptions:
    """Options of an engine build.

    Attributes
    ----------
    flavour : str
        A key of :data:`fer_edge.engines.flavours.FLAVOURS`.
    precision : {"fp32", "fp16", "int8"}
        Expected precision of the ONNX file. The network is strongly typed, so the file determines the precision; a
        file of another one is rejected. A file with Q/DQ is int8, independent of the types of its other layers.
    min_batch, opt_batch, max_batch : int
        Batch sizes of the optimisation profile.
    compute_capability : (int, int) or None
        Target device, for compilers that compile ahead of time; ``None`` is the GPU of this machine.
    workspace_bytes : int or None
        Limit of the scratch memory of the engine; ``None`` uses ``workspace_share``.
    workspace_share : float
        Limit of the scratch memory as a fraction, above 0 and up to 1, of the device memory that is free when the
        build starts. For another device the default limit of the compiler applies.
    timing_cache : Path or None
        Cache file, read if it exists and written after the build; for compilers that measure kernels.
    builder_level : int or None
        Optimisation level of the compiler, 0 to 5, if it has one.
    dla_core : int or None
        Index of the deep-learning accelerator that runs the layers it supports; ``None`` is the GPU. It computes
        FP16 and INT8, at one batch size. Supported versions of TensorRT: ``docs/versions.md``.
    gpu_fallback : bool
        Run layers that the accelerator does not support on the GPU; otherwise they are an error.
    plugin : {"auto", "required", "none"}
        Use of the plugin for self-attention: if its library is installed, always (else an error), or never. Without
        the plugin, self-attention is computed with standard operators. The report tells which was used.
    time_limit_s : float
        Time after which the build is stopped.
    log : Path or None
        File for the log of the compiler; ``None`` keeps only its last lines.
    """

    flavour: str = "tensorrt"
    precision: str = "fp32"
    min_batch: int = 1
    opt_batch: int = 8
    max_batch: int = 16
    compute_capability: ComputeCapability | None = None
    workspace_bytes: int | None = None
    workspace_share: float = 0.5
    timing_cache: Path | None = None
    builder_level: int | None = None
    dla_core: int | None = None
    gpu_fallback: bool = False
    plugin: str = "auto"
    time_limit_s: float = 3600.0
    log: Path | None = None

    def __post_init__(self) -> None:
        flavour = lookup(FLAVOURS, self.flavour, "flavour")
        lookup(dict.fromkeys(PRECISIONS), self.precision, "precision")
        lookup(dict.fromkeys(PLUGIN_CHOICES), self.plugin, "choice for the plugin")
        for name in ("min_batch", "opt_batch", "max_batch"):
            require_whole(name, getattr(self, name), 1, MAX_BATCH)
        if not 1 <= self.min_batch <= self.opt_batch <= self.max_batch:
            raise UsageError(
                f"expected batches 1 <= min <= opt <= max, found {self.min_batch}, {self.opt_batch}, {self.max_batch}. Fix: give ascending sizes"
            )
        if self.compute_capability is not None:
            if not (isinstance(self.compute_capability, tuple) and len(self.compute_capability) == 2):
                raise UsageError(
                    f"compute_capability must be two numbers such as (8, 6), found {self.compute_capability!r:.60}. Fix: give (major, minor)"
                )
            for part in self.compute_capability:
                require_whole("a part of compute_capability", part, 0, 99)
        if self.compute_capability is not None and not flavour.ahead_of_time:
            raise UsageError(
                f"{flavour.name} builds only for the device that it runs on. Fix: build there, without a compute capability"
            )
        if self.timing_cache is not None and not flavour.timing_cache:
            raise UsageError(f"{flavour.name} does not measure kernels. Fix: drop timing_cache")
        require_whole("workspace_bytes", self.workspace_bytes, 0, _MAX_BYTES, optional=True)
        require_number("workspace_share", self.workspace_share, _MIN_SHARE, 1)
        require_whole("builder_level", self.builder_level, 0, _MAX_BUILDER_LEVEL, optional=True)
        require_path("timing_cache", self.timing_cache)
        require_path("log", self.log)
        require_flag("gpu_fallback", self.gpu_fallback)
        require_number("time_limit_s", self.time_limit_s, _MIN_LIMIT_S, threading.TIMEOUT_MAX)
        self._check_dla(flavour)

    def _check_dla(self, flavour: Flavour) -> None:
        if self.dla_core is None:
            if self.gpu_fallback:
                raise UsageError("gpu_fallback needs a DLA. Fix: give dla_core too, or drop gpu_fallback")
            return
        if not flavour.dla:
            raise UsageError(
                f"{flavour.name} does not support DLAs. Fix: use tensorrt on a Jetson, or drop dla_core"
            )
        require_whole("dla_core", self.dla_core, 0, MAX_DLA_CORES - 1)
        if self.precision == "fp32":
            raise UsageError(
                "a DLA computes only FP16 and INT8, found an fp32 model. Fix: give an FP16 or INT8 model, or drop dla_core"
            )
        if not self.min_batch == self.opt_batch == self.max_batch:
            raise UsageError(
                f"a DLA supports one batch size, found min, opt and max {self.min_batch}, {self.opt_batch}, {self.max_batch}. Fix: set all three to the same size"
            )

    def of_the_engine(self) -> dict[str, int | float]:
        """Return the options that are set, change the engine and have no field of their own in its key.

        Includes the share of the free memory, but not its size in bytes, which differs from build to build.
        """
        chosen: dict[str, int | float | None] = {
            "workspace_bytes": self.workspace_bytes,
            "workspace_share": None,
            "builder_level": self.builder_level,
            "dla_core": self.dla_core,
            "gpu_fallback": self.gpu_fallback or None,
        }
        if self.workspace_bytes is None and self.compute_capability is None:
            chosen["workspace_share"] = self.workspace_share
        return {name: value for name, value in chosen.items() if value is not None}


@dataclass(frozen=True)
class EngineReport:
    """Report of an engine build.

    Attributes
    ----------
    path : Path
        The engine.
    options : EngineOptions
        Options of the build.
    size_bytes : int
        Size of the file.
    weights_memory_bytes : int or None
        Device memory of the weights as reported by the compiler; ``None`` if it reports nothing.
    workspace_bytes : int
        Limit of the scratch memory of the engine.
    peak_memory_bytes : int
        Peak resident memory of the build process.
    seconds : float
        From the start of the compiler to the written file.
    layers : int
        Layers of the parsed network, before fusion.
    dla_layers : int
        Number of layers that the DLA supports according to TensorRT; 0 without a DLA.
    plugin : Path or None
        The plugin library, which must be loaded before the engine; ``None`` without the plugin.
    plugin_layers : int
        Number of layers that the plugin computes.
    log_tail : tuple of str
        Last lines of the log of the compiler.
    versions : mapping
        Versions of the compiler and of other packages.
    """

    path: Path
    options: EngineOptions
    size_bytes: int
    weights_memory_bytes: int | None
    workspace_bytes: int
    peak_memory_bytes: int
    seconds: float
    layers: int
    dla_layers: int
    plugin: Path | None
    plugin_layers: int
    log_tail: tuple[str, ...]
    versions: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return json.loads(json.dumps(asdict(self), default=str))


def estimate_memory_bytes(onnx_bytes: int) -> int:
    """Return an estimate of the peak memory of a build, above all values that ``benchmarks/engines.py`` measured."""
    return 4 * onnx_bytes + (512 << 20)

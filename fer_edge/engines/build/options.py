"""What can be asked of the build of an engine, and what is said of one."""

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

#: TensorRT takes a higher level as this one without a word.
_MAX_BUILDER_LEVEL = 5
MAX_BATCH = 1 << 16
#: A Jetson has two at most.
MAX_DLA_CORES = 16
_MAX_BYTES = 1 << 50
_MIN_SHARE = 1e-3
_MIN_LIMIT_S = 1e-3


@dataclass(frozen=True)
class EngineOptions:
    """How to build an engine.

    Attributes
    ----------
    flavour : str
        A key of :data:`fer_edge.engines.flavours.FLAVOURS`.
    precision : {"fp32", "fp16", "int8"}
        What the ONNX file is, for the record: the network is strongly typed, so the file decides. A file of
        another precision is refused; one with Q/DQ is int8, whatever the rest computes in.
    min_batch, opt_batch, max_batch : int
        Batch sizes that the engine accepts, and the one that it is fast at.
    compute_capability : (int, int) or None
        The device to compile for, where the compiler can do so ahead of time; ``None`` is the GPU of this machine.
    workspace_bytes : int or None
        Scratch memory that the engine may use; ``None`` takes a share of what is free.
    workspace_share : float
        That share, above 0 and up to 1, of the device's memory that is free when the build starts. For a device
        that is not here nothing is known to be free: the compiler's own limit stays.
    timing_cache : Path or None
        Read where it exists, written after the build; for compilers that measure kernels.
    builder_level : int or None
        How long the compiler searches, 0 to 5, where it has such a level.
    dla_core : int or None
        Which deep-learning accelerator computes the layers that it can; ``None`` is the GPU. It computes FP16 and
        INT8, at one batch size. What TensorRT's versions accept: ``docs/versions.md``.
    gpu_fallback : bool
        Let the GPU compute the layers that the accelerator cannot; else they are an error.
    plugin : {"auto", "required", "none"}
        Whether self-attention is the project's kernel: where its library is installed, always or with an error,
        or never; else it is computed with the standard operators of its function body. The report says which.
    time_limit_s : float
        After this long the build is stopped.
    log : Path or None
        Where the log of the compiler is kept; ``None`` keeps its last lines only.
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
                f"expected batches 1 ≤ min ≤ opt ≤ max, found {self.min_batch}, {self.opt_batch}, {self.max_batch}"
            )
        if self.compute_capability is not None:
            if not (isinstance(self.compute_capability, tuple) and len(self.compute_capability) == 2):
                raise UsageError(
                    f"compute_capability must be two numbers such as (8, 6), found {self.compute_capability!r:.60}"
                )
            for part in self.compute_capability:
                require_whole("a part of compute_capability", part, 0, 99)
        if self.compute_capability is not None and not flavour.ahead_of_time:
            raise UsageError(
                f"{flavour.name} builds for the device that it runs on: build there, without a compute capability"
            )
        if self.timing_cache is not None and not flavour.timing_cache:
            raise UsageError(f"{flavour.name} measures no kernels: leave timing_cache out")
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
                raise UsageError("gpu_fallback is for a DLA: give dla_core too, or leave it out")
            return
        if not flavour.dla:
            raise UsageError(f"{flavour.name} serves no DLA: use tensorrt on a Jetson, or leave dla_core out")
        require_whole("dla_core", self.dla_core, 0, MAX_DLA_CORES - 1)
        if self.precision == "fp32":
            raise UsageError("a DLA computes FP16 and INT8: give a model of either, or leave dla_core out")
        if not self.min_batch == self.opt_batch == self.max_batch:
            raise UsageError(
                f"a DLA takes one batch size: give min, opt and max the same, found {self.min_batch}, {self.opt_batch}, {self.max_batch}"
            )

    def of_the_engine(self) -> dict[str, int | float]:
        """Return the options that change an engine and have no place of their own in its key, where they are set.

        The share of the free memory is one, and not the bytes that it came to: these differ from build to build.
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
    """What was built.

    Attributes
    ----------
    path : Path
        The engine.
    options : EngineOptions
        What was asked for.
    size_bytes : int
        Of the file.
    weights_memory_bytes : int or None
        What the compiler says that weights take on the device; ``None`` where it says nothing.
    workspace_bytes : int
        Most scratch memory that the engine was allowed.
    peak_memory_bytes : int
        Most that the building process held in main memory.
    seconds : float
        From the start of the compiler to the written file.
    layers : int
        Of the network as parsed; the engine fuses them.
    dla_layers : int
        How many of them TensorRT says that the DLA can compute; 0 without one.
    plugin : Path or None
        The library that computes self-attention, which has to be loaded before the engine.
    plugin_layers : int
        How many layers it computes.
    log_tail : tuple of str
        Last lines of the compiler's log.
    versions : mapping
        Of the compiler and of the tools here.
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
    """Return what a build is likely to hold at most: above all that ``benchmarks/engines.py`` measured."""
    return 4 * onnx_bytes + (512 << 20)

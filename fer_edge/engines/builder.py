"""ONNX → engine, in a process of its own: what aborts, runs out of memory or never ends there is an error here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fer_edge._files import whole_file
from fer_edge._machine import LocalMachine
from fer_edge._memory import add_swap, measure_free_memory
from fer_edge.engines.devices import ComputeCapability
from fer_edge.engines.flavours import FLAVOURS, Flavour, require_module, worker_environment
from fer_edge.engines.plugin import PLUGIN_CHOICES, REPORT_PREFIX
from fer_edge.engines.plugin_nodes import choose_model
from fer_edge.errors import EngineError, UsageError, lookup
from fer_edge.statistics import tool_versions

PRECISIONS = ("fp32", "fp16", "int8")
#: TensorRT takes a higher level as this one without a word.
_HIGHEST_LEVEL = 5
_TAIL_LINES = 20
_LINES_IN_MESSAGE = 3
_LONGEST_LINE = 300


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
        INT8, at one batch size. What TensorRT's versions take to it: ``VERSIONS.md``.
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
        if not 1 <= self.min_batch <= self.opt_batch <= self.max_batch:
            raise UsageError(
                f"expected batches 1 ≤ min ≤ opt ≤ max, found {self.min_batch}, {self.opt_batch}, {self.max_batch}"
            )
        if self.compute_capability is not None and not flavour.ahead_of_time:
            raise UsageError(
                f"{flavour.name} builds for the device that it runs on: build there, without a compute capability"
            )
        if self.timing_cache is not None and not flavour.timing_cache:
            raise UsageError(f"{flavour.name} measures no kernels: leave timing_cache out")
        if self.workspace_bytes is not None and self.workspace_bytes < 0:
            raise UsageError(f"workspace_bytes must be at least 0, found {self.workspace_bytes}")
        if not 0 < self.workspace_share <= 1:
            raise UsageError(f"workspace_share must be above 0 and up to 1, found {self.workspace_share}")
        if self.builder_level is not None and not 0 <= self.builder_level <= _HIGHEST_LEVEL:
            raise UsageError(f"builder_level must be from 0 to {_HIGHEST_LEVEL}, found {self.builder_level}")
        self._check_dla(flavour)
        if not self.time_limit_s > 0:
            raise UsageError(f"time_limit_s must be above 0, found {self.time_limit_s}")

    def _check_dla(self, flavour: Flavour) -> None:
        if self.dla_core is None:
            if self.gpu_fallback:
                raise UsageError("gpu_fallback is for a DLA: give dla_core too, or leave it out")
            return
        if not flavour.dla:
            raise UsageError(f"{flavour.name} serves no DLA: use tensorrt on a Jetson, or leave dla_core out")
        if self.dla_core < 0:
            raise UsageError(f"dla_core counts from 0, found {self.dla_core}")
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


Progress = Callable[[str, int, int], None]


def build_engine(
    model: Path,
    output: Path,
    options: EngineOptions,
    on_progress: Progress = lambda stage, done, total: None,
) -> EngineReport:
    """Compile ``model`` to ``output``, which appears whole or not at all.

    Parameters
    ----------
    model : Path
        One ONNX file: a batch that is free, all other sizes fixed.
    output : Path
        The engine.
    options : EngineOptions
        For what, and how.
    on_progress : callable
        Called with (stage, done, total) for every phase of the compiler, where it tells.

    Raises
    ------
    PluginMissingError
        If the plugin is required and its library is not there.
    EngineError
        If the compiler is missing, refuses the model or the device, ends unexpectedly, or there is too little
        memory or time.
    """
    flavour = FLAVOURS[options.flavour]
    require_module(flavour)
    if not model.is_file():
        raise EngineError(f"{model} does not exist: give the ONNX file of a bundle")
    if output.is_dir():
        raise EngineError(f"{output} is a folder, expected the name of a file for the engine")
    if options.timing_cache is not None and options.timing_cache.is_dir():
        raise EngineError(
            f"{options.timing_cache} is a folder, expected the name of a file for the timing cache"
        )
    _require_memory(model.stat().st_size)
    with tempfile.TemporaryDirectory() as folder, whole_file(output.resolve()) as part:
        parsed, plugin, plugin_layers = choose_model(model, options.plugin, Path(folder))
        request = {
            "parent": os.getpid(),
            "flavour": flavour.name,
            "precision": options.precision,
            "onnx": str(parsed.resolve()),
            "plugin": plugin and str(plugin),
            "plugin_layers": plugin_layers,
            "engine": str(part),
            "batches": (options.min_batch, options.opt_batch, options.max_batch),
            "compute_capability": options.compute_capability,
            "workspace_bytes": options.workspace_bytes,
            "workspace_share": options.workspace_share,
            "timing_cache": options.timing_cache and str(options.timing_cache.resolve()),
            "builder_level": options.builder_level,
            "dla_core": options.dla_core,
            "gpu_fallback": options.gpu_fallback,
        }
        log = options.log.resolve() if options.log else Path(folder) / "build.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = worker_environment(flavour, Path(folder))
        result = _run_worker(request, Path(folder), environment, log, options.time_limit_s, on_progress)
        version = result.pop("version")
        return EngineReport(
            path=output,
            options=options,
            plugin=plugin,
            plugin_layers=plugin_layers,
            size_bytes=part.stat().st_size,
            log_tail=_tail(log, _TAIL_LINES),
            versions={**tool_versions(), flavour.module: version},
            **result,
        )


def _run_worker(
    request: Mapping[str, Any],
    folder: Path,
    environment: Mapping[str, str],
    log: Path,
    time_limit_s: float,
    on_progress: Progress,
) -> dict[str, Any]:
    """Return the fields of the worker's ``done``."""
    question = folder / "request.json"
    question.write_text(json.dumps(request), encoding="utf-8")
    expired = threading.Event()
    last: dict[str, Any] = {}
    with question.open() as stdin, log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "fer_edge.engines.worker"],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd=folder,  # Python imports from the working directory first: nothing of the user's lies there
            env=environment,
            text=True,
        )

    def stop() -> None:
        expired.set()
        process.kill()

    timer = threading.Timer(time_limit_s, stop)
    timer.start()
    try:
        assert process.stdout is not None
        for line in process.stdout:
            last = json.loads(line)
            if last["event"] == "progress":
                on_progress(last["phase"], last["done"], last["total"])
        status = process.wait()
    finally:
        timer.cancel()
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
    event = last.pop("event", "")
    if event == "done" and status == 0:
        return last
    if event == "error":
        raise EngineError("; ".join([last["message"], *_plugin_reports(log)]))
    tail = " | ".join(_tail(log, _LINES_IN_MESSAGE)) or "nothing"
    if expired.is_set():
        raise EngineError(
            f"the build took more than {time_limit_s:g} s and was stopped: give a longer time_limit_s; its log ends: {tail}"
        )
    hint = ""
    if request["timing_cache"] is not None and Path(request["timing_cache"]).exists():
        hint = f"; if the timing cache {request['timing_cache']} is damaged, that may be why: delete it and build again"
    raise EngineError(f"the compiler {_describe_end(status)}{hint}; its log ends: {tail}")


def _describe_end(status: int) -> str:
    if status == -signal.SIGKILL:
        return "was killed, which Linux does where memory runs out: free memory or add swap"
    if status < 0:
        return f"crashed ({signal.Signals(-status).name})"
    return f"ended without a result (exit code {status})"


def _plugin_reports(log: Path) -> list[str]:
    """What the plugin has refused: TensorRT says only that it did."""
    found = (line.partition(REPORT_PREFIX)[2].strip() for line in _tail(log, _TAIL_LINES))
    return list(dict.fromkeys(REPORT_PREFIX + line for line in found if line))


def _tail(log: Path, lines: int) -> tuple[str, ...]:
    text = log.read_text(encoding="utf-8", errors="replace")
    kept = [line.strip()[:_LONGEST_LINE] for line in text.splitlines() if line.strip()]
    return tuple(kept[-lines:])


def _require_memory(onnx_bytes: int) -> None:
    """Raise :class:`EngineError` where this process may take less memory than a build is likely to need."""
    needed, free = estimate_memory_bytes(onnx_bytes), measure_free_memory(LocalMachine())
    if free is None or free.total_bytes >= needed:
        return
    lacking = needed - free.total_bytes
    if free.limited:
        where, advice = " within the limit of this container", "give it more (docker run --memory)"
    else:
        where, advice = "", f"add swap ({' && '.join(add_swap(lacking))})"
    raise EngineError(
        f"the build needs about {needed / 1e9:.1f} GB of memory and {free.total_bytes / 1e9:.1f} GB are free{where}: end other programs, or {advice}"
    )


def estimate_memory_bytes(onnx_bytes: int) -> int:
    """Return what a build is likely to hold at most: above all that ``benchmarks/engines.py`` measured."""
    return 4 * onnx_bytes + (512 << 20)

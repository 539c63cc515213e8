"""ONNX → engine, in a process of its own: what aborts, runs out of memory or never ends there is an error here."""

from __future__ import annotations

import signal
import tempfile
from pathlib import Path

from fer_edge._utils.files import whole_file
from fer_edge._utils.progress import Progress
from fer_edge.engines.build.options import EngineOptions, EngineReport, estimate_memory_bytes
from fer_edge.engines.build.plugin_model import choose_model
from fer_edge.engines.flavours import FLAVOURS, require_module, worker_environment
from fer_edge.engines.plugin import REPORT_PREFIX
from fer_edge.errors import EngineError
from fer_edge.system.machine import LocalMachine
from fer_edge.system.memory import add_swap, measure_free_memory
from fer_edge.system.provenance import tool_versions
from fer_edge.system.workers import WorkerError, read_tail, run_worker

_TAIL_LINES = 20
_LINES_IN_MESSAGE = 3


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
        try:
            result = run_worker(
                "fer_edge.engines.build.worker",
                request,
                options.time_limit_s,
                on_progress,
                log,
                Path(folder),
                environment,
            )
        except WorkerError as error:
            raise EngineError(_explain(error, options, log)) from None
        version = result.pop("version")
        return EngineReport(
            path=output,
            options=options,
            plugin=plugin,
            plugin_layers=plugin_layers,
            size_bytes=part.stat().st_size,
            log_tail=read_tail(log, _TAIL_LINES),
            versions={**tool_versions(), flavour.module: version},
            **result,
        )


def _explain(error: WorkerError, options: EngineOptions, log: Path) -> str:
    """Return why there is no engine."""
    if error.message:
        return "; ".join([error.message, *_plugin_reports(log)])
    tail = " | ".join(read_tail(log, _LINES_IN_MESSAGE)) or "nothing"
    if error.status is None:
        return f"the build took more than {options.time_limit_s:g} s and was stopped: give a longer time_limit_s; its log ends: {tail}"
    hint = ""
    if options.timing_cache is not None and options.timing_cache.exists():
        hint = f"; if the timing cache {options.timing_cache.resolve()} is damaged, that may be why: delete it and build again"
    return f"the compiler {_describe_end(error.status)}{hint}; its log ends: {tail}"


def _describe_end(status: int) -> str:
    if status == -signal.SIGKILL:
        return "was killed, which Linux does where memory runs out: free memory or add swap"
    if status < 0:
        return f"crashed ({signal.Signals(-status).name})"
    return f"ended without a result (exit code {status})"


def _plugin_reports(log: Path) -> list[str]:
    """What the plugin has refused: TensorRT says only that it did."""
    found = (line.partition(REPORT_PREFIX)[2].strip() for line in read_tail(log, _TAIL_LINES))
    return list(dict.fromkeys(REPORT_PREFIX + line for line in found if line))


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

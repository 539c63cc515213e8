"""Compile ONNX to an engine in a subprocess, so that an abort, an OOM kill or a hang becomes an `EngineError`."""

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
    """Compile ``model`` to ``output``, written atomically.

    Parameters
    ----------
    model : Path
        ONNX file with a dynamic batch and otherwise static shapes.
    output : Path
        The engine.
    options : EngineOptions
        Target device and build settings.
    on_progress : callable
        Called with (stage, done, total) for every phase that the compiler reports.

    Raises
    ------
    PluginMissingError
        If the plugin is required and its library is missing.
    EngineError
        If the compiler is not installed, rejects the model or the device, or crashes, or memory or time do not
        suffice.
    """
    flavour = FLAVOURS[options.flavour]
    require_module(flavour)
    if not model.is_file():
        raise EngineError(f"{model} does not exist. Fix: give the ONNX file of a bundle")
    if output.is_dir():
        raise EngineError(
            f"expected a file name for the engine, found the folder {output}. Fix: give the name of a file"
        )
    if options.timing_cache is not None and options.timing_cache.is_dir():
        raise EngineError(
            f"expected a file name for the timing cache, found the folder {options.timing_cache}. Fix: give the name of a file"
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
    """Return the message of a failed build."""
    if error.message:
        reason, separator, fix = error.message.partition(". Fix: ")
        return "; ".join([reason, *_plugin_reports(log)]) + separator + fix
    tail = " | ".join(read_tail(log, _LINES_IN_MESSAGE)) or "nothing"
    if error.status is None:
        return f"the build took more than {options.time_limit_s:g} s and was stopped; its log ends with {tail!r}. Fix: give a longer time_limit_s"
    fixes = {-signal.SIGKILL: "free memory or add swap"}
    fix = fixes.get(error.status, "report this with the output of fer-edge doctor")
    if options.timing_cache is not None and options.timing_cache.exists():
        fix = f"delete the timing cache {options.timing_cache.resolve()}, which may be damaged, and build again; else {fix}"
    return f"the compiler {_describe_end(error.status)}; its log ends with {tail!r}. Fix: {fix}"


def _describe_end(status: int) -> str:
    if status == -signal.SIGKILL:
        return "was killed, probably because memory ran out"
    if status < 0:
        return f"crashed ({signal.Signals(-status).name})"
    return f"ended without a result (exit code {status})"


def _plugin_reports(log: Path) -> list[str]:
    """Return the errors of the plugin in the log, which TensorRT itself does not report."""
    found = (line.partition(REPORT_PREFIX)[2].strip() for line in read_tail(log, _TAIL_LINES))
    return list(dict.fromkeys(REPORT_PREFIX + line for line in found if line))


def _require_memory(onnx_bytes: int) -> None:
    """Raise :class:`EngineError` if less memory is free than a build is likely to need."""
    needed, free = estimate_memory_bytes(onnx_bytes), measure_free_memory(LocalMachine())
    if free is None or free.total_bytes >= needed:
        return
    lacking = needed - free.total_bytes
    if free.limited:
        where, advice = " within the limit of this container", "give it more (docker run --memory)"
    else:
        where, advice = "", f"add swap ({' && '.join(add_swap(lacking))})"
    raise EngineError(
        f"the build needs about {needed / 1e9:.1f} GB of memory, found {free.total_bytes / 1e9:.1f} GB free{where}. Fix: end other programs, or {advice}"
    )

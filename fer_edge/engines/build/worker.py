"""Worker that builds one engine.

Features of the installed version are detected on its objects, never by version number.
"""

from __future__ import annotations

import importlib
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fer_edge._utils.files import whole_file
from fer_edge._utils.onnx_files import precision_name
from fer_edge._utils.ownership import PRIVATE_FILE, require_private
from fer_edge._utils.progress import Progress
from fer_edge.cuda.cuda_device import free_device_bytes
from fer_edge.cuda.gpus import ComputeCapability, require_gpu
from fer_edge.engines.flavours import FLAVOURS, require_capability
from fer_edge.engines.plugin import load_plugin
from fer_edge.errors import EngineError
from fer_edge.system.memory import own_peak_bytes
from fer_edge.system.workers import serve

_INFO = 3  # severities: internal error 0, error 1, warning 2, info 3, verbose 4
_ERROR = 1
_WEIGHTS_MEMORY = re.compile(r"Total Weights Memory: (\d+) bytes")
_QDQ = ("QuantizeLinear", "DequantizeLinear")


def _build(request: Mapping[str, Any], on_progress: Progress) -> dict[str, Any]:
    started = time.perf_counter()
    flavour = FLAVOURS[request["flavour"]]
    trt = importlib.import_module(flavour.module)
    capability = request["compute_capability"] and tuple(request["compute_capability"])
    if capability is None:
        require_gpu()
    else:
        require_capability(capability, _capabilities(trt))
    log = _make_log(trt)
    builder = trt.Builder(log)
    if request["plugin"]:
        load_plugin(trt, Path(request["plugin"]))
    network = builder.create_network(_network_flags(trt))
    _parse(trt, network, log, request["onnx"])
    _require_plugin_layers(trt, network, request["plugin_layers"])
    _require_precision(trt, network, request["precision"])
    config = builder.create_builder_config()
    if capability is not None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(_capabilities(trt)[capability], 0)
    config.add_optimization_profile(_make_profile(builder, network, request["batches"]))
    _configure(trt, config, request)
    dla_layers = _use_dla(trt, builder, network, config, request)
    if hasattr(config, "progress_monitor"):
        monitor = _make_monitor(trt, on_progress)  # the name keeps it alive while native code calls it
        config.progress_monitor = monitor
    _load_timing_cache(config, request["timing_cache"])
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise EngineError(_build_failure(log.errors, request))
    Path(request["engine"]).write_bytes(engine)
    _save_timing_cache(config, request["timing_cache"])
    return {
        "seconds": time.perf_counter() - started,
        "layers": network.num_layers,
        "dla_layers": dla_layers,
        "workspace_bytes": config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE),
        "weights_memory_bytes": log.weights_memory_bytes,
        "peak_memory_bytes": own_peak_bytes(),
        "version": trt.__version__,
    }


def _make_log(trt: Any) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]
        """Prints up to INFO; keeps errors and the size of the weights."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.weights_memory_bytes: int | None = None

        def log(self, severity: Any, msg: str) -> None:
            level = int(severity)
            if level > _INFO:
                return
            print(f"[{severity.name}] {msg}", file=sys.stderr, flush=True)
            if level <= _ERROR:
                self.errors.append(msg)
            elif found := _WEIGHTS_MEMORY.search(msg):
                self.weights_memory_bytes = int(found[1])

    return Log()


def _capabilities(trt: Any) -> dict[ComputeCapability, Any]:
    """Return the members of the compiler's enumeration, SM86 as (8, 6)."""
    members = trt.ComputeCapability.__members__
    names = {name: re.fullmatch(r"SM(\d+)(\d)", name) for name in members}
    return {(int(m[1]), int(m[2])): members[name] for name, m in names.items() if m is not None}


def _network_flags(trt: Any) -> int:
    """Return the flag of strong typing, which keeps the types of the ONNX file; without a flag it is the only mode."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _parse(trt: Any, network: Any, log: Any, path: str) -> None:
    parser = trt.OnnxParser(network, log)
    parsed = parser.parse_from_file(path)
    if parsed and network.num_outputs:  # an empty file parses as an empty network
        return
    errors = [str(parser.get_error(i)) for i in range(parser.num_errors)] or log.errors
    reason = " ".join(errors[0].split()) if errors else "it contains no network"
    text = f"{Path(path).name} cannot be parsed: {reason}"
    if parsed or "MODEL_DESERIALIZE_FAILED" in text:
        text += ". Fix: build the bundle again, the file is damaged or not ONNX"
    elif any(name in text for name in _QDQ):
        text += ". Fix: give signed symmetric Q/DQ with positive scales, as in model.int8.tensorrt.onnx of a bundle"
    elif "Plugin not found" in text:
        text += ". Fix: export with standard operators or a function body, since this version does not know the operator"
    else:
        text += ". Fix: report this with the output of fer-edge doctor"
    raise EngineError(text)


def _require_plugin_layers(trt: Any, network: Any, expected: int) -> None:
    layers = (network.get_layer(i) for i in range(network.num_layers))
    found = sum(layer.type == trt.LayerType.PLUGIN_V3 for layer in layers) if expected else 0
    if found != expected:
        raise EngineError(
            f"expected {expected} layers computed by the plugin, found {found} in {trt.__name__}. Fix: build without the plugin"
        )


def _require_precision(trt: Any, network: Any, precision: str) -> None:
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    types = {layer.get_output(i).dtype for layer in layers for i in range(layer.num_outputs)}
    quantised = any(layer.type == trt.LayerType.QUANTIZE for layer in layers)
    found = precision_name(quantised, half=trt.DataType.HALF in types)
    if found != precision:
        raise EngineError(
            f"expected a model of precision {precision}, found {found}. Fix: give the {precision} model, or the precision {found}"
        )


def _make_profile(builder: Any, network: Any, batches: tuple[int, int, int]) -> Any:
    profile = builder.create_optimization_profile()
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        batch, *rest = tuple(tensor.shape)
        if batch != -1 or -1 in rest:
            raise EngineError(
                f"expected a dynamic batch (-1) and otherwise static dimensions for the input {tensor.name}, found {(batch, *rest)}. Fix: export with a dynamic batch"
            )
        profile.set_shape(tensor.name, *((size, *rest) for size in batches))
    return profile


def _configure(trt: Any, config: Any, request: Mapping[str, Any]) -> None:
    if hasattr(trt.BuilderFlag, "TF32"):  # on by default: FP32 with a 10-bit mantissa
        config.clear_flag(trt.BuilderFlag.TF32)
    if hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):  # TensorRT-RTX needs it for graph capture
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    limit = request["workspace_bytes"]
    if limit is None and request["compute_capability"] is None:
        limit = int(request["workspace_share"] * free_device_bytes())
    if limit is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, limit)
    if request["builder_level"] is not None:
        if not hasattr(config, "builder_optimization_level"):
            raise EngineError(f"this version of {trt.__name__} has no builder level. Fix: drop builder_level")
        config.builder_optimization_level = request["builder_level"]


def _use_dla(trt: Any, builder: Any, network: Any, config: Any, request: Mapping[str, Any]) -> int:
    """Put all layers on the requested DLA, if any; return how many it supports."""
    core = request["dla_core"]
    if core is None:
        return 0
    if core >= builder.num_DLA_cores:
        raise EngineError(
            f"DLA {core} does not exist, {trt.__name__} {trt.__version__} finds {builder.num_DLA_cores} here (Orin Nano and Thor have none, and not every version supports them). Fix: drop dla_core to use the GPU"
        )
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    if request["gpu_fallback"]:
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    return sum(config.can_run_on_DLA(network.get_layer(i)) for i in range(network.num_layers))


def _make_monitor(trt: Any, on_progress: Progress) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Calls ``on_progress`` with (phase, done, total)."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps
            self._send(phase_name, 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._send(phase_name, step + 1)
            return True

        def phase_finish(self, phase_name: str) -> None:
            self._send(phase_name, self.steps[phase_name])

        def _send(self, phase: str, done: int) -> None:
            on_progress(phase, done, self.steps[phase])

    return Monitor()


def _load_timing_cache(config: Any, path: str | None) -> None:
    if path is None:
        return
    stored = b""
    if Path(path).is_file():
        require_private(Path(path), "delete it")  # native code parses it
        stored = Path(path).read_bytes()
    try:
        cache = config.create_timing_cache(stored)
        # A cache of another device or version must be an error, not silently ignored.
        taken = cache is not None and config.set_timing_cache(cache, False)
    except (
        RuntimeError,
        TypeError,
        ValueError,
    ):  # raised by pybind11 for a null pointer, depending on its version
        taken = False
    if not taken:
        raise EngineError(
            f"{path} is not a timing cache of this device and version. Fix: delete it, or name another file"
        )


def _save_timing_cache(config: Any, path: str | None) -> None:
    if path is None:
        return
    with whole_file(Path(path), PRIVATE_FILE) as part:
        part.write_bytes(config.get_timing_cache().serialize())


def _build_failure(errors: list[str], request: Mapping[str, Any]) -> str:
    reason = " ".join(errors[-1].split()) if errors else "no reason given"
    if request["compute_capability"] == [7, 5] and "is not supported" in reason:
        return f"compute capability 7.5 supports only FP16 networks ({reason}). Fix: build in FP16, or for another device"
    fix = "report this with the output of fer-edge doctor"
    if request["dla_core"] is not None:
        fix = "drop dla_core to use the GPU"
        if not request["gpu_fallback"]:
            fix += ", or set gpu_fallback for layers that the DLA does not support"
    return f"the compiler rejects the network: {reason}. Fix: {fix}"


if __name__ == "__main__":
    serve(_build)

"""TensorRT on an NVIDIA GPU: the ONNX file is compiled once for this device, kept, and run by one thread."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_edge.backends.base import NO_GPU, Backend, SessionOptions, check_batch
from fer_edge.backends.onnx_file import precision_of, read_graph
from fer_edge.bundle import ENGINES, ModelFile
from fer_edge.cuda.arrays import DeviceArray, describe, is_device_array
from fer_edge.cuda.cuda_device import INSTALL_CUDA_PYTHON
from fer_edge.cuda.gpus import require_gpu
from fer_edge.cuda.kernels import availability, crop_resize_normalize
from fer_edge.engines.cache.key import EngineKey, identify_gpu
from fer_edge.engines.cache.store import CachedEngine, EngineCache, OnWait
from fer_edge.engines.flavours import FLAVOURS
from fer_edge.engines.plugin import NAME, find_plugin
from fer_edge.engines.run.options import RunnerOptions
from fer_edge.engines.run.runner import EngineRunner
from fer_edge.engines.run.tensorrt_engine import TensorRtDevice
from fer_edge.errors import BackendError, EngineError
from fer_edge.frames import check_device_frame
from fer_edge.spec import ModelSpec
from fer_edge.system.availability import Availability

if TYPE_CHECKING:
    from fer_edge.engines.build.builder import EngineOptions

# Warnings reach whoever has set up no logging: what they tell of keeps a caller waiting for minutes.
_LOG = logging.getLogger(__name__)
_SECONDS_BETWEEN_WORDS = 60


class TensorRtSession:
    """One engine in TensorRT or TensorRT-RTX; any number of threads may use it.

    Attributes
    ----------
    runner : EngineRunner
        What runs it: its report, its timings by the device's clock.
    rebuilt_because : str or None
        Why the engine that was kept could not be used; ``None`` where it could, or there was none.
    """

    def __init__(self, runner: EngineRunner, rebuilt_because: str | None = None) -> None:
        self.runner, self.rebuilt_because = runner, rebuilt_because
        self.largest_batch: int | None = runner.report.buckets[-1]

    def run(self, batch: Any) -> Mapping[str, np.ndarray]:
        """See :class:`fer_edge.backends.base.Session`; also takes an array on the device, without a copy to the host."""
        if not is_device_array(batch):
            batch = check_batch(batch, rank=len(self.runner.input.row_shape) + 1)
        return _in_float32(self.runner.run(batch))

    def copy_to_host(self, frame: Any) -> np.ndarray:
        """See :class:`fer_edge.backends.base.CropSession`."""
        _require_kernels()
        pixels = describe("frame", frame, self.runner.input_stream, contiguous=False)
        return self.runner.copy_to_host(check_device_frame(pixels))

    def run_crops(
        self,
        frame: Any,
        rectangles: Sequence[tuple[int, int, int, int]],
        spec: ModelSpec,
        chroma: Any = None,
    ) -> Mapping[str, np.ndarray]:
        """See :class:`fer_edge.backends.base.CropSession`; ``chroma`` as in :func:`fer_edge.cuda.kernels.crop_resize_normalize`.

        Raises
        ------
        UsageError
            If the frame, the rectangles or the spec are not what the kernel takes.
        BackendError
            If the kernels are not compiled, or see :meth:`run`.
        """
        _require_kernels()
        stream = self.runner.input_stream
        pixels = describe("frame", frame, stream, contiguous=False)
        colors = None if chroma is None else describe("chroma", chroma, stream, contiguous=False)

        def write(out: DeviceArray, first: int, stream: int) -> None:
            part = rectangles[first : first + out.shape[0]]
            crop_resize_normalize(pixels, part, spec, out, stream=stream, chroma=colors)

        return _in_float32(self.runner.run_written(len(rectangles), write))

    def close(self) -> None:
        """See :class:`fer_edge.backends.base.Session`."""
        self.runner.close()


class TensorRtBackend(Backend):
    """TensorRT, or TensorRT-RTX, on the first GPU.

    Parameters
    ----------
    name : str
        Key of :data:`fer_edge.engines.flavours.FLAVOURS`.
    """

    dialect = "tensorrt"
    fixed_shapes = True
    on_gpu = True
    supports_dla = True
    takes_device_frames = True
    compiles_for_batch = True

    def __init__(self, name: str) -> None:
        self.name = name

    def available(self) -> Availability:
        """See :class:`fer_edge.backends.base.Backend`."""
        flavour = FLAVOURS[self.name]
        try:
            require_gpu()  # before TensorRT is touched: some of its bindings crash without one
        except EngineError:
            return Availability(False, reason=NO_GPU, fix="nvidia-smi")
        if importlib.util.find_spec(flavour.module) is None:
            return Availability(False, reason=f"{self.name} is not installed", fix=flavour.fix)
        if importlib.util.find_spec("cuda") is None:
            return Availability(False, reason="cuda-python is not installed", fix=INSTALL_CUDA_PYTHON)
        try:
            return Availability(True, importlib.import_module(flavour.module).__version__)
        except ImportError as error:
            return Availability(False, reason=f"{self.name} cannot be imported: {error}", fix=flavour.fix)

    def is_ready(self, model: Path | ModelFile, options: SessionOptions) -> bool:
        """See :class:`fer_edge.backends.base.Backend`: whether an engine is kept for the model."""
        state = self.available()
        try:
            return state.ok and self._prepare(model, options, state.version).find() is not None
        except (EngineError, OSError):  # opening reports it
            return False

    def open(self, model: Path | ModelFile, options: SessionOptions) -> TensorRtSession:
        """See :class:`fer_edge.backends.base.Backend`; compiles the model where no engine is kept for it."""
        state = self.available()
        if not state.ok:
            raise BackendError(f"backend {self.name} is not available: {state.reason}; run: {state.fix}")
        try:
            work = self._prepare(model, options, state.version)
            engine = work.ahead() or work.cache.get_or_build(
                work.key, lambda path: _build(work.model, path, work.settings), _make_patient()
            )
            if engine.rebuilt_because is not None:
                _LOG.warning(
                    "the engine of %s was built again: %s", work.model.path.name, engine.rebuilt_because
                )
            device = partial(
                TensorRtDevice,
                self.name,
                plugin=work.plugin,
                dla_core=options.dla_core,
                plugin_sha256=None if work.key.plugin is None else work.key.plugin.sha256,
            )
            # Whether what a DLA does can be captured is unproved: then it is run without, and the report says so.
            graphs = "required" if options.dla_core is None else "preferred"
            runner = EngineRunner(device, engine.path, RunnerOptions(cuda_graphs=graphs), engine.sha256)
        except (EngineError, OSError) as error:
            raise BackendError(f"{self.name} cannot load {model}: {error}") from error
        return TensorRtSession(runner, engine.rebuilt_because)

    def _prepare(self, model: Path | ModelFile, options: SessionOptions, version: str) -> _Work:
        from fer_edge.engines.build.ahead_of_time import make_key  # needs onnx

        file = model if isinstance(model, ModelFile) else ModelFile(model, model.read_bytes())
        plugin = _needed_plugin(file)
        settings = _engine_options(self.name, file, options)
        key = make_key(file.sha256, settings, version, identify_gpu(), plugin)
        cache = EngineCache(also=[file.path.parent / ENGINES], accepts=file.vouches_for)
        return _Work(file, plugin, settings, key, cache)


@dataclass(frozen=True)
class _Work:
    """A model, how it is compiled, and where its engine is kept."""

    model: ModelFile
    plugin: Path | None
    settings: EngineOptions
    key: EngineKey
    cache: EngineCache

    def ahead(self) -> CachedEngine | None:
        """Return an engine that was compiled without a device."""
        return _compiled_ahead(self.cache, self.key)

    def find(self) -> CachedEngine | None:
        """Return an engine that need not be compiled."""
        return self.ahead() or self.cache.find(self.key)


def _engine_options(flavour: str, model: ModelFile, options: SessionOptions) -> EngineOptions:
    from fer_edge.engines.build.builder import EngineOptions

    precision = options.precision or precision_of(read_graph(model))
    # A DLA takes no other batch than the one that it was built for, and one face must not wait for a second.
    largest = 1 if options.dla_core is not None else options.max_batch or EngineOptions.max_batch
    return EngineOptions(
        flavour,
        precision,
        opt_batch=min(EngineOptions.opt_batch, largest),
        max_batch=largest,
        dla_core=options.dla_core,
        gpu_fallback=options.gpu_fallback,
    )


def _build(model: ModelFile, path: Path, settings: EngineOptions) -> None:
    from fer_edge.engines.build.builder import build_engine

    name = model.path.name
    _LOG.warning("compiling %s for this device with %s, once; it may take minutes", name, settings.flavour)
    with tempfile.TemporaryDirectory() as folder:  # the compiler reads the bytes that were hashed
        copy = Path(folder) / name
        copy.write_bytes(model.content)
        report = build_engine(copy, path, settings)
    if settings.dla_core is not None:
        _LOG.warning("TensorRT gives %d of %d layers to the DLA", report.dla_layers, report.layers)


def _make_patient() -> OnWait:
    """Return what says that, and for whom, a process waits: at once, then every minute."""
    next_s = 0

    def tell(what: str, waited_s: int, limit_s: int) -> None:
        nonlocal next_s
        if waited_s >= next_s:
            next_s = waited_s + _SECONDS_BETWEEN_WORDS
            _LOG.warning("waiting, %d s so far and %d at most: %s", waited_s, limit_s, what)

    return tell


def _compiled_ahead(cache: EngineCache, key: EngineKey) -> CachedEngine | None:
    """Return an engine of the bundle that was compiled without a device, with the plugin or without.

    It was compiled for the usual batches, which hold smaller ones.
    """
    from fer_edge.engines.build.options import EngineOptions

    options = {name: value for name, value in key.options.items() if name != "workspace_share"}
    usual = (EngineOptions.min_batch, EngineOptions.opt_batch, EngineOptions.max_batch)
    batches = [key.batches, *([usual] if key.batches[-1] < usual[-1] else [])]
    for plugin, sizes in product(dict.fromkeys((key.plugin, None)), batches):
        found = cache.find(replace(key, gpu=None, driver=None, plugin=plugin, batches=sizes, options=options))
        if found is not None:
            return found
    return None


def _needed_plugin(model: ModelFile) -> Path | None:
    """Return the plugin library where it is installed and the model has its operator."""
    return find_plugin() if NAME.encode() in model.content else None


def _require_kernels() -> None:
    kernels = availability()
    if not kernels.ok:
        raise BackendError(f"crops on the device need the CUDA kernels: {kernels.reason}; run: {kernels.fix}")


def _in_float32(outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Half precision is the engine's affair."""
    return {
        name: values.astype(np.float32) if values.dtype == np.float16 else values
        for name, values in outputs.items()
    }

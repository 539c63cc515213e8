"""TensorRT on an NVIDIA GPU: the ONNX file is compiled once for this device, kept, and run by one thread."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fer_edge._utils.onnx_files import precision_of, read_graph
from fer_edge.backends.base import NO_GPU, Backend, SessionOptions, check_batch
from fer_edge.bundle import ModelFile
from fer_edge.cuda.arrays import DeviceArray, describe, is_device_array
from fer_edge.cuda.cuda_device import INSTALL_CUDA_PYTHON
from fer_edge.cuda.gpus import require_gpu
from fer_edge.cuda.kernels import availability, crop_resize_normalize
from fer_edge.engines.build.options import EngineOptions
from fer_edge.engines.find_or_build import EngineRequest, request_engine
from fer_edge.engines.flavours import FLAVOURS
from fer_edge.engines.run.options import RunnerOptions
from fer_edge.engines.run.runner import EngineRunner
from fer_edge.engines.run.tensorrt_engine import TensorRtDevice
from fer_edge.errors import BackendError, EngineError
from fer_edge.frames import check_device_frame
from fer_edge.spec import ModelSpec
from fer_edge.system.availability import Availability


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
            return state.ok and self._request(model, options, state.version).find() is not None
        except (EngineError, OSError):  # opening reports it
            return False

    def open(self, model: Path | ModelFile, options: SessionOptions) -> TensorRtSession:
        """See :class:`fer_edge.backends.base.Backend`; compiles the model where no engine is kept for it."""
        state = self.available()
        if not state.ok:
            raise BackendError(f"backend {self.name} is not available: {state.reason}; run: {state.fix}")
        try:
            request = self._request(model, options, state.version)
            engine = request.find_or_build()
            device = partial(
                TensorRtDevice,
                self.name,
                plugin=request.plugin,
                dla_core=options.dla_core,
                plugin_sha256=None if request.key.plugin is None else request.key.plugin.sha256,
            )
            # Whether what a DLA does can be captured is unproved: then it is run without, and the report says so.
            graphs = "required" if options.dla_core is None else "preferred"
            runner = EngineRunner(device, engine.path, RunnerOptions(cuda_graphs=graphs), engine.sha256)
        except (EngineError, OSError) as error:
            raise BackendError(f"{self.name} cannot load {model}: {error}") from error
        return TensorRtSession(runner, engine.rebuilt_because)

    def _request(self, model: Path | ModelFile, options: SessionOptions, version: str) -> EngineRequest:
        file = model if isinstance(model, ModelFile) else ModelFile(model, model.read_bytes())
        # A DLA takes no other batch than the one that it was built for, and one face must not wait for a second.
        largest = 1 if options.dla_core is not None else options.max_batch or EngineOptions.max_batch
        settings = EngineOptions(
            self.name,
            options.precision or precision_of(read_graph(file.content)),
            opt_batch=min(EngineOptions.opt_batch, largest),
            max_batch=largest,
            dla_core=options.dla_core,
            gpu_fallback=options.gpu_fallback,
        )
        return request_engine(file, settings, version)


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

"""TensorRT on an NVIDIA GPU: the ONNX file is compiled once for this device, cached, and run by one thread."""

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
    """One engine in TensorRT or TensorRT-RTX. Thread-safe.

    Attributes
    ----------
    runner : EngineRunner
        Runner of the engine, with its report and its timings by the device clock.
    rebuilt_because : str or None
        Reason why a cached engine could not be used; ``None`` if it was used or there was none.
    """

    def __init__(self, runner: EngineRunner, rebuilt_because: str | None = None) -> None:
        self.runner, self.rebuilt_because = runner, rebuilt_because
        self.largest_batch: int | None = runner.report.buckets[-1]

    def run(self, batch: Any) -> Mapping[str, np.ndarray]:
        """Run a batch; a device array is not copied to the host."""
        if not is_device_array(batch):
            batch = check_batch(batch, rank=len(self.runner.input.row_shape) + 1)
        return _in_float32(self.runner.run(batch))

    def copy_to_host(self, frame: Any) -> np.ndarray:
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
        """Crop a frame on the device and run the crops; ``chroma`` as in :func:`fer_edge.cuda.kernels.crop_resize_normalize`.

        Raises
        ------
        UsageError
            If the kernel does not support the frame, the rectangles or the spec.
        BackendError
            If the kernels are not compiled, or the device fails.
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
        flavour = FLAVOURS[self.name]
        try:
            require_gpu()  # before TensorRT is imported: some of its bindings crash without a GPU
        except EngineError:
            return Availability(False, reason=NO_GPU, fix="check the driver with nvidia-smi")
        if importlib.util.find_spec(flavour.module) is None:
            return Availability(False, reason=f"{self.name} is not installed", fix=flavour.fix)
        if importlib.util.find_spec("cuda") is None:
            return Availability(False, reason="cuda-python is not installed", fix=INSTALL_CUDA_PYTHON)
        try:
            return Availability(True, importlib.import_module(flavour.module).__version__)
        except ImportError as error:
            return Availability(False, reason=f"{self.name} cannot be imported: {error}", fix=flavour.fix)

    def is_ready(self, model: Path | ModelFile, options: SessionOptions) -> bool:
        """Return whether the cache or the bundle holds an engine of the model."""
        state = self.available()
        try:
            return state.ok and self._request(model, options, state.version).find() is not None
        except (EngineError, OSError):  # opening reports it
            return False

    def open(self, model: Path | ModelFile, options: SessionOptions) -> TensorRtSession:
        """Load a model; compile it if there is no engine of it yet."""
        state = self.available()
        if not state.ok:
            raise BackendError(f"backend {self.name} is not available: {state.reason}. Fix: {state.fix}")
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
            # Graph capture with a DLA is untested: if it fails, the engine runs without, which the report states.
            graphs = "required" if options.dla_core is None else "preferred"
            runner = EngineRunner(device, engine.path, RunnerOptions(cuda_graphs=graphs), engine.sha256)
        except EngineError as error:
            raise BackendError(f"{self.name} cannot load {model}: {error}") from error
        except OSError as error:
            raise BackendError(
                f"{self.name} cannot load {model}: {error}. Fix: set FER_EDGE_CACHE to a writable folder with free space, "
                "or build the bundle again"
            ) from error
        return TensorRtSession(runner, engine.rebuilt_because)

    def _request(self, model: Path | ModelFile, options: SessionOptions, version: str) -> EngineRequest:
        file = model if isinstance(model, ModelFile) else ModelFile(model, model.read_bytes())
        # A DLA engine has a static batch, and a single face must not wait for a second one.
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
        raise BackendError(
            f"cropping on the device needs the CUDA kernels: {kernels.reason}. Fix: {kernels.fix}"
        )


def _in_float32(outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the outputs with float16 converted to float32."""
    return {
        name: values.astype(np.float32) if values.dtype == np.float16 else values
        for name, values in outputs.items()
    }

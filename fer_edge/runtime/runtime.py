"""Runtime that detects faces in frames and classifies their apparent expression."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from fer_edge._utils.checks import require_path
from fer_edge._utils.guard import Guard
from fer_edge._utils.version import __version__
from fer_edge.backends import BACKENDS, load_tested_session
from fer_edge.backends.int8_probe import describe_int8
from fer_edge.backends.self_test import SelfTestReport
from fer_edge.bundle import Bundle, open_bundle, require_attention
from fer_edge.detection import create_detector
from fer_edge.errors import BackendError, BundleError
from fer_edge.frames import Frame, check_frame
from fer_edge.models.catalogue import find_bundle
from fer_edge.probabilities import make_rule
from fer_edge.results import Detection, Face, FrameResult, LatencySummary
from fer_edge.runtime.classifier import ClassifierOptions
from fer_edge.runtime.faces import as_crops, as_detections
from fer_edge.runtime.options import RuntimeChanges, RuntimeOptions, make_options
from fer_edge.runtime.pipeline import Pipeline
from fer_edge.runtime.tracked import TrackedFrames
from fer_edge.runtime.tune import choose
from fer_edge.sources.base import Source
from fer_edge.sources.files import ImageSource
from fer_edge.sources.open import as_source
from fer_edge.system.provenance import device_name, processor_features
from fer_edge.tracking.options import TrackingOptions
from fer_edge.tracking.refine import Refiner, RefinerOptions, YuNetRefiner, create_refiner

if TYPE_CHECKING:
    from typing_extensions import Unpack  # in typing from Python 3.11 on


class Runtime:
    """Face detector and expression classifier; all faces of a frame are classified in one batch.

    A frame is ``[H, W, 3]`` uint8 BGR: NumPy, or with the backends ``tensorrt`` and ``tensorrt-rtx`` and the CUDA
    kernels also a device array with ``__cuda_array_interface__`` or DLPack (CuPy, PyTorch, pycuda). Such a frame is
    copied to the host once, for the detector; it is cropped on the device and the crops stay there. The copy counts as
    ``detect``, the crops as ``classify``.

    Backend, precision, threads and max_batch that the options do not give are measured at the first start with a
    bundle on a machine, which takes some seconds: see :mod:`fer_edge.runtime.tune`. ``choice`` holds the result.

    Thread-safe: concurrent callers get the results of their own frames. Not fork-safe: in a forked process
    :class:`BackendError` is raised. Create a runtime in each process.

    Parameters
    ----------
    bundle : path, Bundle or None
        ``None`` loads the bundle that is shipped with the package.
    options : RuntimeOptions, optional
        Options; the defaults suit most machines.
    **changes
        Fields of :class:`RuntimeOptions` and of its session that differ from ``options``, such as ``attention=True``
        or ``threads=2``.

    Raises
    ------
    FerEdgeError
        If the bundle, the backend or the detector cannot be loaded, the prior cannot be applied, or attention is
        requested from a bundle without it.

    Examples
    --------
    >>> with Runtime() as runtime:                          # doctest: +SKIP
    ...     for face in runtime(cv2.imread("photo.jpg")).faces:
    ...         print(face.label, face.probability)
    """

    def __init__(
        self,
        bundle: str | Path | Bundle | None = None,
        options: RuntimeOptions | None = None,
        **changes: Unpack[RuntimeChanges],
    ) -> None:
        self.options = make_options(options, **changes)
        if not isinstance(bundle, Bundle):
            require_path("bundle", bundle)
            bundle = open_bundle(find_bundle("default" if bundle is None else bundle))
        self.bundle = bundle
        self.probability_rule = make_rule(self.bundle.manifest, self.options.prior)
        if self.bundle.manifest.timing_only and not self.options.allow_random:
            raise BundleError(
                f"{self.bundle.path} has random weights, which are for timing only. "
                "Fix: build it with trained weights, or allow random weights (--allow-random)"
            )
        if self.options.attention:
            require_attention(self.bundle)
        self.spec = self.bundle.spec
        self.choice = choose(self.bundle, self.options)
        self.backend, self.precision = BACKENDS[self.choice.backend], self.choice.precision
        session_options = self.choice.session_options(self.options.session)
        with ExitStack() as opened:  # closes open sessions on an error
            tested = load_tested_session(
                self.bundle, self.backend, self.precision, session_options, self.options.self_test
            )
            opened.callback(tested.session.close)
            detector = create_detector(self.options.detector, self.options.detector_options)
            opened.callback(detector.close)
            self._refiner = _open_refiner(self.options)
            if self._refiner is not None:
                opened.callback(self._refiner.close)
            self._opened = Guard(
                opened.pop_all(), "runtime", BackendError, free=ExitStack.close, parallel=True
            )
        self._pipeline = Pipeline(
            tested,
            self.backend,
            detector,
            ClassifierOptions(
                self.spec, self.probability_rule, self.options.attention, self.choice.max_batch
            ),
            self.options,
        )
        self._counting = threading.Lock()
        self._calls = 0

    def __call__(self, frame_bgr: Any) -> FrameResult:
        """Process one frame; its index counts these calls.

        Also accepts the path or the bytes of an image file, or a PIL image (:func:`fer_edge.frames.as_frame`).
        """
        return self.process(self._next_frame(frame_bgr))

    def classify(self, frame_bgr: Any, boxes_xyxy: Any) -> FrameResult:
        """Classify the faces in boxes of the caller, without detection.

        Parameters
        ----------
        frame_bgr : array, path, bytes or PIL image
            As for a call of the runtime.
        boxes_xyxy : array-like or sequence of Detection
            ``[N, 4]``, left, top, right, bottom of each face in pixels of the frame. The network was trained with the
            boxes of a detector, tight around the face from forehead to chin.

        Returns
        -------
        FrameResult
            Its faces are in the order of the boxes. A box that is too small for the network, or outside the frame,
            gives a face without a label and the reason ``too_small``.

        Raises
        ------
        DataError
            If the boxes are not numbers with left < right and top < bottom, or as for :meth:`process`.
        """
        detections = as_detections(boxes_xyxy)
        frame = self._next_frame(frame_bgr)
        with self._opened:
            return self._pipeline.process(frame, detections)

    def classify_crops(self, crops_bgr: Iterable[Any]) -> tuple[Face, ...]:
        """Classify pictures that each show one face and nothing else, cut by the caller.

        Parameters
        ----------
        crops_bgr : iterable of array, path, bytes or PIL image
            Pictures ``[H, W, 3]`` uint8 BGR of any size, cut as the bundle's ``crop`` rule says, resized here.

        Returns
        -------
        tuple of Face
            One per crop, in their order; the box of each is the whole crop.
        """
        crops = [check_frame(crop, self.options.levels) for crop in as_crops(crops_bgr)]
        with self._opened:
            answers = self._pipeline.host.classify_crops(crops)
        boxes = [Detection((0.0, 0.0, float(crop.shape[1]), float(crop.shape[0])), 1.0) for crop in crops]
        return self._pipeline.faces(boxes, answers, time.monotonic())

    def tracked(self, options: TrackingOptions | None = None) -> TrackedFrames:
        """Return an object that takes the successive frames of one camera and follows the faces in them.

        For software that reads its camera itself; :meth:`stream` uses one for each source.

        Parameters
        ----------
        options : TrackingOptions, optional
            Default: those of the runtime.
        """
        self._opened.require_process()
        if options is None:
            options = self.options.tracking or TrackingOptions()
        return TrackedFrames(self._opened, self._pipeline, self._refiner, options)

    def stream(self, source: str | int | os.PathLike[str] | Source) -> Iterator[FrameResult]:
        """Yield a result for every frame of a file, or for the newest frame of a camera or stream.

        The faces of a camera, stream or video are tracked, unless the option ``tracking`` is ``None``; the pictures of
        a folder are independent.
        """
        for _, result in self.stream_frames(source):
            yield result

    def stream_frames(
        self, source: str | int | os.PathLike[str] | Source
    ) -> Iterator[tuple[Frame, FrameResult]]:
        """Yield each frame with its result; otherwise as :meth:`stream`."""
        opened = as_source(source)
        if isinstance(opened, ImageSource):
            opened.bits = self.options.levels.bits
        follows = self.options.tracking is not None and getattr(opened, "is_sequence", True)
        process = self.tracked().process if follows else self.process
        try:
            for index, given in enumerate(opened):
                frame = given if isinstance(given, Frame) else Frame(given, index, time.monotonic())
                yield frame, process(frame)
        finally:
            opened.close()

    def process(self, frame: Frame) -> FrameResult:
        """Detect, crop and classify the faces of one frame.

        Raises
        ------
        DataError
            If the frame has another shape or dtype.
        UsageError
            If it is in device memory and the backend accepts only frames in host memory.
        BackendError
            If it is in device memory and the CUDA kernels are not compiled, the backend fails, the runtime is
            closed, or it was created before a fork of the process.
        """
        with self._opened:
            return self._pipeline.process(frame)

    def _next_frame(self, frame_bgr: Any) -> Frame:
        self._opened.require_process()
        with self._counting:
            frame = Frame(frame_bgr, self._calls, time.monotonic())
            self._calls += 1
        return frame

    @property
    def self_test(self) -> SelfTestReport:
        """Outcome of the self-test, and whether crops of the device were compared."""
        return self._pipeline.self_test

    @property
    def non_finite(self) -> int:
        """Number of faces whose network outputs were dropped since they were not finite."""
        return self._pipeline.non_finite

    @property
    def info(self) -> dict[str, Any]:
        """Configuration and self-test as plain JSON types, the header of recorded results."""
        manifest = self.bundle.manifest
        return {
            "fer_edge": __version__,
            "bundle": str(self.bundle.path),
            "format_version": manifest.format_version,
            "network": self.spec.network,
            "weights": manifest.provenance.get("weights"),
            "weights_sha256": manifest.provenance.get("weights_sha256"),
            "backend": self.backend.name,
            "backend_version": self.backend.available().version,
            "precision": self.precision,
            "choice": self.choice.to_dict(),
            "int8_arithmetic": describe_int8(self.backend) if self.precision == "int8" else None,
            "self_test": self.self_test.to_dict(),
            "prior": self.probability_rule.to_dict(),
            "detector": self.options.detector,
            "min_probability": self.options.min_probability,
            "device": device_name(),
            "processor_features": list(processor_features()),
        }

    def latency(self) -> dict[str, LatencySummary]:
        """Return n, p50, p90 and p99 of each stage over the last frames."""
        self._opened.require_process()
        return self._pipeline.history.summaries()

    def close(self) -> None:
        """Wait for frames in progress, then free the network and the detector; a second call does nothing."""
        self._opened.close()

    def __enter__(self) -> Runtime:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _open_refiner(options: RuntimeOptions) -> Refiner | None:
    """Return the refiner of tracks; ``None`` if each frame is searched, as the detector has boxes of another kind."""
    if options.tracking is None or options.detector != YuNetRefiner.detector:
        return None
    given = options.detector_options
    return create_refiner(RefinerOptions(model=given.model, backend=given.backend, threads=given.threads))

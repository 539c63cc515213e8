"""Stages that a runtime shares between single frames and the frames of streams."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from fer_edge.backends import Backend, TestedSession
from fer_edge.backends.self_test import SelfTestReport
from fer_edge.cuda.arrays import is_device_array
from fer_edge.detection.base import Detector
from fer_edge.errors import UsageError
from fer_edge.frames import Frame
from fer_edge.probabilities import ProbabilityRule
from fer_edge.results import Detection, Event, Face, FrameResult, RuntimeState
from fer_edge.runtime.camera import Camera
from fer_edge.runtime.classifier import (
    Answer,
    Classifier,
    ClassifierOptions,
    DeviceClassifier,
    HostClassifier,
)
from fer_edge.runtime.faces import Limits, make_face
from fer_edge.runtime.options import RuntimeOptions
from fer_edge.runtime.stages import StageClock, StageHistory
from fer_edge.spec import ModelSpec


class Pipeline:
    """Detector and classifiers of a runtime, and its counters. Thread-safe.

    Attributes
    ----------
    detector : Detector
        Finds the faces of a frame in host memory.
    host, device : HostClassifier, DeviceClassifier or None
        Classify the faces of frames in the memory of each; ``None`` if the backend accepts no device frames.
    spec, rule : ModelSpec, ProbabilityRule
        Network, and conversion of its logits.
    limits : Limits
        Limits beyond which a label is ``None``.
    history : StageHistory
        Times of the last frames.
    non_finite : int
        Number of faces whose network outputs were dropped.
    """

    def __init__(
        self,
        tested: TestedSession,
        backend: Backend,
        detector: Detector,
        classifier_options: ClassifierOptions,
        options: RuntimeOptions,
    ) -> None:
        self.detector = detector
        self._options = options
        self._camera = self.new_camera()
        self.host = HostClassifier(tested, classifier_options)
        self.device = DeviceClassifier(tested, classifier_options) if backend.takes_device_frames else None
        self._backend = backend
        self.spec: ModelSpec = classifier_options.spec
        self.rule: ProbabilityRule = classifier_options.rule
        self.limits = Limits(options.min_probability, options.quality)
        self.history = StageHistory()
        self._counting = threading.Lock()
        self.non_finite = 0

    @property
    def self_test(self) -> SelfTestReport:
        """Outcome of the self-test, and whether crops of the device were compared."""
        return (self.device or self.host).self_test

    def classifier_of(self, image: object) -> Classifier:
        """Return the classifier for frames in the memory of this one.

        Raises
        ------
        UsageError
            If it is in device memory and the backend accepts only frames in host memory.
        """
        if not is_device_array(image):
            return self.host
        if self.device is None:
            raise UsageError(
                f"backend {self._backend.name} accepts only NumPy frames, found {type(image).__name__}. Fix: copy it to "
                "the host with .get() (CuPy, pycuda) or .cpu().numpy() (PyTorch), or use --backend tensorrt"
            )
        return self.device

    def process(self, frame: Frame, given: Sequence[Detection] | None = None) -> FrameResult:
        """Detect, crop and classify the faces of one frame; with ``given`` detections, classify those."""
        clock = StageClock()
        upright = self._camera.upright(frame)
        frame = upright.frame
        classifier = self.classifier_of(frame.image)
        image = classifier.host_image(frame.image)
        detections = self.detector.detect(image) if given is None else list(map(upright.turn, given))
        clock.mark()
        answers = classifier.classify(frame.image, image, detections, on_prepared=clock.mark)
        faces = self.faces(detections, answers, frame.time_s)
        cut = given is None and self.is_cut(len(detections))
        result = self.result(frame, faces, clock, more_faces=cut)
        return upright.turn_back(result)

    def new_camera(self) -> Camera:
        """Return the conversion of the frames of one more camera."""
        return Camera(self._options.levels, self._options.rotate, lambda image: self.detector.detect(image))

    def faces(
        self, detections: Sequence[Detection], answers: Sequence[Answer], classified_at_s: float
    ) -> tuple[Face, ...]:
        """Return the faces of answers to detections of one frame."""
        self.count_non_finite(answers)
        names = self.spec.class_names
        return tuple(
            make_face(detection, answer, names, self.limits, classified_at_s)
            for detection, answer in zip(detections, answers, strict=True)
        )

    def count_non_finite(self, answers: Sequence[Answer]) -> None:
        """Add the answers that are not finite to :attr:`non_finite`."""
        with self._counting:
            self.non_finite += sum(not answer.is_finite for answer in answers)

    def is_cut(self, found: int) -> bool:
        """Return ``True`` if the detector found as many faces as it returns at most."""
        most = getattr(self.detector, "max_faces", None)
        return most is not None and found >= most

    def result(
        self,
        frame: Frame,
        faces: tuple[Face, ...],
        clock: StageClock,
        events: tuple[Event, ...] = (),
        more_faces: bool = False,
    ) -> FrameResult:
        """Return the result of a frame; ends the last stage of its clock."""
        clock.mark()
        timings = clock.timings_ms()
        self.history.add(timings)
        return FrameResult(
            index=frame.index,
            captured_at_s=frame.captured_at_s,
            frame_age_ms=(time.monotonic() - frame.captured_at_s) * 1e3,
            dropped=frame.dropped,
            faces=faces,
            timings_ms=timings,
            state=RuntimeState.RUNNING,
            source=frame.name,
            events=events,
            media_time_s=frame.media_time_s,
            more_faces=more_faces,
        )

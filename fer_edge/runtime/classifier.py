"""Classification of the detected faces of a frame, on the host or in device memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from fer_edge.backends import CropSession, Session, TestedSession
from fer_edge.backends.self_test import OFF, SelfTestReport, compare_device_crops
from fer_edge.frames import check_frame
from fer_edge.heatmaps import min_max, turn_back
from fer_edge.preprocess import Rectangle, crop_rectangle, cut_rectangle, prepare_batch
from fer_edge.probabilities import ProbabilityRule
from fer_edge.quality import Quality, measure_quality
from fer_edge.results import Detection
from fer_edge.spec import ModelSpec


@dataclass(frozen=True)
class Answer:
    """Outputs of the network for one face.

    Attributes
    ----------
    rectangle : tuple of int or None
        Crop (left, top, right, bottom) in pixels of the frame; ``None`` if the face is too small.
    probabilities : array or None
        ``[K]``, NaN if the logits are not finite; ``None`` without a crop.
    attention : array or None
        ``[h, w]`` in [0, 1] over the crop, if requested and finite. That of a turned face is turned back with it.
    logits : array or None
        ``[K]`` raw logits z; ``None`` without a crop.
    quality : Quality or None
        Quality of the crop; ``None`` without a crop.
    is_finite : bool
        Whether all outputs for this face are finite.
    """

    rectangle: Rectangle | None
    probabilities: np.ndarray | None = None
    attention: np.ndarray | None = None
    logits: np.ndarray | None = None
    quality: Quality | None = None
    is_finite: bool = True


@dataclass(frozen=True)
class ClassifierOptions:
    """Options of crops and outputs, for frames on the host and on the device.

    Attributes
    ----------
    spec : ModelSpec
        Crop rule and input of the network.
    rule : ProbabilityRule
        Logits → probabilities.
    attention : bool
        Read the output ``attention``.
    max_batch : int
        Faces per batch; more are split.
    """

    spec: ModelSpec
    rule: ProbabilityRule
    attention: bool
    max_batch: int


class Classifier(ABC):
    """Classifier of the faces of frames in one kind of memory, all faces of a frame in one batch.

    Attributes
    ----------
    session : Session
        The network.
    self_test : SelfTestReport
        Outcome of the self-test, and whether crops of the device were compared.
    """

    def __init__(self, tested: TestedSession, options: ClassifierOptions) -> None:
        self.session: Session = tested.session
        self.self_test: SelfTestReport = tested.self_test
        self._options, self._spec = options, options.spec

    @abstractmethod
    def host_image(self, frame: Any) -> np.ndarray:
        """Return the frame ``[H, W, 3]`` uint8 BGR in host memory.

        Raises
        ------
        DataError
            If the frame has another shape or dtype.
        BackendError
            If the device cannot crop it.
        """

    def classify(
        self,
        frame: Any,
        image: np.ndarray,
        detections: Sequence[Detection],
        on_prepared: Callable[[], None] = lambda: None,
    ) -> list[Answer]:
        """Return one answer per detection.

        Parameters
        ----------
        frame, image : array
            The frame, and its :meth:`host_image`.
        detections : sequence of Detection
            Its faces.
        on_prepared : callable
            Called when the input batch of the network is ready.

        Raises
        ------
        BackendError
            If the backend fails.
        """
        height, width = image.shape[:2]
        found = [crop_rectangle(d.box_xyxy, self._spec.crop, height, width, d.roll_deg) for d in detections]
        crops = {face: rectangle for face, rectangle in enumerate(found) if rectangle is not None}
        rectangles, rolls_deg = list(crops.values()), [detections[face].roll_deg for face in crops]
        # A device crops upright rectangles alone.
        run = (self._prepare_on_host if any(rolls_deg) else self._prepare)(
            frame, image, rectangles, rolls_deg
        )
        on_prepared()
        size = self._options.max_batch
        parts = [run(slice(first, first + size)) for first in range(0, len(rectangles), size)]
        answers = {
            face: replace(answer, quality=_quality(image, rectangle, detections[face]))
            for (face, rectangle), answer in zip(
                crops.items(), self._read(rectangles, rolls_deg, parts), strict=True
            )
        }
        return [answers.get(face, Answer(None)) for face in range(len(detections))]

    @abstractmethod
    def _prepare(
        self, frame: Any, image: np.ndarray, rectangles: Sequence[Rectangle], rolls_deg: Sequence[float]
    ) -> Callable[[slice], Mapping[str, np.ndarray]]:
        """Return the function that runs the network on a part of the rectangles."""

    def _prepare_on_host(
        self, frame: Any, image: np.ndarray, rectangles: Sequence[Rectangle], rolls_deg: Sequence[float]
    ) -> Callable[[slice], Mapping[str, np.ndarray]]:
        crops = [
            cut_rectangle(image, rectangle, roll)
            for rectangle, roll in zip(rectangles, rolls_deg, strict=True)
        ]
        batch = prepare_batch(crops, self._spec)
        return lambda part: self.session.run(batch[part])

    def _read(
        self,
        rectangles: Sequence[Rectangle],
        rolls_deg: Sequence[float],
        parts: Sequence[Mapping[str, np.ndarray]],
    ) -> list[Answer]:
        if not parts:
            return []
        logits = np.concatenate([part["logits"] for part in parts])
        probabilities = self._options.rule(logits)
        finite = ~np.isnan(probabilities).any(axis=1)
        maps: Sequence[np.ndarray | None] = [None] * len(finite)
        if self._options.attention:
            scaled = min_max(np.concatenate([part["attention"] for part in parts]))
            finite &= ~np.isnan(scaled).any(axis=(1, 2))
            maps = [
                turn_back(heat, roll) if good else None
                for good, heat, roll in zip(finite, scaled, rolls_deg, strict=True)
            ]
        return [
            Answer(rectangle, row, heat, z, is_finite=bool(good))
            for rectangle, row, heat, z, good in zip(
                rectangles, probabilities, maps, logits, finite, strict=True
            )
        ]


def _quality(image: np.ndarray, rectangle: Rectangle, detection: Detection) -> Quality:
    """Measure the pixels of a crop that are inside the frame."""
    height, width = image.shape[:2]
    left, top, right, bottom = rectangle
    inside = image[max(top, 0) : min(bottom, height), max(left, 0) : min(right, width)]
    return measure_quality(inside, detection)


class HostClassifier(Classifier):
    """Classifier of frames in host memory, cropped by OpenCV."""

    def host_image(self, frame: Any) -> np.ndarray:
        return check_frame(frame)

    def classify_crops(self, crops: Sequence[np.ndarray]) -> list[Answer]:
        """Return one answer per crop ``[H, W, 3]`` uint8 BGR."""
        size = self._options.max_batch
        batch = prepare_batch(crops, self._spec)
        parts = [self.session.run(batch[first : first + size]) for first in range(0, len(crops), size)]
        whole = [(0, 0, crop.shape[1], crop.shape[0]) for crop in crops]
        answers = self._read(whole, [0.0] * len(crops), parts)
        faces = [Detection((0.0, 0.0, float(right), float(bottom)), 1.0) for _, _, right, bottom in whole]
        return [
            replace(answer, quality=measure_quality(crop, face))
            for answer, crop, face in zip(answers, crops, faces, strict=True)
        ]

    def _prepare(
        self, frame: Any, image: np.ndarray, rectangles: Sequence[Rectangle], rolls_deg: Sequence[float]
    ) -> Callable[[slice], Mapping[str, np.ndarray]]:
        return self._prepare_on_host(frame, image, rectangles, rolls_deg)


class DeviceClassifier(Classifier):
    """Classifier of frames in device memory, cropped by a CUDA kernel.

    For the first frame with faces the crops are compared with those of the host, unless the self-test is off. The
    backend must accept device frames (:attr:`fer_edge.backends.Backend.takes_device_frames`).
    """

    def host_image(self, frame: Any) -> np.ndarray:
        return self._crop_session.copy_to_host(frame)

    def _prepare(
        self, frame: Any, image: np.ndarray, rectangles: Sequence[Rectangle], rolls_deg: Sequence[float]
    ) -> Callable[[slice], Mapping[str, np.ndarray]]:
        def run(part: slice) -> Mapping[str, np.ndarray]:
            if self.self_test != OFF and not self.self_test.device_crops:
                self.self_test = compare_device_crops(
                    self._crop_session, frame, image, rectangles, self._spec, self.self_test
                )
            return self._crop_session.run_crops(frame, rectangles[part], self._spec)

        return run

    @property
    def _crop_session(self) -> CropSession:
        return cast("CropSession", self.session)

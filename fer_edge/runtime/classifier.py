"""Detections of a frame → what the network says of each, on the host or where the frame lies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from fer_edge.backends import CropSession, Session, TestedSession
from fer_edge.backends.self_test import SelfTestReport, compare_device_crops
from fer_edge.frames import check_frame
from fer_edge.heatmaps import min_max
from fer_edge.preprocess import Rectangle, crop_rectangle, cut_rectangle, prepare_batch
from fer_edge.probabilities import ProbabilityRule
from fer_edge.results import Detection
from fer_edge.spec import ModelSpec


@dataclass(frozen=True)
class Answer:
    """What the network says of one face.

    Attributes
    ----------
    rectangle : tuple of int or None
        The crop (left, top, right, bottom) in pixels of the frame; ``None`` where the face is too small for one.
    probabilities : array or None
        ``[K]``, NaN where the logits are not finite; ``None`` without a crop.
    attention : array or None
        ``[h, w]`` in [0, 1] over the crop, where it is asked for and finite.
    is_finite : bool
        Whether all outputs for this face are finite.
    """

    rectangle: Rectangle | None
    probabilities: np.ndarray | None = None
    attention: np.ndarray | None = None
    is_finite: bool = True


class Classifier(Protocol):
    """Classifies the faces of frames that lie at one place."""

    self_test: SelfTestReport

    def host_image(self, frame: Any) -> np.ndarray:
        """Return the frame ``[H, W, 3]`` uint8 BGR for what works on the host.

        Raises
        ------
        DataError
            If the frame has not the right form.
        BackendError
            If the device cannot make crops of it.
        """

    def classify(
        self,
        frame: Any,
        image: np.ndarray,
        detections: Sequence[Detection],
        on_prepared: Callable[[], None] = lambda: None,
    ) -> list[Answer]:
        """Return one answer per detection; ``on_prepared`` is called when the input of the network is ready.

        Raises
        ------
        BackendError
            If the backend fails.
        """


@dataclass(frozen=True)
class Reading:
    """How crops are made and outputs are read: the same wherever a frame lies."""

    spec: ModelSpec
    rule: ProbabilityRule
    attention: bool
    max_batch: int

    def rectangles(self, detections: Sequence[Detection], image: np.ndarray) -> list[Rectangle | None]:
        """Return the crop of each detection; ``None`` where it is too small."""
        height, width = image.shape[:2]
        return [crop_rectangle(d.box_xyxy, self.spec.crop, height, width) for d in detections]

    def in_parts(
        self, run: Callable[[slice], Mapping[str, np.ndarray]], count: int
    ) -> list[Mapping[str, np.ndarray]]:
        """Run ``count`` faces, at most ``max_batch`` at a time."""
        return [run(slice(first, first + self.max_batch)) for first in range(0, count, self.max_batch)]

    def answers(
        self, rectangles: Sequence[Rectangle | None], parts: Sequence[Mapping[str, np.ndarray]]
    ) -> list[Answer]:
        """Return one answer per rectangle, from the outputs for those that are not ``None``."""
        found = iter(self._read(parts) if parts else ())
        return [
            Answer(None) if rectangle is None else Answer(rectangle, *next(found)) for rectangle in rectangles
        ]

    def _read(
        self, parts: Sequence[Mapping[str, np.ndarray]]
    ) -> list[tuple[np.ndarray, np.ndarray | None, bool]]:
        probabilities = self.rule(np.concatenate([part["logits"] for part in parts]))
        finite = ~np.isnan(probabilities).any(axis=1)
        maps: Sequence[np.ndarray | None] = [None] * len(finite)
        if self.attention:
            scaled = min_max(np.concatenate([part["attention"] for part in parts]))
            finite &= ~np.isnan(scaled).any(axis=(1, 2))
            maps = [heat if good else None for good, heat in zip(finite, scaled, strict=True)]
        return list(zip(probabilities, maps, map(bool, finite), strict=True))


class HostClassifier:
    """Crops by OpenCV, all faces in one batch."""

    def __init__(self, tested: TestedSession, reading: Reading) -> None:
        self.session: Session = tested.session
        self.self_test, self._reading = tested.self_test, reading

    def host_image(self, frame: Any) -> np.ndarray:
        """See :class:`Classifier`."""
        return check_frame(frame)

    def classify(
        self,
        frame: Any,
        image: np.ndarray,
        detections: Sequence[Detection],
        on_prepared: Callable[[], None] = lambda: None,
    ) -> list[Answer]:
        """See :class:`Classifier`."""
        rectangles = self._reading.rectangles(detections, image)
        crops = [cut_rectangle(image, rectangle) for rectangle in rectangles if rectangle is not None]
        batch = prepare_batch(crops, self._reading.spec)
        on_prepared()
        return self._reading.answers(
            rectangles, self._reading.in_parts(lambda part: self.session.run(batch[part]), len(batch))
        )


class DeviceClassifier:
    """Crops by our CUDA kernel, of a frame that stays on the device.

    The first frame with faces is compared with crops of the host, unless the self-test is off.
    """

    def __init__(
        self, session: CropSession, self_test: SelfTestReport, reading: Reading, compare: bool
    ) -> None:
        self.session, self.self_test = session, self_test
        self._reading, self._compare = reading, compare

    def host_image(self, frame: Any) -> np.ndarray:
        """See :class:`Classifier`."""
        return self.session.copy_to_host(frame)

    def classify(
        self,
        frame: Any,
        image: np.ndarray,
        detections: Sequence[Detection],
        on_prepared: Callable[[], None] = lambda: None,
    ) -> list[Answer]:
        """See :class:`Classifier`."""
        rectangles = self._reading.rectangles(detections, image)
        usable = [rectangle for rectangle in rectangles if rectangle is not None]
        on_prepared()
        spec = self._reading.spec
        if usable and self._compare and not self.self_test.device_crops:
            self.self_test = compare_device_crops(self.session, frame, image, usable, spec, self.self_test)
        return self._reading.answers(
            rectangles,
            self._reading.in_parts(
                lambda part: self.session.run_crops(frame, usable[part], spec), len(usable)
            ),
        )

"""YuNet: a single small network that finds faces and five landmarks.

W. Wu, H. Peng, S. Yu: "YuNet: A Tiny Millisecond-level Face Detector", Machine Intelligence Research 20, 2023.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from operator import methodcaller

import cv2
import numpy as np

from fer_edge._utils.guard import Guard
from fer_edge.backends import Backend, Session, SessionOptions, choose_backend
from fer_edge.detection.base import MIN_FACE_PX, DetectorOptions, Effort
from fer_edge.detection.input_size import open_network
from fer_edge.detection.nms import suppress
from fer_edge.detection.postprocess import to_detections
from fer_edge.detection.yunet.decoding import MAX_OVERLAP, Found, decode
from fer_edge.detection.yunet.graph import STRIDES_PX, at_size
from fer_edge.detection.yunet.opening import open_yunet
from fer_edge.detection.yunet.turned import TurnedSearch
from fer_edge.detection.yunet.weights import read_model
from fer_edge.errors import DetectorError
from fer_edge.frames import check_frame
from fer_edge.results import Detection

DEFAULT_MIN_SCORE = 0.7
#: Looks at the whole of a frame without an upright face.
_MAX_LOOKS = {Effort.QUICK: 0, Effort.USUAL: 2, Effort.THOROUGH: 1}
#: Smallest face side where every frame is searched, if the options do not give one: less than half of the time of 40.
USUAL_MIN_FACE_PX = 64

_MAX_CANDIDATES = 1000
# The frame is downscaled until the smallest face to detect has this side. Of faces of FER2013 on backgrounds, 64 pixels
# large, YuNet found 83 % with 32 here, 55 % with 20; MTCNN found 86 %, from 40 pixels too.
_INPUT_FACE_PX = 32
# Sides are padded to multiples of the last stride. More padding changes the result: with steps of 128 pixels the
# worst box of 208 photographs has an IoU of only 0.85 with that of OpenCV.
_STEP_PX, _MIN_SIDE_PX = max(STRIDES_PX), 64
# Cached sessions on backends with fixed sizes: a camera has one size, a folder of photographs many.
_MAX_SIZES = 4


class YuNetDetector:
    """Finds faces and five landmarks with the YuNet of the package, or with the file ``options.model``.

    On a backend with fixed sizes, such as TensorRT, the first frame of each size triggers a compilation: suitable for
    a camera, slow for a folder of photographs.

    Raises
    ------
    DetectorError
        If the file is missing or is not YuNet.
    BackendError
        If ``options.backend`` is not available.
    """

    name = "yunet"
    max_faces: int | None = _MAX_CANDIDATES

    def __init__(self, options: DetectorOptions) -> None:
        self._given_min_face_px = options.min_face_px
        self._min_score = DEFAULT_MIN_SCORE if options.min_score is None else options.min_score
        backend = choose_backend(options.backend)
        settings = SessionOptions(threads=options.threads, max_batch=1)
        content = read_model(options.model)
        any_size = not backend.fixed_shapes
        network: Session
        if any_size:
            network = open_yunet(content, options.model, backend, settings, _MIN_SIDE_PX)
        else:
            network = _SessionPerSize(content, backend, settings)
        self._inputs = _Inputs()
        free = methodcaller("close")
        self._turned = (
            TurnedSearch(self._find, self._min_score, options.turned_looks) if options.turned_looks else None
        )
        self._network = Guard(network, "detector", DetectorError, free=free, parallel=any_size)

    def detect(self, frame_bgr: np.ndarray, effort: Effort = Effort.USUAL) -> list[Detection]:
        frame = check_frame(frame_bgr)
        usual_px = MIN_FACE_PX if effort is Effort.THOROUGH else USUAL_MIN_FACE_PX
        min_face_px = self._given_min_face_px or usual_px
        scale = min(_INPUT_FACE_PX / min_face_px, 1.0)
        height, width = (max(round(side * scale), 1) for side in frame.shape[:2])
        image = _shrink(frame, height, width)
        if self._turned is None:
            found = self._find(image, self._min_score)
        else:
            found = self._turned(image, _MAX_LOOKS[effort])
        to_frame = np.array([frame.shape[1] / width, frame.shape[0] / height])
        return to_detections(
            frame,
            found.boxes_xyxy * np.tile(to_frame, 2),
            found.scores,
            found.landmarks * to_frame,
            min_face_px,
            found.roll_deg,
        )

    def _find(self, image_bgr: np.ndarray, min_score: float) -> Found:
        """Return the faces of an image of any size, best first."""
        with self._network as network:
            outputs = network.run(self._inputs.fill(image_bgr))
        found = decode(outputs, min_score)
        best = np.argsort(-found.scores, kind="stable")[:_MAX_CANDIDATES]
        return found[best[suppress(found.boxes_xyxy[best], found.scores[best], MAX_OVERLAP)]]

    def close(self) -> None:
        self._network.close()


def _shrink(frame_bgr: np.ndarray, height: int, width: int) -> np.ndarray:
    if (height, width) == frame_bgr.shape[:2]:
        return frame_bgr
    # Down to a half, bilinear interpolation reads every pixel, in a fifth of the time.
    fine = 2 * min(height / frame_bgr.shape[0], width / frame_bgr.shape[1]) >= 1
    return cv2.resize(frame_bgr, (width, height), interpolation=cv2.INTER_LINEAR if fine else cv2.INTER_AREA)


class _Inputs(threading.local):
    """Memory for the input of the network, one for each thread: to allocate it anew takes as long as to fill it."""

    def __init__(self) -> None:
        self._values = np.zeros(0, np.float32)

    def fill(self, image_bgr: np.ndarray) -> np.ndarray:
        """Return ``[1, 3, H, W]`` with black at the right and at the bottom, valid until the next call."""
        height, width = image_bgr.shape[:2]
        rows, columns = (max(side + -side % _STEP_PX, _MIN_SIDE_PX) for side in (height, width))
        if 3 * rows * columns > self._values.size:
            self._values = np.empty(3 * rows * columns, np.float32)
        batch = self._values[: 3 * rows * columns].reshape(1, 3, rows, columns)
        batch[:, :, height:] = 0
        batch[:, :, :height, width:] = 0
        for channel, values in zip(batch[0], cv2.split(image_bgr), strict=True):
            channel[:height, :width] = values
        return batch


class _SessionPerSize:
    """YuNet on a backend with fixed sizes: one session for each of the most recent sizes; not thread-safe."""

    largest_batch: int | None = 1

    def __init__(self, content: bytes, backend: Backend, settings: SessionOptions) -> None:
        self._content, self._backend, self._settings = content, backend, settings
        #: Keyed by height and width, in order of last use.
        self._by_size: dict[tuple[int, int], Session] = {}

    def run(self, batch: np.ndarray) -> Mapping[str, np.ndarray]:
        height, width = batch.shape[2:]
        session = self._by_size.pop((height, width), None)
        if session is None:
            while len(self._by_size) >= _MAX_SIZES:
                self._by_size.pop(next(iter(self._by_size))).close()
            session = open_network(at_size(self._content, height, width), self._backend, self._settings)
        self._by_size[height, width] = session
        return session.run(batch)

    def close(self) -> None:
        for session in self._by_size.values():
            session.close()

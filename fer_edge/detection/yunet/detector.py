"""YuNet: a single small network that finds faces and five landmarks.

W. Wu, H. Peng, S. Yu: "YuNet: A Tiny Millisecond-level Face Detector", Machine Intelligence Research 20, 2023.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import methodcaller
from pathlib import Path

import cv2
import numpy as np

from fer_edge._utils.guard import Guard
from fer_edge.backends import Backend, Session, SessionOptions, choose_backend
from fer_edge.detection.base import DetectorOptions
from fer_edge.detection.input_size import open_network, serialize
from fer_edge.detection.nms import suppress
from fer_edge.detection.postprocess import to_detections
from fer_edge.detection.yunet.graph import FIX, STRIDES_PX, YuNetModel
from fer_edge.errors import BackendError, DetectorError, without_fix
from fer_edge.frames import check_frame
from fer_edge.results import Detection

DEFAULT_MIN_SCORE = 0.7

_MAX_OVERLAP = 0.3
_MAX_CANDIDATES = 1000
# The frame is downscaled until the smallest face to detect has this side, which YuNet still finds.
_MIN_FACE_PX = 20
# Sides are padded to multiples of the last stride. More padding changes the result: with steps of 128 pixels the
# worst box of 208 photographs has an IoU of only 0.85 with that of OpenCV.
_STEP_PX, _MIN_SIDE_PX = max(STRIDES_PX), 64
# Cached sessions on backends with fixed sizes: a camera has one size, a folder of photographs many.
_MAX_SIZES = 4
_MAX_LOG_SIDE = 12.0  # of a box, in strides; exp() of more is beyond any frame


class YuNetDetector:
    """Finds faces and five landmarks with the YuNet file ``options.model``.

    On a backend with fixed sizes, such as TensorRT, the first frame of each size triggers a compilation: suitable for
    a camera, slow for a folder of photographs.

    Raises
    ------
    DetectorError
        If no file is given, or it is not YuNet.
    BackendError
        If ``options.backend`` is not available.
    """

    name = "yunet"

    def __init__(self, options: DetectorOptions) -> None:
        if options.model is None:
            raise DetectorError(f"detector yunet expects a model file, found none. {FIX}")
        self._min_face_px = options.min_face_px
        self._min_score = DEFAULT_MIN_SCORE if options.min_score is None else options.min_score
        backend = choose_backend(options.backend)
        settings = SessionOptions(threads=options.threads, max_batch=1)
        model = YuNetModel(Path(options.model))
        any_size = not backend.fixed_shapes
        network: Session
        if any_size:
            try:
                network = open_network(serialize(model.free()), backend, settings)
                # Some inconsistent files load and fail only at run time.
                network.run(np.zeros((1, 3, _MIN_SIDE_PX, _MIN_SIDE_PX), np.float32))
            except BackendError as error:
                raise DetectorError(
                    f"{options.model} cannot be run as YuNet ({without_fix(error)}). {FIX}"
                ) from error
        else:
            network = _SessionPerSize(model, backend, settings)
        free = methodcaller("close")
        self._network = Guard(network, "detector", DetectorError, free=free, parallel=any_size)

    def detect(self, frame_bgr: np.ndarray) -> list[Detection]:
        frame = check_frame(frame_bgr)
        scale = min(_MIN_FACE_PX / self._min_face_px, 1.0)
        height, width = (max(round(side * scale), 1) for side in frame.shape[:2])
        small = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
        bottom, right = (max(-side % _STEP_PX, _MIN_SIDE_PX - side) for side in (height, width))
        image = cv2.copyMakeBorder(small, 0, bottom, 0, right, cv2.BORDER_CONSTANT)
        with self._network as network:
            outputs = network.run(cv2.dnn.blobFromImage(image))
        boxes, scores, landmarks = decode(outputs, image.shape[1], self._min_score)
        best = np.argsort(-scores, kind="stable")[:_MAX_CANDIDATES]
        best = best[suppress(boxes[best], scores[best], _MAX_OVERLAP)]
        to_frame = np.array([frame.shape[1] / width, frame.shape[0] / height])
        return to_detections(
            frame,
            boxes[best] * np.tile(to_frame, 2),
            scores[best],
            landmarks[best] * to_frame,
            self._min_face_px,
        )

    def close(self) -> None:
        self._network.close()


class _SessionPerSize:
    """YuNet on a backend with fixed sizes: one session for each of the most recent sizes; not thread-safe."""

    largest_batch: int | None = 1

    def __init__(self, model: YuNetModel, backend: Backend, settings: SessionOptions) -> None:
        self._model, self._backend, self._settings = model, backend, settings
        #: Keyed by height and width, in order of last use.
        self._by_size: dict[tuple[int, int], Session] = {}

    def run(self, batch: np.ndarray) -> Mapping[str, np.ndarray]:
        height, width = batch.shape[2:]
        session = self._by_size.pop((height, width), None)
        if session is None:
            while len(self._by_size) >= _MAX_SIZES:
                self._by_size.pop(next(iter(self._by_size))).close()
            session = open_network(serialize(self._model.at(height, width)), self._backend, self._settings)
        self._by_size[height, width] = session
        return session.run(batch)

    def close(self) -> None:
        for session in self._by_size.values():
            session.close()


def decode(
    outputs: Mapping[str, np.ndarray], width: int, min_score: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Decode the outputs for one image to its pixels, as OpenCV's ``FaceDetectorYN`` does.

    Parameters
    ----------
    outputs : Mapping of str to np.ndarray
        The twelve outputs of :class:`fer_edge.detection.yunet.graph.YuNetModel`, ``[1, anchors, numbers]``.
    width : int
        Width of the image; anchors are in row-major order.
    min_score : float
        Smallest score of an anchor.

    Returns
    -------
    boxes_xyxy, scores, landmarks : np.ndarray
        ``[N, 4]``, ``[N]`` and ``[N, 5, 2]``.
    """
    boxes, scores, landmarks = [], [], []
    for stride in STRIDES_PX:
        cls, obj, box, points = (
            outputs[f"{head}_{stride}"][0].astype(np.float32) for head in ("cls", "obj", "bbox", "kps")
        )
        score = np.sqrt(cls[:, 0].clip(0, 1) * obj[:, 0].clip(0, 1))
        found = np.flatnonzero(score >= min_score)
        corner_xy = np.stack([found % (width // stride), found // (width // stride)], axis=1)
        centre = (corner_xy + box[found, :2]) * stride
        half = np.exp(box[found, 2:].clip(max=_MAX_LOG_SIDE)) * (stride / 2)
        boxes.append(np.concatenate([centre - half, centre + half], axis=1))
        scores.append(score[found])
        landmarks.append((points[found].reshape(-1, 5, 2) + corner_xy[:, None]) * stride)
    return np.concatenate(boxes), np.concatenate(scores), np.concatenate(landmarks)

"""MTCNN: a cascade of three small networks, each of which runs on fewer windows than the one before.

K. Zhang, Z. Zhang, Z. Li, Y. Qiao: "Joint Face Detection and Alignment using Multi-task Cascaded
Convolutional Networks", IEEE Signal Processing Letters 23(10), 2016.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from itertools import islice

import cv2
import numpy as np

from fer_edge._utils.guard import Guard
from fer_edge.backends import Session, SessionOptions, choose_backend
from fer_edge.detection.base import MIN_FACE_PX, DetectorOptions, Effort
from fer_edge.detection.input_size import open_network, serialize, with_size
from fer_edge.detection.mtcnn.pyramid import STRIDE_PX, WINDOW_PX, crop, cut_pyramid, halve
from fer_edge.detection.mtcnn.weights import mtcnn_models
from fer_edge.detection.nms import suppress
from fer_edge.detection.postprocess import to_detections
from fer_edge.errors import DetectorError
from fer_edge.frames import check_frame
from fer_edge.results import Detection

DEFAULT_MIN_SCORE = 0.7

_PNET_SCORE = _RNET_SCORE = 0.7
_LEVEL_OVERLAP, _OVERLAP = 0.5, 0.7
# Bounds on work and memory: windows kept per level, passed to RNet and to ONet.
_MAX_PER_LEVEL, _MAX_RNET, _MAX_ONET = 512, 256, 128
# On backends with fixed sizes PNet runs on square tiles of this side: small enough that tiles of small levels are
# not mostly empty, large enough that the overlap is a small part of a tile.
_TILE_PX, _TILES_PER_RUN = 64, 128


class MtcnnDetector:
    """Finds faces and five landmarks.

    ``options.min_face_px`` sets the largest level of the image pyramid, and so the time per frame. Faces smaller than
    PNet's window of 12 pixels are not found.

    Raises
    ------
    DetectorError
        If the weights are missing or altered.
    BackendError
        If ``options.backend`` is not available.
    """

    name = "mtcnn"
    max_faces: int | None = _MAX_ONET

    def __init__(self, options: DetectorOptions) -> None:
        self._min_face_px = options.min_face_px or MIN_FACE_PX
        self._min_score = DEFAULT_MIN_SCORE if options.min_score is None else options.min_score
        backend = choose_backend(options.backend)
        settings = SessionOptions(threads=options.threads)
        self._tile_px = _TILE_PX if backend.fixed_shapes else None
        sessions: dict[str, Session] = {}
        with ExitStack() as opened:  # closes the open sessions after an error
            for name, content in mtcnn_models().items():
                tiled = name == "pnet" and self._tile_px is not None
                sessions[name] = open_network(_tiled(content) if tiled else content, backend, settings)
                opened.callback(sessions[name].close)
            opened.pop_all()
        self._sessions = Guard(sessions, "detector", DetectorError, free=_close_all, parallel=True)

    def detect(self, frame_bgr: np.ndarray, effort: Effort = Effort.USUAL) -> list[Detection]:
        frame = check_frame(frame_bgr)
        halvings = halve(frame)
        with self._sessions as sessions:
            boxes = self._propose(halvings, sessions["pnet"])
            boxes = self._refine(halvings, boxes, sessions["rnet"])
            boxes, scores, landmarks = self._locate(halvings, boxes, sessions["onet"])
        return to_detections(frame, boxes, scores, landmarks, self._min_face_px)

    def close(self) -> None:
        self._sessions.close()

    def _propose(self, halvings: list[np.ndarray], pnet: Session) -> np.ndarray:
        """Slide PNet over the pyramid; return square boxes ``[N, 4]``, best first."""
        by_level: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
        pieces = cut_pyramid(halvings, self._min_face_px, self._tile_px)
        together = _TILES_PER_RUN if self._tile_px else 1  # strips differ in size
        while batch := list(islice(pieces, together)):
            outputs = pnet.run(_batch([piece.image for piece in batch]))
            for piece, score, offsets in zip(batch, outputs["score"][:, 0], outputs["offsets"], strict=True):
                rows, columns = piece.windows
                y, x = np.nonzero(score[:rows, :columns] > _PNET_SCORE)
                corners = np.stack([x, y], axis=1) * STRIDE_PX + piece.corner_xy
                windows = np.concatenate([corners, corners + WINDOW_PX], axis=1)
                boxes = (windows + offsets[:, y, x].T * WINDOW_PX) / np.tile(piece.scale_xy, 2)
                by_level.setdefault(piece.level, []).append((boxes, score[y, x]))
        if not by_level:
            return np.empty((0, 4), np.float32)
        found = [
            _best_of_level(*map(np.concatenate, zip(*parts, strict=True))) for parts in by_level.values()
        ]
        boxes, scores = map(np.concatenate, zip(*found, strict=True))
        return to_square(boxes[suppress(boxes, scores, _OVERLAP)[:_MAX_RNET]])

    def _refine(self, halvings: list[np.ndarray], boxes: np.ndarray, rnet: Session) -> np.ndarray:
        """Reject and move boxes by RNet; return square boxes, best first."""
        if not len(boxes):
            return boxes
        outputs = rnet.run(_batch([crop(halvings, box, 24) for box in boxes]))
        scores = outputs["score"][:, 0]
        keep = scores > _RNET_SCORE
        boxes, scores = shift(boxes, outputs["offsets"])[keep], scores[keep]
        return to_square(boxes[suppress(boxes, scores, _OVERLAP)[:_MAX_ONET]])

    def _locate(
        self, halvings: list[np.ndarray], boxes: np.ndarray, onet: Session
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Run ONet on the boxes; return boxes ``[N, 4]``, scores ``[N]`` and landmarks ``[N, 5, 2]``."""
        if not len(boxes):
            return boxes, np.empty(0, np.float32), np.empty((0, 5, 2), np.float32)
        outputs = onet.run(_batch([crop(halvings, box, 48) for box in boxes]))
        scores = outputs["score"][:, 0]
        points = outputs["landmarks"].reshape(-1, 2, 5).transpose(0, 2, 1)
        landmarks = boxes[:, None, :2] + points * (boxes[:, None, 2:] - boxes[:, None, :2])
        boxes = shift(boxes, outputs["offsets"])
        keep = np.flatnonzero(scores >= self._min_score)
        keep = keep[suppress(boxes[keep], scores[keep], _OVERLAP, of_smaller=True)]
        return boxes[keep], scores[keep], landmarks[keep]


def _best_of_level(boxes: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    best = np.argsort(-scores, kind="stable")[:_MAX_PER_LEVEL]
    best = best[suppress(boxes[best], scores[best], _LEVEL_OVERLAP)]
    return boxes[best], scores[best]


def to_square(boxes: np.ndarray) -> np.ndarray:
    """Return boxes ``[N, 4]`` grown around their centres until both sides equal the longer one."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, keepdims=True, initial=0) / 2
    return np.concatenate([centres - half, centres + half], axis=1)


def shift(boxes: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return boxes ``[N, 4]`` with each edge moved by its offset, in units of the box sides."""
    return boxes + offsets * np.tile(boxes[:, 2:] - boxes[:, :2], 2)


def _close_all(sessions: Mapping[str, Session]) -> None:
    for session in sessions.values():
        session.close()


def _tiled(content: bytes) -> bytes:
    import onnx

    return serialize(with_size(onnx.load_model_from_string(content), _TILE_PX, _TILE_PX))


def _batch(images: list[np.ndarray]) -> np.ndarray:
    """Return equal-sized BGR images as ``[B, 3, H, W]`` float32 RGB in [-1, 1]."""
    return np.asarray(cv2.dnn.blobFromImages(images, 1 / 128, mean=(127.5, 127.5, 127.5), swapRB=True))

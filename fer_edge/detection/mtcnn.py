"""MTCNN: three small networks in a row, each of which sees fewer windows than the one before.

K. Zhang, Z. Zhang, Z. Li, Y. Qiao: "Joint Face Detection and Alignment using Multi-task Cascaded
Convolutional Networks", IEEE Signal Processing Letters 23(10), 2016.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import cv2
import numpy as np

from fer_edge.backends import SessionOptions, choose_backend
from fer_edge.detection import check_frame, to_detections
from fer_edge.detection.base import DetectorOptions
from fer_edge.detection.mtcnn_weights import mtcnn_models
from fer_edge.results import Detection

DEFAULT_MIN_SCORE = 0.7

_WINDOW_PX, _STRIDE_PX = 12, 2  # of PNet
_PYRAMID_FACTOR = 0.709
# Gray around each level lets a window hang over the edge: of a face that fills or leaves the frame, PNet
# would otherwise see no whole window. A level smaller than _MIN_LEVEL_PX shows too little of any face.
_MARGIN_PX, _MIN_LEVEL_PX = 4, 8
_GRAY = (127, 127, 127)
_PNET_SCORE = _RNET_SCORE = 0.7
_LEVEL_OVERLAP, _OVERLAP = 0.5, 0.7
# Bounds on work and memory: windows kept per level, passed to RNet and to ONet; pixels per run of PNet.
_MAX_PER_LEVEL, _MAX_RNET, _MAX_ONET = 512, 256, 128
_STRIP_AREA_PX = 1 << 21


class MtcnnDetector:
    """Finds faces and five landmarks.

    ``options.min_face_px`` sets the largest level of the image pyramid, and with it the time that a frame
    takes; below 12 pixels, which is PNet's window, nothing smaller is found.

    Raises
    ------
    DetectorError
        If the weights are missing or altered.
    BackendError
        If ``options.backend`` is not available.
    """

    name = "mtcnn"

    def __init__(self, options: DetectorOptions) -> None:
        self._min_face_px = options.min_face_px
        self._min_score = DEFAULT_MIN_SCORE if options.min_score is None else options.min_score
        backend = choose_backend(options.backend)
        settings = SessionOptions(threads=options.threads)
        self._sessions = {name: backend.open(path, settings) for name, path in mtcnn_models().items()}

    def detect(self, frame_bgr: np.ndarray) -> list[Detection]:
        """See :class:`fer_edge.detection.base.Detector`."""
        frame = check_frame(frame_bgr)
        halvings = halve(frame)
        boxes = self._propose(halvings)
        boxes = self._refine(halvings, boxes)
        boxes, scores, landmarks = self._locate(halvings, boxes)
        return to_detections(frame, boxes, scores, landmarks, self._min_face_px)

    def close(self) -> None:
        """See :class:`fer_edge.detection.base.Detector`."""
        for session in self._sessions.values():
            session.close()

    def _propose(self, halvings: list[np.ndarray]) -> np.ndarray:
        """Slide PNet over the pyramid; return square boxes ``[N, 4]``, best first."""
        found = [self._propose_at(*level) for level in _pyramid(halvings, self._min_face_px)]
        if not found:
            return np.empty((0, 4), np.float32)
        boxes = np.concatenate([boxes for boxes, _ in found])
        scores = np.concatenate([scores for _, scores in found])
        return to_square(boxes[suppress(boxes, scores, _OVERLAP)[:_MAX_RNET]])

    def _propose_at(self, level: np.ndarray, scale_xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return PNet's boxes in frame pixels and their scores, at one level of the pyramid."""
        level = cv2.copyMakeBorder(level, *(_MARGIN_PX,) * 4, cv2.BORDER_CONSTANT, value=_GRAY)
        height, width = level.shape[:2]
        # A strip starts at an even row and overlaps the next by what PNet's window reaches beyond its
        # stride, so the strips together give what the whole level would.
        rows = max(_STRIP_AREA_PX // width // _STRIDE_PX, 1) * _STRIDE_PX
        boxes, scores = [], []
        for top in range(0, height - _WINDOW_PX + 1, rows):
            outputs = self._sessions["pnet"].run(_batch([level[top : top + rows + _WINDOW_PX - _STRIDE_PX]]))
            score, offsets = outputs["score"][0, 0], outputs["offsets"][0]
            y, x = np.nonzero(score > _PNET_SCORE)
            corners = np.stack([x, y], axis=1) * _STRIDE_PX + [0, top] - _MARGIN_PX
            windows = np.concatenate([corners, corners + _WINDOW_PX], axis=1)
            boxes.append(windows + offsets[:, y, x].T * _WINDOW_PX)
            scores.append(score[y, x])
        all_boxes, all_scores = np.concatenate(boxes), np.concatenate(scores)
        best = np.argsort(-all_scores, kind="stable")[:_MAX_PER_LEVEL]
        best = best[suppress(all_boxes[best], all_scores[best], _LEVEL_OVERLAP)]
        return all_boxes[best] / np.tile(scale_xy, 2), all_scores[best]

    def _refine(self, halvings: list[np.ndarray], boxes: np.ndarray) -> np.ndarray:
        """Let RNet reject and move boxes; return square boxes, best first."""
        if not len(boxes):
            return boxes
        outputs = self._sessions["rnet"].run(_batch([crop(halvings, box, 24) for box in boxes]))
        scores = outputs["score"][:, 0]
        keep = scores > _RNET_SCORE
        boxes, scores = shift(boxes, outputs["offsets"])[keep], scores[keep]
        return to_square(boxes[suppress(boxes, scores, _OVERLAP)[:_MAX_ONET]])

    def _locate(
        self, halvings: list[np.ndarray], boxes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Let ONet decide; return boxes ``[N, 4]``, scores ``[N]`` and landmarks ``[N, 5, 2]``."""
        if not len(boxes):
            return boxes, np.empty(0, np.float32), np.empty((0, 5, 2), np.float32)
        outputs = self._sessions["onet"].run(_batch([crop(halvings, box, 48) for box in boxes]))
        scores = outputs["score"][:, 0]
        points = outputs["landmarks"].reshape(-1, 2, 5).transpose(0, 2, 1)
        landmarks = boxes[:, None, :2] + points * (boxes[:, None, 2:] - boxes[:, None, :2])
        boxes = shift(boxes, outputs["offsets"])
        keep = np.flatnonzero(scores >= self._min_score)
        keep = keep[suppress(boxes[keep], scores[keep], _OVERLAP, of_smaller=True)]
        return boxes[keep], scores[keep], landmarks[keep]


def suppress(
    boxes: np.ndarray, scores: np.ndarray, max_overlap: float, of_smaller: bool = False
) -> np.ndarray:
    """Return indices of the boxes ``[N, 4]`` that no better one overlaps, best first.

    Overlap is intersection over union or, with ``of_smaller``, over the smaller of the two areas, which
    also drops a box inside a better one.
    """
    order = np.argsort(-scores, kind="stable")
    corners = boxes[order]
    areas = (corners[:, 2:] - corners[:, :2]).clip(0).prod(axis=1)
    low = np.maximum(corners[:, None, :2], corners[None, :, :2])
    high = np.minimum(corners[:, None, 2:], corners[None, :, 2:])
    common = (high - low).clip(0).prod(axis=2)
    if of_smaller:
        whole = np.minimum(areas[:, None], areas[None, :])
    else:
        whole = areas[:, None] + areas[None, :] - common
    allowed = common <= max_overlap * whole
    keep = np.ones(len(order), bool)
    for i in range(len(order)):
        if keep[i]:
            keep[i + 1 :] &= allowed[i, i + 1 :]
    return order[keep]


def to_square(boxes: np.ndarray) -> np.ndarray:
    """Return boxes ``[N, 4]`` grown around their centres until both sides equal the longer one."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, keepdims=True, initial=0) / 2
    return np.concatenate([centres - half, centres + half], axis=1)


def shift(boxes: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return boxes ``[N, 4]`` with each edge moved by its offset, which is in box sides."""
    return boxes + offsets * np.tile(boxes[:, 2:] - boxes[:, :2], 2)


def halve(frame: np.ndarray) -> list[np.ndarray]:
    """Return the frame at full size, half, a quarter and so on.

    Crops and pyramid levels are then taken from an image at most twice their resolution, where linear
    interpolation is as good as averaging the frame, and many times cheaper.
    """
    images = [frame]
    while min(images[-1].shape[:2]) >= 2 * _WINDOW_PX:
        height, width = (side // 2 for side in images[-1].shape[:2])
        even = images[-1][: 2 * height, : 2 * width]
        images.append(cv2.resize(even, (width, height), interpolation=cv2.INTER_AREA))
    return images


def crop(halvings: list[np.ndarray], box: np.ndarray, side_px: int) -> np.ndarray:
    """Return a square box of the frame as ``[side_px, side_px, 3]`` uint8, gray where it lies outside."""
    step = max(float(box[2] - box[0]), 1.0) / side_px
    index = _halving(halvings, step)
    step /= 2**index
    left, top = (float(v) / 2**index + step / 2 - 0.5 for v in box[:2])  # OpenCV counts from pixel centres
    to_source = np.array([[step, 0, left], [0, step, top]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    size = side_px, side_px
    return np.asarray(
        cv2.warpAffine(
            halvings[index], to_source, size, flags=flags, borderMode=cv2.BORDER_CONSTANT, borderValue=_GRAY
        )
    )


def _halving(halvings: list[np.ndarray], step: float) -> int:
    """Return which halving to read so that neighbours in the result are less than two pixels apart."""
    return min(int(math.log2(max(step, 1.0))), len(halvings) - 1)


def _pyramid(halvings: list[np.ndarray], min_face_px: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the frame at falling sizes, with the scale of x and y.

    PNet's window covers ``min_face_px`` in the first, and more in each that follows.
    """
    height, width = halvings[0].shape[:2]
    scale = min(_WINDOW_PX / min_face_px, 1.0)
    while min(height, width) * scale >= _MIN_LEVEL_PX:
        index = _halving(halvings, 1 / scale)
        source = halvings[index]
        size = round(width * scale), round(height * scale)
        covered = np.array([source.shape[1], source.shape[0]]) * 2**index
        yield cv2.resize(source, size, interpolation=cv2.INTER_LINEAR), size / covered
        scale *= _PYRAMID_FACTOR


def _batch(images: list[np.ndarray]) -> np.ndarray:
    """Return equal-sized BGR images as ``[B, 3, H, W]`` float32 RGB, from -1 to 1."""
    return np.asarray(cv2.dnn.blobFromImages(images, 1 / 128, mean=(127.5, 127.5, 127.5), swapRB=True))

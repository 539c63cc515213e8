"""Other ways to find known faces again, to compare :mod:`fer_edge.tracking.refine` with.

Each has the interface of :class:`fer_edge.tracking.refine.Refiner`. Methods that compare with the past frame keep it.
"""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np

from fer_edge.backends import SessionOptions, choose_backend
from fer_edge.detection import create_detector
from fer_edge.detection.input_size import open_network
from fer_edge.detection.mtcnn.detector import shift, to_square
from fer_edge.detection.mtcnn.pyramid import crop
from fer_edge.detection.mtcnn.weights import mtcnn_models
from fer_edge.detection.yunet.decoding import decode
from fer_edge.detection.yunet.weights import read_model
from fer_edge.results import Detection
from fer_edge.tracking.association import overlaps

Expected = Mapping[int, Detection]
Found = Mapping[int, Detection | None]

_CELL_PX, _GAP_PX, _SURROUNDINGS = 64, 32, 2.5


class WholeFrame:
    """Detection of the whole frame; each face takes the detection that overlaps its expected box most."""

    def __init__(self) -> None:
        self._detector = create_detector("yunet")

    def refine(self, frame_bgr: np.ndarray, expected: Expected) -> Found:
        found = self._detector.detect(frame_bgr)
        return {track: _nearest(found, face) for track, face in expected.items()}


class Mosaic:
    """YuNet on one image of all surroundings, side by side."""

    def __init__(self) -> None:
        self._network = open_network(
            read_model(None), choose_backend("onnxruntime"), SessionOptions(threads=1)
        )

    def refine(self, frame_bgr: np.ndarray, expected: Expected) -> Found:
        columns = int(np.ceil(np.sqrt(len(expected))))
        rows = -(-len(expected) // columns)
        pitch = _CELL_PX + _GAP_PX
        image = np.zeros((rows * pitch, columns * pitch, 3), np.uint8)
        cells = []
        for i, face in enumerate(expected.values()):
            y, x = (v * pitch for v in divmod(i, columns))
            square = _surroundings(face)
            image[y : y + _CELL_PX, x : x + _CELL_PX] = _crop(frame_bgr, square, _CELL_PX)
            cells.append((x, y, square))
        seen = decode(self._network.run(cv2.dnn.blobFromImage(image)), min_score=0.5)
        boxes, scores, points = seen.boxes_xyxy, seen.scores, seen.landmarks
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        found: dict[int, Detection | None] = {}
        for (track, face), (x, y, square) in zip(expected.items(), cells, strict=True):
            inside = ((centres >= [x, y]) & (centres < [x + _CELL_PX, y + _CELL_PX])).all(axis=1)
            scale, corner = (square[2] - square[0]) / _CELL_PX, square[:2]
            places = [
                Detection(
                    tuple((boxes[i] - [x, y, x, y]) * scale + np.tile(corner, 2)),
                    float(scores[i]),
                    (points[i] - [x, y]) * scale + corner,
                )
                for i in np.flatnonzero(inside)
            ]
            found[track] = max(places, key=lambda place: place.score * _near(place, face), default=None)
        return found


class LucasKanade:
    """Corners of the last box followed by pyramidal Lucas–Kanade, there and back; a similarity transform moves the box."""

    _SIDE_PX, _CORNERS, _MAX_ERROR_PX, _MIN_KEPT = 96, 24, 1.0, 0.5

    def __init__(self) -> None:
        self._last: np.ndarray | None = None

    def refine(self, frame_bgr: np.ndarray, expected: Expected) -> Found:
        last, self._last = self._last, frame_bgr
        if last is None:
            return dict(expected)
        return {track: self._follow(last, frame_bgr, face) for track, face in expected.items()}

    def _follow(self, last: np.ndarray, frame: np.ndarray, face: Detection) -> Detection | None:
        square = _surroundings(face)
        before, after = (
            cv2.cvtColor(_crop(image, square, self._SIDE_PX), cv2.COLOR_BGR2GRAY) for image in (last, frame)
        )
        scale = (square[2] - square[0]) / self._SIDE_PX
        box = (np.array(face.box_xyxy) - np.tile(square[:2], 2)) / scale
        left, top, right, bottom = box.round().astype(int)
        mask = np.zeros_like(before)
        mask[max(top, 0) : bottom, max(left, 0) : right] = 255
        points = cv2.goodFeaturesToTrack(before, self._CORNERS, 0.01, 3, mask=mask)
        if points is None:
            return None
        landmarks = np.zeros((0, 2)) if face.landmarks is None else (face.landmarks - square[:2]) / scale
        points = np.concatenate([points[:, 0], landmarks]).astype(np.float32)
        there, ok, _ = cv2.calcOpticalFlowPyrLK(before, after, points, None, winSize=(11, 11), maxLevel=3)
        back, ok_back, _ = cv2.calcOpticalFlowPyrLK(after, before, there, None, winSize=(11, 11), maxLevel=3)
        error = np.linalg.norm(back - points, axis=1)
        kept = (ok[:, 0] > 0) & (ok_back[:, 0] > 0) & (error < self._MAX_ERROR_PX)
        if kept.sum() < max(self._MIN_KEPT * len(points), 4):
            return None
        matrix, inliers = cv2.estimateAffinePartial2D(points[kept], there[kept], ransacReprojThreshold=1.5)
        if matrix is None or inliers.sum() < self._MIN_KEPT * len(points):
            return None
        return transformed(face, _in_frame(matrix, scale, square[:2]), float(kept.mean()))


class Template:
    """The patch of the first box sought by normalised correlation, at three scales."""

    _SIDE_PX, _MIN_SCORE, _SCALES = 80, 0.6, (0.95, 1.0, 1.05)

    def __init__(self) -> None:
        self._patches: dict[int, np.ndarray] = {}

    def refine(self, frame_bgr: np.ndarray, expected: Expected) -> Found:
        return {track: self._find(frame_bgr, track, face) for track, face in expected.items()}

    def _find(self, frame: np.ndarray, track: int, face: Detection) -> Detection | None:
        square = _surroundings(face)
        image = cv2.cvtColor(_crop(frame, square, self._SIDE_PX), cv2.COLOR_BGR2GRAY)
        side = round(self._SIDE_PX / _SURROUNDINGS)
        if track not in self._patches:
            corner = (self._SIDE_PX - side) // 2
            self._patches[track] = image[corner : corner + side, corner : corner + side]
            return face
        best = (-1.0, 1.0, (0.0, 0.0))
        for scale in self._SCALES:
            patch = cv2.resize(self._patches[track], (round(side * scale),) * 2)
            match = cv2.matchTemplate(image, patch, cv2.TM_CCOEFF_NORMED)
            _, score, _, (x, y) = cv2.minMaxLoc(match)
            middle = len(patch) / 2 - self._SIDE_PX / 2
            best = max(best, (score, len(patch) / side, (x + middle, y + middle)))
        score, scale, move = best
        if score < self._MIN_SCORE:
            return None
        step = (square[2] - square[0]) / self._SIDE_PX
        centre = (square[:2] + square[2:]) / 2
        offset = centre + np.array(move) * step - scale * centre
        return transformed(face, np.array([[scale, 0, offset[0]], [0, scale, offset[1]]]), score)


class MtcnnStages:
    """MTCNN's second and third network on the expected box, grown to a square."""

    _MIN_SCORE = 0.7

    def __init__(self) -> None:
        backend, settings = choose_backend("onnxruntime"), SessionOptions(threads=1)
        self._networks = {
            name: open_network(content, backend, settings)
            for name, content in mtcnn_models().items()
            if name != "pnet"
        }

    def refine(self, frame_bgr: np.ndarray, expected: Expected) -> Found:
        found: dict[int, Detection | None] = dict.fromkeys(expected)
        boxes = to_square(np.array([face.box_xyxy for face in expected.values()]))
        boxes = to_square(shift(boxes, self._run("rnet", frame_bgr, boxes, 24)["offsets"]))
        outputs = self._run("onet", frame_bgr, boxes, 48)
        points = outputs["landmarks"].reshape(-1, 2, 5).transpose(0, 2, 1)
        landmarks = boxes[:, None, :2] + points * (boxes[:, None, 2:] - boxes[:, None, :2])
        boxes, scores = shift(boxes, outputs["offsets"]), outputs["score"][:, 0]
        for track, box, score, marks in zip(expected, boxes, scores, landmarks, strict=True):
            if score >= self._MIN_SCORE:
                found[track] = Detection(tuple(box), float(score), marks)
        return found

    def _run(self, name: str, frame: np.ndarray, boxes: np.ndarray, side_px: int) -> Mapping[str, np.ndarray]:
        images = [_crop(frame, box, side_px, gray=127) for box in boxes]
        batch = cv2.dnn.blobFromImages(images, 1 / 128, mean=(127.5, 127.5, 127.5), swapRB=True)
        return self._networks[name].run(batch)


def transformed(face: Detection, matrix: np.ndarray, score: float) -> Detection:
    """Move a face by a similarity transform ``[2, 3]``; its box stays upright."""
    left, top, right, bottom = face.box_xyxy
    centre = matrix[:, :2] @ [(left + right) / 2, (top + bottom) / 2] + matrix[:, 2]
    half = np.array([right - left, bottom - top]) / 2 * np.sqrt(abs(np.linalg.det(matrix[:, :2])))
    landmarks = None if face.landmarks is None else face.landmarks @ matrix[:, :2].T + matrix[:, 2]
    return Detection(tuple(map(float, [*(centre - half), *(centre + half)])), score, landmarks)


def overlap(a: Detection, b: Detection) -> float:
    """Return the intersection over union of two boxes."""
    return float(overlaps(np.array([a.box_xyxy]), np.array([b.box_xyxy]))[0, 0])


def centre_error(a: Detection, b: Detection) -> float:
    """Return the distance of the centres of two boxes, in widths of the second."""
    first, second = np.array(a.box_xyxy), np.array(b.box_xyxy)
    moved = (first[:2] + first[2:] - second[:2] - second[2:]) / 2
    return float(np.hypot(*moved) / (second[2] - second[0]))


def _nearest(found: list[Detection], face: Detection) -> Detection | None:
    best = max(found, key=lambda place: _near(place, face), default=None)
    return best if best is not None and centre_error(best, face) < 1 else None


def _near(place: Detection, face: Detection) -> float:
    return float(np.exp(-2 * centre_error(place, face) ** 2))


def _surroundings(face: Detection) -> np.ndarray:
    left, top, right, bottom = face.box_xyxy
    half = _SURROUNDINGS * max(right - left, bottom - top) / 2
    x, y = (left + right) / 2, (top + bottom) / 2
    return np.array([x - half, y - half, x + half, y + half])


def _crop(frame: np.ndarray, square: np.ndarray, side_px: int, gray: int = 0) -> np.ndarray:
    """Cut a square as the detectors do, from every n-th pixel of a large one."""
    step = max(int((square[2] - square[0]) / side_px), 1)
    x0, y0 = (max(int(v) // step * step, 0) for v in square[:2])
    x1, y1 = (max(int(v) + step + 1, 1) for v in square[2:])
    part = np.ascontiguousarray(frame[y0:y1:step, x0:x1:step])
    if not part.size:
        return np.full((side_px, side_px, 3), gray, np.uint8)
    return crop([part], (square - [x0, y0, x0, y0]) / step, side_px)


def _in_frame(matrix: np.ndarray, scale: float, corner: np.ndarray) -> np.ndarray:
    """Return the transform of frame pixels for one of pixels of a crop."""
    result = matrix.copy()
    result[:, 2] = matrix[:, 2] * scale + corner - matrix[:, :2] @ corner
    return result

"""Find known faces again in the next frame, in their surroundings only.

YuNet runs on a small image of the surroundings of each expected box, all faces in one batch. The cost depends on the
number of faces and not on the frame size. As every frame is searched anew, errors do not accumulate, and a face that
left or is covered has no score.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Protocol

import cv2
import numpy as np

from fer_edge._utils.checks import MAX_THREADS, require_number, require_path, require_whole
from fer_edge._utils.guard import Guard
from fer_edge.backends import Session, SessionOptions, choose_backend
from fer_edge.detection.input_size import open_network, serialize
from fer_edge.detection.nms import suppress
from fer_edge.detection.yunet.graph import FIX, STRIDES_PX, YuNetModel
from fer_edge.errors import BackendError, DetectorError, UsageError, without_fix
from fer_edge.frames import check_frame
from fer_edge.results import Box, Detection

_MAX_BATCH = 16  # bounds memory
_MAX_INPUT_PX = 1024
# Two tracks whose boxes overlap more are the same face.
_MAX_OVERLAP = 0.3
_MAX_LOG_SIDE = 12.0  # of a box, in strides; exp() of more is beyond any frame
# Standard deviations of the prior around the expected box: centre in face sides, side as a logarithm.
_CENTRE_SPREAD, _SIDE_SPREAD = 0.5, 0.4


@dataclass(frozen=True)
class RefinerOptions:
    """Options of a refiner.

    Attributes
    ----------
    model : Path or None
        YuNet file.
    min_score : float
        Smallest score of a face that is found again.
    surroundings : float
        Side of the searched square, in units of the longer side of the expected box.
    input_px : int
        Side of the network's input, a multiple of 32.
    backend : str
        A key of :data:`fer_edge.backends.BACKENDS` or ``auto``.
    threads : int or None
        CPU threads; ``None`` is the default of the backend.
    """

    model: Path | None = None
    min_score: float = 0.5
    surroundings: float = 2.5
    input_px: int = 96
    backend: str = "onnxruntime"
    threads: int | None = 1

    def __post_init__(self) -> None:
        require_path("model", self.model)
        require_number("min_score", self.min_score, 0, 1)
        require_number("surroundings", self.surroundings, 1, 10)
        require_whole("input_px", self.input_px, max(STRIDES_PX), _MAX_INPUT_PX)
        if self.input_px % max(STRIDES_PX):
            raise UsageError(
                f"input_px must be a multiple of {max(STRIDES_PX)}, found {self.input_px}. Fix: change input_px"
            )
        if not isinstance(self.backend, str):
            raise UsageError(
                f"backend must be a name, found {self.backend!r:.60}. Fix: give a name listed by fer-edge doctor, or auto"
            )
        require_whole("threads", self.threads, 1, MAX_THREADS, optional=True)


class Refiner(Protocol):
    """Finds known faces again. It is thread-safe, and closed like a :class:`fer_edge.detection.base.Detector`."""

    def refine(
        self, frame_bgr: np.ndarray, expected: Mapping[int, Detection]
    ) -> Mapping[int, Detection | None]:
        """Return each expected face as it is in this frame, ``None`` if it is not found.

        Parameters
        ----------
        frame_bgr : np.ndarray
            ``[H, W, 3]`` uint8 BGR.
        expected : Mapping of int to Detection
            Last or predicted place of each face, by track. A box that is not finite, empty, or outside the frame is
            not found.

        Returns
        -------
        Mapping of int to Detection or None
            One value for each key of ``expected``. No two faces are at the same place.

        Raises
        ------
        DataError
            If the frame has another format.
        DetectorError
            If the refiner is closed, or was made before a fork.
        """

    def close(self) -> None:
        """Wait for running calls, then free the refiner's resources."""


def create_refiner(options: RefinerOptions | None = None) -> Refiner:
    """Return a refiner, ready to use.

    Raises
    ------
    DetectorError
        If no YuNet file is given, or it is not YuNet.
    BackendError
        If ``options.backend`` is not available.
    """
    return YuNetRefiner(options or RefinerOptions())


class YuNetRefiner:
    """Finds faces again with YuNet.

    Boxes and landmarks are YuNet's, whichever detector made the expected ones.
    """

    def __init__(self, options: RefinerOptions) -> None:
        if options.model is None:
            raise DetectorError(f"refiner yunet expects a model file, found none. {FIX}")
        self._options = options
        side = options.input_px
        backend = choose_backend(options.backend)
        settings = SessionOptions(threads=options.threads, max_batch=_MAX_BATCH)
        content = serialize(YuNetModel(Path(options.model)).at(side, side))
        try:
            network = open_network(content, backend, settings)
            network.run(np.zeros((1, 3, side, side), np.float32))  # some inconsistent files fail only here
        except BackendError as error:
            raise DetectorError(
                f"{options.model} cannot be run as YuNet ({without_fix(error)}). {FIX}"
            ) from error
        self._anchors = _anchors(side)
        self._network: Guard[Session] = Guard(
            network, "refiner", DetectorError, free=lambda session: session.close(), parallel=True
        )

    def refine(
        self, frame_bgr: np.ndarray, expected: Mapping[int, Detection]
    ) -> Mapping[int, Detection | None]:
        frame = check_frame(frame_bgr)
        found: dict[int, Detection | None] = dict.fromkeys(expected)
        windows = {
            track: window
            for track, face in expected.items()
            if (window := _window(face.box_xyxy, frame.shape, self._options)) is not None
        }
        tracks = list(windows)
        with self._network as network:
            candidates = self._search(frame, list(windows.values()), network)
        expected_boxes = np.array([expected[track].box_xyxy for track in tracks]).reshape(-1, 4)
        weights = candidates.scores * _prior(candidates.boxes, expected_boxes[candidates.owners])
        for i in _assign(candidates.boxes, weights, candidates.owners):
            found[tracks[candidates.owners[i]]] = _detection(frame, candidates, i)
        return found

    def close(self) -> None:
        self._network.close()

    def _search(self, frame: np.ndarray, windows: Sequence[_Window], network: Session) -> _Candidates:
        """Return all boxes with enough score, in pixels of the frame."""
        remaining = enumerate(windows)
        parts = [_NO_CANDIDATES]
        while batch := list(islice(remaining, _MAX_BATCH)):
            images = [_cut(frame, window, self._options.input_px) for _, window in batch]
            outputs = network.run(cv2.dnn.blobFromImages(images))
            boxes, scores, landmarks, image = _decode(outputs, self._anchors, self._options.min_score)
            scale = np.array([window.side for _, window in batch])[image] / self._options.input_px
            corner = np.array([(window.left, window.top) for _, window in batch], np.float64)[image]
            parts.append(
                _Candidates(
                    boxes * scale[:, None] + np.tile(corner, 2),
                    scores,
                    landmarks * scale[:, None, None] + corner[:, None],
                    image + batch[0][0],
                )
            )
        return _Candidates(*map(np.concatenate, zip(*parts, strict=True)))


class _Window(NamedTuple):
    """A square of the frame, in pixels; it may extend beyond. Every ``step``-th pixel is read."""

    left: int
    top: int
    side: int
    step: int


class _Candidates(NamedTuple):
    """Boxes ``[N, 4]``, scores ``[N]``, landmarks ``[N, 5, 2]``, and the index of the face searched for, ``[N]``."""

    boxes: np.ndarray
    scores: np.ndarray
    landmarks: np.ndarray
    owners: np.ndarray


_NO_CANDIDATES = _Candidates(np.empty((0, 4)), np.empty(0), np.empty((0, 5, 2)), np.empty(0, np.intp))


def _window(box: Box, shape: tuple[int, ...], options: RefinerOptions) -> _Window | None:
    """Return the surroundings of a box, ``None`` if the box is empty or outside the frame."""
    left, top, right, bottom = map(float, box)
    longer = max(right - left, bottom - top)
    if not all(map(math.isfinite, box)) or longer > 2 * max(shape[:2]):
        return None
    height, width = shape[:2]
    if min(right, width) <= max(left, 0) or min(bottom, height) <= max(top, 0):
        return None
    side = max(longer * options.surroundings, 1.0)
    # Reading every step-th pixel bounds the cost for large faces; averaging two or more of them limits aliasing.
    step = max(int(side / (2 * options.input_px)), 1)
    side_px = step * math.ceil(side / step)
    x, y = (left + right - side_px) / 2, (top + bottom - side_px) / 2
    return _Window(round(x), round(y), side_px, step)


def _cut(frame: np.ndarray, window: _Window, input_px: int) -> np.ndarray:
    """Return a window as ``[input_px, input_px, 3]`` uint8, black outside the frame."""
    rows, above, below = _samples(window.top, window, frame.shape[0])
    columns, before, behind = _samples(window.left, window, frame.shape[1])
    image = frame[rows, columns]
    if above or below or before or behind:
        image = cv2.copyMakeBorder(image, above, below, before, behind, cv2.BORDER_CONSTANT)
    shrinks = len(image) > input_px
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (input_px, input_px), interpolation=method))


def _samples(start: int, window: _Window, size: int) -> tuple[slice, int, int]:
    """Return the pixels read along one axis, and the number of samples before and behind the frame."""
    step, count = window.step, window.side // window.step
    first = start + step // 2
    before = min(max(-(first // step), 0), count)
    behind = min(max(count - -((first - size) // step), 0), count)
    return slice(first + before * step, first + (count - behind) * step, step), before, behind


def _anchors(side: int) -> np.ndarray:
    """Return left, top and stride of every anchor of an image, ``[A, 3]``, in strides and pixels."""
    parts = []
    for stride in STRIDES_PX:
        y, x = np.divmod(np.arange((side // stride) ** 2), side // stride)
        parts.append(np.stack([x, y, np.full_like(x, stride)], axis=1))
    return np.concatenate(parts)


def _decode(
    outputs: Mapping[str, np.ndarray], anchors: np.ndarray, min_score: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Decode a batch as :func:`fer_edge.detection.yunet.detector.decode`; return also the index of the image."""
    cls, obj, box, points = (
        np.concatenate([outputs[f"{head}_{stride}"] for stride in STRIDES_PX], axis=1)
        for head in ("cls", "obj", "bbox", "kps")
    )
    score = np.sqrt(cls[..., 0].clip(0, 1) * obj[..., 0].clip(0, 1))
    image, found = np.nonzero(score >= min_score)
    corner, stride = anchors[found, :2], anchors[found, 2:]
    box = box[image, found]
    centre = (corner + box[:, :2]) * stride
    half = np.exp(box[:, 2:].clip(max=_MAX_LOG_SIDE)) * (stride / 2)
    landmarks = (points[image, found].reshape(-1, 5, 2) + corner[:, None]) * stride[..., None]
    return np.concatenate([centre - half, centre + half], axis=1), score[image, found], landmarks, image


def _prior(boxes: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Return how well boxes ``[N, 4]`` agree with the expected ones, in [0, 1]."""
    side, expected_side = ((b[:, 2:] - b[:, :2]).max(axis=1, initial=1e-6) for b in (boxes, expected))
    moved = (boxes[:, :2] + boxes[:, 2:] - expected[:, :2] - expected[:, 2:]) / 2
    distance = np.hypot(moved[:, 0], moved[:, 1]) / (expected_side * _CENTRE_SPREAD)
    growth = np.log(side / expected_side) / _SIDE_SPREAD
    return np.asarray(np.exp(-(distance**2 + growth**2) / 2))


def _assign(boxes: np.ndarray, weights: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """Return the index of the best candidate of each face; faces do not share one."""
    left = np.argsort(-weights, kind="stable")
    while True:
        best = left[np.unique(owners[left], return_index=True)[1]]
        if len(best) < 2:
            return best
        kept = best[suppress(boxes[best], weights[best], _MAX_OVERLAP)]
        if len(kept) == len(best):
            return best
        taken = _overlaps(boxes[left], boxes[kept]) & ~np.isin(owners[left], owners[kept])
        left = left[~taken]


def _overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return which boxes ``[N, 4]`` are at the place of one of ``others``, ``[N]`` bool."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    common = (high - low).clip(0).prod(axis=2)
    areas, other_areas = ((b[:, 2:] - b[:, :2]).clip(0).prod(axis=1) for b in (boxes, others))
    whole = areas[:, None] + other_areas[None] - common
    return np.asarray((common > _MAX_OVERLAP * whole).any(axis=1))


def _detection(frame: np.ndarray, candidates: _Candidates, i: int) -> Detection | None:
    """Return a candidate with its box clipped to the frame, ``None`` if it is not finite or outside."""
    height, width = frame.shape[:2]
    left, top, right, bottom = np.clip(candidates.boxes[i], 0, [width, height, width, height]).tolist()
    if not (right - left >= 1 and bottom - top >= 1):
        return None
    landmarks = candidates.landmarks[i].astype(np.float32)
    return Detection((left, top, right, bottom), float(min(candidates.scores[i], 1)), landmarks)

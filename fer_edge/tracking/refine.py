"""Find known faces again in the next frame, in their surroundings only.

YuNet runs on a small image of the surroundings of each expected box, all faces in one batch. The cost depends on the
number of faces and not on the frame size. As every frame is searched anew, errors do not accumulate, and a face that
left or is covered has no score.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import methodcaller
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from fer_edge._utils.checks import MAX_THREADS, require_number, require_path, require_whole
from fer_edge._utils.guard import Guard
from fer_edge.backends import Session, SessionOptions, choose_backend
from fer_edge.detection.nms import suppress
from fer_edge.detection.yunet.decoding import decode_batch
from fer_edge.detection.yunet.graph import STRIDES_PX, at_size
from fer_edge.detection.yunet.opening import open_yunet
from fer_edge.detection.yunet.weights import read_model
from fer_edge.errors import DetectorError, UsageError
from fer_edge.frames import check_frame
from fer_edge.results import Box, Detection
from fer_edge.tracking.alignment import cut_square, roll
from fer_edge.tracking.association import overlaps

_MAX_BATCH = 16  # bounds memory
_MAX_FRAMES_PER_BOX = 2  # in sides
_MAX_INPUT_PX = 1024
# Neighbours in the result may be so far apart in the frame without averaging, which costs 0.1 ms.
_MAX_STEP_PX = 3
# Two tracks whose boxes overlap more are the same face.
_MAX_OVERLAP = 0.3
# Standard deviations of the prior around the expected box: centre in face sides, side as a logarithm.
_CENTRE_SPREAD, _SIDE_SPREAD = 0.5, 0.4


@dataclass(frozen=True)
class RefinerOptions:
    """Options of a refiner.

    Attributes
    ----------
    model : Path or None
        YuNet file; ``None`` is the one of the package.
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
    min_score: float = 0.6
    surroundings: float = 2.0
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
        If the file is missing or is not YuNet.
    BackendError
        If ``options.backend`` is not available.
    """
    return YuNetRefiner(options or RefinerOptions())


class YuNetRefiner:
    """Finds faces again with YuNet; boxes and landmarks are YuNet's, also if another detector made the expected ones.

    Attributes
    ----------
    detector : str
        The detector whose boxes these are.
    """

    detector = "yunet"

    def __init__(self, options: RefinerOptions) -> None:
        self._options = options
        side = options.input_px
        backend = choose_backend(options.backend)
        settings = SessionOptions(threads=options.threads, max_batch=_MAX_BATCH)
        content = read_model(options.model)
        if backend.fixed_shapes:
            content = at_size(content, side, side)
        network = open_yunet(content, options.model, backend, settings, side)
        self._network = Guard(network, "refiner", DetectorError, free=methodcaller("close"), parallel=True)

    def refine(
        self, frame_bgr: np.ndarray, expected: Mapping[int, Detection]
    ) -> Mapping[int, Detection | None]:
        frame = check_frame(frame_bgr)
        found: dict[int, Detection | None] = dict.fromkeys(expected)
        usable = [track for track, face in expected.items() if _is_usable(face.box_xyxy, frame.shape)]
        if not usable:
            return found
        faces = [expected[track] for track in usable]
        boxes = np.array([face.box_xyxy for face in faces], np.float64).reshape(-1, 2, 2)
        rolls = [roll(face.landmarks) for face in faces]
        with self._network as network:
            points, scores, owners = self._search(frame, boxes, rolls, network)
        weights = scores * _prior(points[:, :2], boxes[owners])
        for i in _assign(points[:, :2], weights, owners.tolist()):
            roll_deg = faces[owners[i]].roll_deg
            found[usable[owners[i]]] = _detection(frame.shape, points[i], float(scores[i]), roll_deg)
        return found

    def close(self) -> None:
        self._network.close()

    def _search(
        self, frame: np.ndarray, boxes: np.ndarray, rolls: Sequence[complex], network: Session
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return all faces near ``boxes``, as :func:`_decode` in pixels of the frame."""
        input_px = self._options.input_px
        sides = np.maximum((boxes[:, 1] - boxes[:, 0]).max(axis=1) * self._options.surroundings, 1.0)
        turns = np.array(rolls) * (sides / input_px)
        centres = boxes.mean(axis=1)
        parts = []
        for start in range(0, len(boxes), _MAX_BATCH):
            part = slice(start, start + _MAX_BATCH)
            images = [
                cut_square(frame, complex(*centre), turn, input_px, max_step_px=_MAX_STEP_PX)
                for centre, turn in zip(centres[part].tolist(), turns[part].tolist(), strict=True)
            ]
            outputs = network.run(cv2.dnn.blobFromImages(images))
            points, scores, owners = _decode(outputs, self._options.min_score)
            owners += start
            parts.append((_to_frame(points - input_px / 2, centres[owners], turns[owners]), scores, owners))
        points, scores, owners = map(np.concatenate, zip(*parts, strict=True))
        return points, scores, owners


def _is_usable(box: Box, shape: tuple[int, ...]) -> bool:
    """Return whether a box is finite, in the frame at least in part, and not much larger than it."""
    left, top, right, bottom = box
    height, width = shape[:2]
    return (
        math.isfinite(left + top + right + bottom)
        and min(right, width) > max(left, 0)
        and min(bottom, height) > max(top, 0)
        and max(right - left, bottom - top) <= _MAX_FRAMES_PER_BOX * max(height, width)
    )


def _to_frame(points: np.ndarray, centres: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """Return points ``[N, 7, 2]``, relative to the middle of a cut, in pixels of the frame; boxes stay upright."""
    half = (points[:, 1] - points[:, 0]) / 2 * abs(turns)[:, None]
    points[:, 0] = points[:, 1] = (points[:, 0] + points[:, 1]) / 2
    turned = (points[..., 0] + 1j * points[..., 1]) * turns[:, None]
    result = np.stack([turned.real, turned.imag], axis=2) + centres[:, None]
    result[:, 0] -= half
    result[:, 1] += half
    return np.asarray(result)


def _decode(outputs: Mapping[str, np.ndarray], min_score: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return ``[N, 7, 2]``, the box's corners and the landmarks; ``[N]`` scores; ``[N]`` indices of images."""
    found, images = decode_batch(outputs, min_score)
    points = np.concatenate([found.boxes_xyxy.reshape(-1, 2, 2), found.landmarks], axis=1)
    return points, found.scores, images


def _prior(boxes: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Return how well boxes ``[N, 2, 2]`` agree with the expected ones, in [0, 1]."""
    side, expected_side = ((b[:, 1] - b[:, 0]).max(axis=1).clip(1e-6) for b in (boxes, expected))
    distance = np.linalg.norm((boxes - expected).mean(axis=1), axis=1) / (expected_side * _CENTRE_SPREAD)
    growth = np.log(side / expected_side) / _SIDE_SPREAD
    return np.asarray(np.exp(-(distance**2 + growth**2) / 2))


def _assign(boxes: np.ndarray, weights: np.ndarray, owners: Sequence[int]) -> list[int]:
    """Return the index of the best candidate of each owner that has one; no two are at the same place."""
    remaining = np.argsort(-weights, kind="stable")
    while True:
        best: dict[int, int] = {}
        for i in remaining.tolist():
            best.setdefault(owners[i], i)
        chosen = list(best.values())
        if len(chosen) < 2:
            return chosen
        kept = [chosen[i] for i in suppress(boxes[chosen].reshape(-1, 4), weights[chosen], _MAX_OVERLAP)]
        if len(kept) == len(chosen):
            return chosen
        # A face that lost its place to another may have a second candidate elsewhere.
        winners = {owners[i] for i in kept}
        shared = overlaps(boxes[remaining].reshape(-1, 4), boxes[kept].reshape(-1, 4))
        taken = np.asarray((shared > _MAX_OVERLAP).any(axis=1))
        others = [i for i, hit in zip(remaining, taken, strict=True) if not (hit or owners[i] in winners)]
        remaining = np.array(sorted([*kept, *others], key=lambda i: -weights[i]))


def _detection(shape: tuple[int, ...], points: np.ndarray, score: float, roll_deg: float) -> Detection | None:
    """Return a face with its box clipped to the frame, ``None`` if the box is outside."""
    (left, top), (right, bottom) = points[:2].tolist()
    left, top, right, bottom = max(left, 0.0), max(top, 0.0), min(right, shape[1]), min(bottom, shape[0])
    if not (right - left >= 1 and bottom - top >= 1):
        return None
    return Detection(
        (left, top, float(right), float(bottom)), min(score, 1.0), points[2:].astype(np.float32), roll_deg
    )

"""Sequences of faces as a camera at 30 frames/s shows them, with a scripted expression, and a network's logits.

Each sequence shows pictures of FER2013 one after another, for 2 to 6 s each, and each of another class than the one
before. Every frame is disturbed: a slow motion of the head with a detector's jitter of the box on top of it, gain and
offset of the exposure, blur, noise of the sensor, and JPEG. The truth is the class with most FER+ votes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from fer_edge.backends import Session
from fer_edge.datasets import FaceDataset
from fer_edge.evaluation.evaluate import known_targets, session_logits
from fer_edge.preprocess import crop_face
from fer_edge.spec import ModelSpec

FRAMES_PER_S = 30
#: Shortest and longest time that a picture is shown.
SHOWN_S = (2.0, 6.0)
#: Side of the face in the camera's frame.
FACE_PX = 120
_FRAME_PX = 240


@dataclass(frozen=True)
class Disturbances:
    """Strength of the disturbances; σ are standard deviations. The defaults are a hand-held camera in a dim room.

    Attributes
    ----------
    motion, motion_deg : float
        σ of the slow motion: shift in sides of the face, rotation in degrees.
    motion_time_s : float
        Correlation time of the slow motion and of the exposure.
    jitter, jitter_scale : float
        σ of the box from frame to frame: shift in sides of the face, and relative size.
    gain, offset : float
        σ of the exposure: relative, and in gray levels.
    flicker : float
        σ of the gain from frame to frame.
    blur_px : tuple of float
        Range of the σ of the blur, drawn for each frame.
    noise : tuple of float
        Range of the σ of the sensor's noise in gray levels, drawn for each sequence.
    jpeg_quality : tuple of int
        Range, drawn for each sequence.
    """

    motion: float = 0.03
    motion_deg: float = 4.0
    motion_time_s: float = 0.5
    jitter: float = 0.02
    jitter_scale: float = 0.03
    gain: float = 0.10
    offset: float = 8.0
    flicker: float = 0.03
    blur_px: tuple[float, float] = (0.3, 2.5)
    noise: tuple[float, float] = (3.0, 12.0)
    jpeg_quality: tuple[int, int] = (40, 85)


DIM = Disturbances()
#: A fixed camera in a bright room.
BRIGHT = Disturbances(
    motion=0.02,
    motion_deg=2.0,
    jitter=0.01,
    jitter_scale=0.015,
    gain=0.05,
    offset=4.0,
    flicker=0.01,
    blur_px=(0.3, 1.5),
    noise=(1.0, 4.0),
    jpeg_quality=(70, 95),
)


@dataclass(frozen=True)
class FaceSequence:
    """One sequence of N frames.

    Attributes
    ----------
    logits : np.ndarray
        ``[N, K]`` raw logits.
    truth : np.ndarray
        ``[N]`` int64, class shown, in the order of the logits.
    starts : np.ndarray
        ``[P]`` int64, first frame of each picture.
    """

    logits: np.ndarray
    truth: np.ndarray
    starts: np.ndarray


def make_sequences(
    session: Session,
    spec: ModelSpec,
    faces: FaceDataset,
    count: int,
    seconds: float,
    disturbances: Disturbances,
    seed: int,
) -> list[FaceSequence]:
    """Return ``count`` sequences of ``seconds`` each, in an order fixed by ``seed``."""
    return [
        _sequence(session, spec, faces, round(seconds * FRAMES_PER_S), disturbances, generator)
        for generator in np.random.default_rng(seed).spawn(count)
    ]


def _sequence(
    session: Session,
    spec: ModelSpec,
    faces: FaceDataset,
    length: int,
    disturbances: Disturbances,
    rng: np.random.Generator,
) -> FaceSequence:
    targets = known_targets(faces, spec)
    starts, shown = [0], [int(rng.integers(len(faces)))]
    while (end := starts[-1] + round(rng.uniform(*SHOWN_S) * FRAMES_PER_S)) < length:
        starts.append(end)
        shown.append(int(rng.choice(np.flatnonzero(targets != targets[shown[-1]]))))
    picture = np.repeat(shown, np.diff([*starts, length]))
    crops = _crops([faces[i] for i in picture], spec, disturbances, rng)
    return FaceSequence(session_logits(session, crops, spec), targets[picture], np.array(starts))


def _crops(
    pictures: Sequence[np.ndarray], spec: ModelSpec, d: Disturbances, rng: np.random.Generator
) -> list[np.ndarray]:
    slow = _slow(len(pictures), 5, d.motion_time_s, rng)
    noise, quality = rng.uniform(*d.noise), int(rng.integers(d.jpeg_quality[0], d.jpeg_quality[1] + 1))
    middle = _FRAME_PX / 2
    crops = []
    for picture, (x, y, turn, gain, offset) in zip(pictures, slow, strict=True):
        # from the picture to the frame: the face in the middle, moved and turned
        placed = cv2.getRotationMatrix2D(
            ((picture.shape[1] - 1) / 2, (picture.shape[0] - 1) / 2),
            d.motion_deg * turn,
            FACE_PX / picture.shape[0],
        )
        centre = np.array([middle, middle]) + d.motion * FACE_PX * np.array([x, y])
        placed[:, 2] += centre - 0.5 - (np.array(picture.shape[::-1]) - 1) / 2
        frame = cv2.warpAffine(
            picture, placed, (_FRAME_PX, _FRAME_PX), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
        )
        frame = cv2.GaussianBlur(frame, (0, 0), rng.uniform(*d.blur_px)).astype(np.float32)
        brightness = 1 + d.gain * gain + d.flicker * rng.standard_normal()
        frame = frame * brightness + d.offset * offset + noise * rng.standard_normal(frame.shape, np.float32)
        _, coded = cv2.imencode(
            ".jpg", np.clip(frame.round(), 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, quality]
        )
        seen = cv2.imdecode(coded, cv2.IMREAD_GRAYSCALE)
        # The picture is a crop by the rule already, thus the box is smaller.
        side = FACE_PX / spec.crop.scale * (1 + d.jitter_scale * rng.standard_normal())
        left, top = centre + d.jitter * FACE_PX * rng.standard_normal(2) - side / 2
        crop = crop_face(seen, (left, top, left + side, top + side), spec.crop)
        assert crop is not None
        crops.append(crop)
    return crops


def _slow(length: int, columns: int, time_s: float, rng: np.random.Generator) -> np.ndarray:
    """Return ``[length, columns]`` autoregressive values of mean 0 and standard deviation 1."""
    keep = np.exp(-1 / (time_s * FRAMES_PER_S))
    values = rng.standard_normal((length, columns))
    for i in range(1, length):
        values[i] = keep * values[i - 1] + np.sqrt(1 - keep**2) * values[i]
    return values

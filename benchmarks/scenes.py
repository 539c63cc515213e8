"""Scripted scenes of moving faces with known boxes, for tests and benchmarks of tracking, smoothing and schedules.

Pictures of faces, given by the caller, move over a moving background along scripts: they cross, pass behind bars,
leave and come back, approach, stop suddenly and change their expression. The truth follows from the script.

    scene = Scene(pictures, SceneOptions("cross", faces=4, seed=3))
    for frame_bgr, at_s, truth in scene.play(): ...
    for at_s, truth in scene.truths(): ...          # without frames
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from scene_scripts import SCRIPTS, WITH_BARS, Actor, Keys, SceneOptions, Stage

from fer_edge.datasets import load_dataset
from fer_edge.detection.base import Detector
from fer_edge.errors import UsageError, lookup
from fer_edge.results import Box
from fer_edge.synthetic import render_faces

#: Points of a grid along each side of a box, at which visibility is sampled.
_SAMPLES = 12
#: Part of a picture's half sides that its opaque ellipse has; towards the border it fades.
_OPAQUE = 0.85
#: Levels of half size that a picture is kept in: it is never reduced by more than two at once.
_MAX_LEVELS = 6


class Picture(NamedTuple):
    """A face in a picture: ``[h, w, 3]`` uint8 BGR, the box of the face in it, and its apparent expression."""

    image_bgr: np.ndarray
    face_xyxy: Box
    label: str


class Truth(NamedTuple):
    """One face of a frame.

    ``person_id`` is new for every visit: a person who left the frame and comes back has another number.
    ``box_xyxy`` lies inside the frame. ``visible_fraction`` is the part of the whole face that is inside the frame and
    not covered.
    """

    person_id: int
    box_xyxy: Box
    label: str
    visible_fraction: float


class SceneFrame(NamedTuple):
    """A frame ``[H, W, 3]`` uint8 BGR, its time in seconds, and its faces."""

    frame_bgr: np.ndarray
    at_s: float
    truth: tuple[Truth, ...]


class Scene:
    """A scene of ``pictures`` played by ``options``; the same arguments give the same frames.

    Raises
    ------
    UsageError
        If there are no pictures or no such script.
    """

    def __init__(self, pictures: Sequence[Picture], options: SceneOptions | None = None) -> None:
        self.options = options = options or SceneOptions()
        script = lookup(SCRIPTS, options.script, "script")
        if not pictures:
            raise UsageError("a scene must have pictures of faces, found none. Fix: give at least one")
        self.pictures = tuple(pictures)
        rng = np.random.default_rng(options.seed)
        stage = Stage(options, rng)
        self.actors: list[Actor] = []
        order = rng.permutation(len(self.pictures))
        for index in range(options.faces):
            for keys in script(stage, index):
                shown = self._shown(int(order[len(self.actors) % len(order)]), keys, rng)
                sway = (rng.uniform(0, 6.3), rng.uniform(0.2, 0.6), rng.uniform(0, 8))
                self.actors.append(Actor(len(self.actors) + 1, np.array(keys), shown, sway))
        self.bars: list[tuple[float, float]] = []
        if options.script in WITH_BARS:
            # Wide enough to hide a face that passes, for less than about a second.
            for share in (0.35, 0.7):
                centre, half = share * options.width, rng.uniform(0.4, 0.75) * stage.side
                self.bars.append((centre - half, centre + half))
        count = int(options.duration_s * options.fps)
        kept = np.flatnonzero(rng.random(count) >= options.dropped_share)
        self.times_s = tuple(float(i / options.fps) for i in kept)
        self._layers: dict[int, list[np.ndarray]] = {}
        self._background: np.ndarray | None = None

    def play(self) -> Iterator[SceneFrame]:
        """Yield all frames; each is a new array."""
        for at_s in self.times_s:
            yield SceneFrame(self.render(at_s), at_s, self.truth(at_s))

    def truths(self) -> Iterator[tuple[float, tuple[Truth, ...]]]:
        """Yield time and faces of all frames, without rendering them."""
        for at_s in self.times_s:
            yield at_s, self.truth(at_s)

    def truth(self, at_s: float) -> tuple[Truth, ...]:
        """Return the faces of which a part is inside the frame, from the back to the front."""
        found = []
        standing = self._standing(at_s)
        whole = {actor.person_id: self._face_box(actor, at_s, pose) for actor, pose in standing}
        limits = (self.options.width, self.options.height) * 2
        for depth, (actor, _) in enumerate(standing):
            box = whole[actor.person_id]
            left, top, right, bottom = (float(v) for v in np.clip(box, 0, limits))
            if right - left < 1 or bottom - top < 1:
                continue
            visible = self._visible(box, at_s, standing[depth + 1 :])
            label = self.pictures[actor.picture(at_s)].label
            found.append(Truth(actor.person_id, (left, top, right, bottom), label, visible))
        return tuple(found)

    def render(self, at_s: float) -> np.ndarray:
        """Return the frame at a time, ``[H, W, 3]`` uint8 BGR."""
        frame = self._behind(at_s)
        for actor, (x, y, side, roll) in self._standing(at_s):
            self._paste(frame, actor.picture(at_s), x, y, side, roll)
        for number, (low, high) in enumerate(self.bars):
            frame[:, max(int(low), 0) : max(int(high), 0)] = (60 + 50 * number, 80, 95)
        return frame

    def _shown(self, first: int, keys: Keys, rng: np.random.Generator) -> tuple[tuple[float, int], ...]:
        shown, at = [(keys[0][0], first)], max(keys[0][0], 0.0)
        while self.options.relabel_s is not None:
            at += float(rng.uniform(0.5, 1.5)) * self.options.relabel_s
            if at > self.options.duration_s:
                break
            shown.append((at, int(rng.integers(len(self.pictures)))))
        return tuple(shown)

    def _standing(self, at_s: float) -> list[tuple[Actor, tuple[float, float, float, float]]]:
        """Return actors and poses, the farthest first: larger faces are nearer."""
        poses = [(actor, actor.pose(at_s)) for actor in self.actors]
        present = [(actor, pose) for actor, pose in poses if pose is not None]
        return sorted(present, key=lambda entry: (entry[1][2], entry[0].person_id))

    def _scale(self, picture: Picture, side: float) -> float:
        left, top, right, bottom = picture.face_xyxy
        return side / float(np.sqrt((right - left) * (bottom - top)))

    def _face_box(self, actor: Actor, at_s: float, pose: tuple[float, float, float, float]) -> Box:
        picture = self.pictures[actor.picture(at_s)]
        scale = self._scale(picture, pose[2])
        left, top, right, bottom = picture.face_xyxy
        half_w, half_h = scale * (right - left) / 2, scale * (bottom - top) / 2
        return pose[0] - half_w, pose[1] - half_h, pose[0] + half_w, pose[1] + half_h

    def _visible(
        self, box: Box, at_s: float, nearer: Sequence[tuple[Actor, tuple[float, float, float, float]]]
    ) -> float:
        steps = (np.arange(_SAMPLES) + 0.5) / _SAMPLES
        xs, ys = np.meshgrid(box[0] + steps * (box[2] - box[0]), box[1] + steps * (box[3] - box[1]))
        seen = (xs >= 0) & (xs < self.options.width) & (ys >= 0) & (ys < self.options.height)
        for low, high in self.bars:
            seen &= (xs < low) | (xs >= high)
        for actor, (x, y, side, roll) in nearer:
            picture = self.pictures[actor.picture(at_s)]
            # To the coordinates of the picture, in which its opaque part is an ellipse.
            to_picture = np.linalg.inv(self._placement(picture, x, y, side, roll)[:, :2])
            offset = np.stack((xs - x, ys - y), axis=-1) @ to_picture.T
            height, width = picture.image_bgr.shape[:2]
            face = np.array(picture.face_xyxy)
            offset += (face[:2] + face[2:]) / 2 - (width / 2, height / 2)
            seen &= ((offset / (width / 2, height / 2)) ** 2).sum(axis=-1) > _OPAQUE**2
        return float(seen.mean())

    def _placement(self, picture: Picture, x: float, y: float, side: float, roll: float) -> np.ndarray:
        """Return ``[2, 3]``, picture pixels to frame pixels: the centre of the face comes to (x, y)."""
        left, top, right, bottom = picture.face_xyxy
        centre = ((left + right) / 2, (top + bottom) / 2)
        matrix = cv2.getRotationMatrix2D(centre, roll, self._scale(picture, side))
        matrix[:, 2] += np.array((x, y)) - centre
        return matrix

    def _paste(self, frame: np.ndarray, index: int, x: float, y: float, side: float, roll: float) -> None:
        picture = self.pictures[index]
        matrix = self._placement(picture, x, y, side, roll)
        if index not in self._layers:
            self._layers[index] = _layers(picture.image_bgr)
        layers = self._layers[index]
        level = int(np.clip(np.floor(-np.log2(self._scale(picture, side))), 0, len(layers) - 1))
        layer = layers[level]
        size = np.array(picture.image_bgr.shape[1::-1], float)
        outline = np.array(((0, 0), (size[0], 0), (0, size[1]), tuple(size))) @ matrix[:, :2].T + matrix[:, 2]
        low = np.maximum(np.floor(outline.min(axis=0)).astype(int), 0)
        high = np.minimum(np.ceil(outline.max(axis=0)).astype(int), frame.shape[1::-1])
        if (high <= low).any():
            return
        factor = size / layer.shape[1::-1]
        shifted = np.column_stack((matrix[:, :2] * factor, matrix[:, 2] - low))
        # Pixel centres lie at half pixels.
        shifted[:, 2] += shifted[:, :2] @ (0.5, 0.5) - 0.5
        pasted = cv2.warpAffine(layer, shifted, tuple(int(v) for v in high - low), flags=cv2.INTER_LINEAR)
        part = frame[low[1] : high[1], low[0] : high[0]]
        through = cv2.cvtColor(cv2.bitwise_not(pasted[..., 3]), cv2.COLOR_GRAY2BGR)
        cv2.add(cv2.multiply(part, through, scale=1 / 255), pasted[..., :3], dst=part)

    def _behind(self, at_s: float) -> np.ndarray:
        """Return a part of the background, which moves in a circle."""
        height, width = self.options.height, self.options.width
        reach = max(height // 12, 4)
        if self._background is None:
            self._background = _texture(height + 2 * reach, width + 2 * reach, self.options.seed)
        x, y = (int(reach * (1 + f(0.7 * at_s))) for f in (np.cos, np.sin))
        return np.ascontiguousarray(self._background[y : y + height, x : x + width])


def _layers(image_bgr: np.ndarray) -> list[np.ndarray]:
    """Return the picture in halved sizes, ``[h, w, 4]`` uint8 BGRA, multiplied by its alpha."""
    height, width = image_bgr.shape[:2]
    ys, xs = np.mgrid[:height, :width].astype(np.float32)
    radius = np.hypot((xs + 0.5) / (width / 2) - 1, (ys + 0.5) / (height / 2) - 1)
    middle = (1 + _OPAQUE) / 2  # half transparent near the opaque part, and nothing left at the border
    alpha = np.clip((1 - radius) / (2 * (1 - middle)), 0, 1)[..., None]
    layers = [np.rint(np.concatenate((image_bgr * alpha, 255 * alpha), axis=2)).astype(np.uint8)]
    while len(layers) < _MAX_LEVELS and min(layers[-1].shape[:2]) >= 16:
        half = tuple(max(v // 2, 1) for v in layers[-1].shape[1::-1])
        layers.append(cv2.resize(layers[-1], half, interpolation=cv2.INTER_AREA))
    return layers


def _texture(height: int, width: int, seed: int) -> np.ndarray:
    """Return noise of several scales, ``[height, width, 3]`` uint8."""
    rng = np.random.default_rng((seed, 80))
    total = np.full((height, width, 3), 110, np.float32)
    for cells, strength in ((4, 25), (16, 15), (64, 8)):
        small = rng.normal(0, strength, (cells, cells, 3)).astype(np.float32)
        total += cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    return total.clip(0, 255).astype(np.uint8)


def rendered_pictures(count: int, seed: int = 0) -> list[Picture]:
    """Return rendered faces of no real person, which a detector does not always find; labels are made up."""
    faces = render_faces(count, seed)
    side = faces.shape[1]
    names = ("happy", "neutral", "sad", "surprise")
    box = (0.14 * side, 0.06 * side, 0.86 * side, 0.94 * side)
    return [Picture(face, box, names[i % len(names)]) for i, face in enumerate(faces)]


def photographs(folder: Path, detector: Detector, count: int) -> list[Picture]:
    """Return the first ``count`` photographs of a labelled folder in which the detector finds one large face."""
    found: list[Picture] = []
    data = load_dataset(folder)
    for index, image in enumerate(data):
        if len(found) == count:
            break
        faces = detector.detect(image)
        if len(faces) != 1 or faces[0].box_xyxy[2] - faces[0].box_xyxy[0] < 80:
            continue
        found.append(_cut(image, faces[0].box_xyxy, data.class_names[int(data.labels[index].argmax())]))
    return found


def _cut(image: np.ndarray, box: Box, label: str) -> Picture:
    """Cut a picture around a face: hair and chin belong to it, the rest of the photograph does not."""
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    low = np.maximum(np.array((left - 0.3 * width, top - 0.3 * height)).astype(int), 0)
    high = np.minimum(np.array((right + 0.3 * width, bottom + 0.25 * height)).astype(int), image.shape[1::-1])
    part = image[low[1] : high[1], low[0] : high[0]]
    return Picture(part, (left - low[0], top - low[1], right - low[0], bottom - low[1]), label)

"""Scripts of scenes: where faces are over time. Used by scenes.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class SceneOptions:
    """Options of a scene.

    Attributes
    ----------
    script : str
        Key of :data:`SCRIPTS`.
    faces : int
        Faces at once, about.
    width, height : int
        Size of the frame in pixels.
    fps, duration_s : float
        Frames per second, and length.
    dropped_share : float
        Share of the frames that are left out at random, so that times are irregular.
    relabel_s : float or None
        Mean time after which a face changes to another picture; ``None``: never.
    face_px : float or None
        Typical side of a face; ``None`` follows from the number of faces.
    seed : int
        Seed of everything that is random.
    """

    script: str = "mixed"
    faces: int = 3
    width: int = 640
    height: int = 480
    fps: float = 30.0
    duration_s: float = 10.0
    dropped_share: float = 0.0
    relabel_s: float | None = None
    face_px: float | None = None
    seed: int = 0


@dataclass(frozen=True)
class Actor:
    """One visit of one person.

    ``keys`` is ``[K, 4]``: time, centre x, centre y, and side of the face (geometric mean), linear in between. The
    actor exists from the first to the last time. ``pictures`` are (time from which it is shown, index).
    """

    person_id: int
    keys: np.ndarray
    pictures: tuple[tuple[float, int], ...]
    sway: tuple[float, float, float]  # phase, hertz, degrees

    def pose(self, at_s: float) -> tuple[float, float, float, float] | None:
        """Return centre x, centre y, side and roll in degrees; ``None`` outside the visit."""
        times = self.keys[:, 0]
        if not times[0] <= at_s <= times[-1]:
            return None
        x, y, side = (float(np.interp(at_s, times, self.keys[:, i])) for i in (1, 2, 3))
        phase, hertz, degrees = self.sway
        swing = np.sin(phase + 2 * np.pi * hertz * at_s)
        return (
            x + 0.02 * side * swing,
            y + 0.03 * side * np.cos(2 * phase + 5 * hertz * at_s),
            side,
            degrees * swing,
        )

    def picture(self, at_s: float) -> int:
        """Return the index of the picture that is shown."""
        return next(
            index for start, index in reversed(self.pictures) if start <= at_s or start == self.pictures[0][0]
        )


Keys = list[tuple[float, float, float, float]]


class Stage:
    """Random positions, sizes and speeds for scripts."""

    def __init__(self, options: SceneOptions, rng: np.random.Generator) -> None:
        self.options, self.rng = options, rng
        room = 0.5 * np.sqrt(options.width * options.height / max(options.faces, 1))
        self.side = options.face_px or float(min(room, 0.25 * options.height))
        self.end = options.duration_s

    def point(self, margin: float = 0.7) -> np.ndarray:
        size = np.array((self.options.width, self.options.height), float)
        low = np.minimum(margin * self.side, size / 2)
        return self.rng.uniform(low, np.maximum(size - low, low + 1e-6))

    def speed(self, low: float, high: float) -> float:
        """Return pixels per second for a range in face sizes per second."""
        return float(self.rng.uniform(low, high)) * self.side

    def size(self) -> float:
        return self.side * float(np.exp(self.rng.normal(0, 0.15)))


def _still(stage: Stage, index: int) -> list[Keys]:
    columns = int(np.ceil(np.sqrt(stage.options.faces * stage.options.width / stage.options.height)))
    rows = -(-stage.options.faces // columns)
    cell = np.array((stage.options.width / columns, stage.options.height / rows))
    centre = (np.array((index % columns, index // columns)) + 0.5) * cell
    side = stage.size()
    times = np.arange(0, stage.end + 1, 1.0)
    return [[(t, *(centre + stage.rng.normal(0, 0.06, 2) * side), side) for t in times]]


def _wander(stage: Stage, index: int) -> list[Keys]:
    """Walk between random points, with sudden stops."""
    at, place, side = 0.0, stage.point(), stage.size()
    keys: Keys = [(at, *place, side)]
    while at < stage.end:
        goal = stage.point()
        at += max(float(np.hypot(*(goal - place))) / stage.speed(0.5, 2.5), 0.1)
        place = goal
        keys.append((at, *place, side))
        if stage.rng.random() < 0.5:
            at += float(stage.rng.uniform(0.2, 1.5))
            keys.append((at, *place, side))
    return [keys]


def _cross(stage: Stage, index: int) -> list[Keys]:
    """Two of a pair walk on the same line in opposite directions, again and again, with equal sizes."""
    pair = np.random.default_rng((stage.options.seed, 77, index // 2))  # the same for both
    y = pair.uniform(0.25, 0.75) * stage.options.height
    slope = pair.normal(0, 0.15)
    side = stage.side * float(np.exp(pair.normal(0, 0.15)))
    margin = 0.8 * side
    width = stage.options.width
    speed = pair.uniform(1.0, 4.0) * side * pair.uniform(0.9, 1.1)
    offset = stage.rng.normal(0, 0.1) * side
    at, keys, forward = -pair.uniform(0, 1.0), [], index % 2 == 0
    while not keys or keys[-1][0] < stage.end:
        x = margin if forward else width - margin
        for wait in (0.0, float(stage.rng.uniform(0.1, 0.6))):
            at += wait
            keys.append((at, x, y + offset + slope * (x - width / 2), side))
        at += (width - 2 * margin) / (speed * float(stage.rng.uniform(0.85, 1.15)))
        forward = not forward
    return [keys]


def _occlude(stage: Stage, index: int) -> list[Keys]:
    """Walk through the frame and back, behind the bars of the scene."""
    side, width = stage.size(), stage.options.width
    y = stage.point()[1]
    margin = 0.7 * side
    at, keys, forward = -float(stage.rng.uniform(0, 2)), [], stage.rng.random() < 0.5
    while not keys or keys[-1][0] < stage.end:
        keys.append((at, margin if forward else width - margin, y + stage.rng.normal(0, 0.1) * side, side))
        at += (width - 2 * margin) / stage.speed(1.5, 3.0)
        forward = not forward
    return [keys]


def _leave(stage: Stage, index: int) -> list[Keys]:
    """Visits: come in from a side, stay, and leave to a side."""
    visits: list[Keys] = []
    at = -float(stage.rng.uniform(0, 2))
    width = stage.options.width
    outside = {False: -0.8, True: 0.8}
    leaving = bool(stage.rng.random() < 0.5)
    while at < stage.end:
        place, side = stage.point(), stage.size()
        # Mostly it comes back where it left.
        coming = leaving if stage.rng.random() < 0.7 else not leaving
        leaving = bool(stage.rng.random() < 0.5)
        edge = {key: (width if key else 0) + value * side for key, value in outside.items()}
        keys: Keys = [(at, edge[coming], place[1], side)]
        for goal, wait in ((place, float(stage.rng.uniform(0.1, 1.5))), ((edge[leaving], place[1]), 0.0)):
            at += max(abs(goal[0] - keys[-1][1]) / stage.speed(1.0, 3.0), 0.2)
            keys.append((at, *goal, side))
            if wait:
                at += wait
                keys.append((at, *goal, side))
        visits.append(keys)
        at += float(stage.rng.uniform(0.3, 2.0))
    return visits


def _approach(stage: Stage, index: int) -> list[Keys]:
    """Come nearer and go back: the size changes by up to four."""
    (keys,) = _wander(stage, index)
    sides = stage.side * np.exp(stage.rng.uniform(-0.8, 0.55, len(keys)))
    for i in range(1, len(keys)):  # growth of at most ln 2 per second
        most = 0.7 * (keys[i][0] - keys[i - 1][0])
        sides[i] = np.clip(sides[i], sides[i - 1] * np.exp(-most), sides[i - 1] * np.exp(most))
    return [[(t, x, y, float(side)) for (t, x, y, _), side in zip(keys, sides, strict=True)]]


def _stop(stage: Stage, index: int) -> list[Keys]:
    """Two of a pair meet, stop beside each other, and turn back or go on past each other."""
    pair = np.random.default_rng((stage.options.seed, 78, index // 2))
    y, middle = (pair.uniform(0.3, 0.7) * size for size in (stage.options.height, stage.options.width))
    side = stage.side * float(np.exp(pair.normal(0, 0.15)))
    sign = 1 if index % 2 else -1
    y += stage.rng.normal(0, 0.1) * side
    at, keys, where = 0.0, [], sign
    while not keys or keys[-1][0] < stage.end:
        far = pair.uniform(1.5, 3.0) * side
        walk, rest = pair.uniform(0.5, 1.5), pair.uniform(0.1, 1.0)
        near = pair.uniform(0.45, 0.6) * side
        passes = pair.random() < 0.4
        keys += [(at, middle + where * far, y, side), (at + walk, middle + where * near, y, side)]
        keys.append((at + walk + rest, middle + where * near, y, side))
        at += 2 * walk + rest
        where = -where if passes else where
    return [keys]


def _mixed(stage: Stage, index: int) -> list[Keys]:
    scripts = (_wander, _cross, _occlude, _leave, _approach, _stop)
    return scripts[int(np.random.default_rng((stage.options.seed, 79, index // 2)).integers(len(scripts)))](
        stage, index
    )


#: Name → paths of one place of the cast: the visits of one face after another.
SCRIPTS: Mapping[str, Callable[[Stage, int], list[Keys]]] = {
    "still": _still,
    "wander": _wander,
    "cross": _cross,
    "occlude": _occlude,
    "leave": _leave,
    "approach": _approach,
    "stop": _stop,
    "mixed": _mixed,
}
#: Scripts with bars that faces pass behind.
WITH_BARS = ("occlude", "mixed")

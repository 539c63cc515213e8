"""Faces rendered from a height map with lamps, skin, eyes, brows, mouth and hair.

Networks respond to features that a drawing of flat shapes lacks: shading that follows the form, folds beside the
mouth and between the brows, bared teeth, highlights, harsh side light. Lengths are in half widths of the face; u points
to the right of the image and v downwards, from the centre of the face.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from fer_edge.synthetic.exposure import SIDE, sharpen
from fer_edge.synthetic.noise import coloured_noise, paint_noise

_ROWS, _COLUMNS = np.mgrid[:SIDE, :SIDE].astype(np.float32)
_BLACK = (0.03, 0.03, 0.03)
_SIDES = (-1, 1)
_EYE_WIDTH = 0.17


@dataclass(frozen=True)
class _Face:
    """Geometry, expression and colours of one face; heights of parts are values of v."""

    pixels: float  # half width
    aspect: float  # height / width
    eye: float
    eye_distance: float  # from the centre
    eye_opening: float
    brow_raise: float
    frown: float
    mouth: float
    mouth_opening: float
    smile: float
    depth: float
    skin: np.ndarray  # BGR
    hair: np.ndarray


def _draw(rng: np.random.Generator) -> _Face:
    skin = np.array((0.55, 0.65, 0.85)) * np.exp(rng.normal(0, 0.08, 3)) * rng.uniform(0.25, 1)
    return _Face(
        pixels=rng.uniform(0.3, 0.75) * SIDE,
        aspect=rng.uniform(1.2, 1.45),
        eye=rng.uniform(-0.32, -0.2),
        eye_distance=rng.uniform(0.36, 0.44),
        eye_opening=rng.uniform(0.02, 0.12),
        brow_raise=rng.normal(0, 0.07),
        frown=rng.uniform(0, 1),
        mouth=rng.uniform(0.52, 0.66),
        mouth_opening=max(rng.normal(0.04, 0.1), 0.0),
        smile=rng.uniform(-0.12, 0.18),
        depth=rng.uniform(0.6, 1.6),
        skin=skin.astype(np.float32),
        hair=(skin * rng.uniform(0.05, 0.7)).astype(np.float32),
    )


def render_face(rng: np.random.Generator) -> np.ndarray:
    """Return one face, ``[SIDE, SIDE, 3]`` float32 BGR."""
    face = _draw(rng)
    u, v = _face_coordinates(face, rng)
    light = _light(_relief(face, u, v, rng), face, rng)[..., None]
    image = _skin_and_features(face, u, v, rng) * light
    strands = face.hair * (0.6 + 0.5 * np.abs(coloured_noise(rng, 1.0)))
    hairline = rng.uniform(-1.1, -0.6)
    if rng.random() < 0.8:
        image = _cover(image, _inside(v - hairline - 0.2 * u * u, 0.04), strands * light)
    around = np.exp(rng.normal(-0.9, 0.7) + rng.uniform(0.1, 0.8) * paint_noise(rng))
    mane = _inside(np.hypot(u, (v + 0.1) / (1.05 * face.aspect)) - rng.uniform(1.05, 1.25), 0.03)
    behind = _cover(around, mane, strands * light.mean())
    image = _cover(behind, _inside(np.hypot(u, v / face.aspect) - 1, 0.02), image)
    image = np.maximum(image, 0) ** (1 / rng.uniform(1.4, 2.4))  # display gamma
    return sharpen(cv2.GaussianBlur(image.astype(np.float32), (0, 0), rng.uniform(0.4, 1.6)), rng)


def _face_coordinates(face: _Face, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return u and v of every pixel, with the head slightly tilted and turned."""
    x, y = _COLUMNS - SIDE / 2 - rng.normal(0, 3), _ROWS - SIDE / 2 - rng.normal(0, 3)
    tilt, turn = rng.normal(0, 0.12), rng.normal(0, 0.12)
    u = (x * np.cos(tilt) + y * np.sin(tilt)) / face.pixels
    v = (y * np.cos(tilt) - x * np.sin(tilt)) / face.pixels
    return u + turn * (1 - np.minimum(u * u, 1)), v


def _relief(face: _Face, u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the height map."""

    def bump(at: Sequence[float], size: Sequence[float], turned: float = 0.0) -> np.ndarray:
        a, b = u - at[0], v - at[1]
        if turned:
            a, b = a * np.cos(turned) + b * np.sin(turned), b * np.cos(turned) - a * np.sin(turned)
        return np.exp(-0.5 * ((a / size[0]) ** 2 + (b / size[1]) ** 2))

    smile = max(face.smile, 0.0)
    parts = 0.22 * bump((0, 0.02), (0.09, 0.22)) + 0.16 * bump((0, 0.2), (0.12, 0.09))  # nose
    parts += 0.09 * bump((0, face.mouth - 0.06), (0.22, 0.05))
    parts += 0.09 * bump((0, face.mouth + 0.1 + face.mouth_opening), (0.18, 0.05))
    parts += 0.1 * bump((0, 1), (0.2, 0.12))  # chin
    for side in _SIDES:
        parts -= 0.12 * bump((side * face.eye_distance, face.eye), (0.16, 0.1))
        parts += 0.08 * bump((side * face.eye_distance, face.eye - 0.2), (0.22, 0.06))  # brow
        parts += 0.1 * (1 + 4 * smile) * bump((side * 0.5, 0.2), (0.2, 0.18))  # cheek
        fold = bump((side * (0.36 + 0.3 * smile), 0.36), (0.035, 0.2), side * 0.5)
        parts -= (0.02 + 0.25 * smile) * fold
        parts -= 0.03 * face.frown * bump((side * 0.07, face.eye - 0.12), (0.02, 0.1))
    for wrinkle in range(rng.integers(0, 4)):
        parts -= 0.015 * bump((0, -0.65 - 0.11 * wrinkle), (0.4, 0.015))
    head = 0.9 * np.sqrt(1 - 0.92 * np.minimum(u * u + (v / face.aspect) ** 2, 1))
    roughness = rng.uniform(0, 0.012) * coloured_noise(rng, 1.2)[..., 0]
    return head + face.depth * (parts + roughness)


def _light(height: np.ndarray, face: _Face, rng: np.random.Generator) -> np.ndarray:
    """Return the reflected light of every pixel: ambient, one or two lamps, their highlights."""
    down, right = np.gradient(height * face.pixels)
    normal = np.stack([-right, -down, np.ones_like(height)], axis=-1)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    light = np.full(height.shape, rng.uniform(0.1, 0.6), np.float32)
    for strength in (1.0, rng.uniform(0, 0.6)):
        lamp = np.array([rng.normal(0, 0.6), rng.normal(-0.35, 0.45), rng.uniform(0.3, 1)], np.float32)
        lamp /= np.linalg.norm(lamp)
        halfway = lamp + np.array([0, 0, 1], np.float32)
        halfway /= np.linalg.norm(halfway)
        shine = np.maximum(normal @ halfway, 0) ** rng.uniform(8, 30)
        light += strength * (np.maximum(normal @ lamp, 0) + rng.uniform(0, 0.35) * shine)
    return light


def _skin_and_features(face: _Face, u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the unlit colour of every pixel, ``[SIDE, SIDE, 3]``."""
    colour = np.broadcast_to(face.skin, (*u.shape, 3))
    if rng.random() < 0.3:
        beard = 0.7 * _inside(face.mouth - 0.1 - v - 0.3 * u * u, 0.1)
        colour = _cover(colour, beard, face.hair)
    iris, gaze = np.array((0.25, 0.2, 0.15)) * rng.uniform(0.2, 2), rng.normal(0, 0.02)
    brow = rng.uniform(0.02, 0.045)
    for side in _SIDES:
        x, y = u - side * face.eye_distance, v - face.eye
        eye = _inside(np.hypot(x / _EYE_WIDTH, y / face.eye_opening) - 1, 0.06)
        hollow = 0.5 * np.exp(-0.5 * ((x / 0.22) ** 2 + (y / 0.1) ** 2))
        lid = np.abs(y + face.eye_opening * (1 - (x / _EYE_WIDTH) ** 2))
        arch = np.abs(y + 0.16 - face.brow_raise - 0.5 * x * x + side * x * (0.4 * face.frown - 0.2))
        middle = np.hypot(x - gaze, y)
        for mask, paint in (
            (hollow, face.skin * 0.6),
            (eye, (0.9, 0.9, 0.9)),
            (eye * _inside(middle - 0.075, 0.008), iris),
            (eye * _inside(middle - 0.035, 0.006), _BLACK),
            (eye * _inside(np.hypot(x - gaze - 0.03, y + 0.03) - 0.018, 0.005), (1.6, 1.6, 1.6)),
            (0.8 * _inside(lid - 0.015, 0.008) * _inside(np.abs(x) - 0.18, 0.01), face.skin * 0.15),
            (0.85 * _inside(arch - brow, 0.01) * _inside(np.abs(x) - 0.23, 0.03), face.hair * 0.7),
            (_inside(np.hypot((u - side * 0.09) / 0.04, (v - 0.255) / 0.025) - 1, 0.3), face.skin * 0.1),
        ):
            colour = _cover(colour, mask, paint)
    colour = _mouth(colour, face, u, v, rng)
    return _spectacles(colour, face, u, v) if rng.random() < 0.15 else colour


def _mouth(
    colour: np.ndarray, face: _Face, u: np.ndarray, v: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    width = rng.uniform(0.24, 0.34) + 0.3 * max(face.smile, 0.0)
    opening, line = face.mouth_opening, v - face.mouth + 2.2 * face.smile * u * u - face.mouth_opening / 2
    across, thickness = _inside(np.abs(u) - width, 0.015), 1 - np.minimum((u / width) ** 2, 1)
    lips = np.array((0.45, 0.4, 0.8)) * face.skin.mean() / 0.6
    colour = _cover(colour, 0.7 * across * _inside(np.abs(line) - (0.07 + opening) * thickness, 0.01), lips)
    colour = _cover(colour, across * _inside(np.abs(line) - (0.008 + opening) * thickness, 0.006), _BLACK)
    if opening > 0.02 and rng.random() < 0.8:
        teeth = np.abs(line + 0.4 * opening) - min(0.55 * opening, 0.06) * thickness
        paint = np.array((0.85, 0.9, 0.95)) * rng.uniform(0.6, 1.1)
        colour = _cover(colour, across * _inside(teeth, 0.008), paint)
    return colour


def _spectacles(colour: np.ndarray, face: _Face, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    y = v - face.eye
    for side in _SIDES:
        rim = np.abs(np.hypot((u - side * face.eye_distance) / 0.26, y / 0.2) - 1)
        colour = _cover(colour, _inside(rim - 0.1, 0.03), _BLACK)
    bridge = _inside(np.abs(y + 0.03) - 0.02, 0.006) * _inside(np.abs(u) - 0.12, 0.01)
    return _cover(colour, bridge, _BLACK)


def _inside(distance: np.ndarray, softness: float) -> np.ndarray:
    """Return 1 for negative and 0 for positive ``distance``, with a soft edge."""
    return 1 / (1 + np.exp(np.clip(distance / softness, -30, 30)))


def _cover(below: np.ndarray, mask: np.ndarray, above: np.ndarray | Sequence[float]) -> np.ndarray:
    """Blend ``above`` over ``below`` by ``mask`` (``[H, W]``, 0 to 1)."""
    return below + mask[..., None] * (np.asarray(above, np.float32) - below)

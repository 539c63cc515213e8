"""Rendered video of photographed faces that move over a background, with the true place of every face.

A cut-out of a photograph moves by a known similarity transform, so the place of a face in the first frame can be carried
to every later one without bias by the box that a method draws around a face.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np

from fer_edge.results import Detection

#: Photographs of the scikit-image package that show no face.
BACKGROUNDS = ("coffee.png", "motorcycle_left.png", "rocket.jpg", "brick.png", "grass.png", "gravel.png")
FRAMES = 40
#: Frame in which a face leaves or is covered, in the sequences with such an event.
CHANGE_AT = 15
_NOISE = 3.0  # standard deviation of the sensor, of 255


@dataclass(frozen=True)
class Cutout:
    """A face with its soft outline.

    Attributes
    ----------
    image_bgr, alpha : np.ndarray
        ``[h, w, 3]`` and ``[h, w, 1]`` float32.
    centre_xy, width : (float, float), float
        Of the face, in pixels of the cut-out.
    """

    image_bgr: np.ndarray
    alpha: np.ndarray
    centre_xy: tuple[float, float]
    width: float


@dataclass(frozen=True)
class Pose:
    """Place of a face in a frame: its centre, width in pixels and roll in degrees."""

    x: float
    y: float
    width: float
    roll: float = 0.0


@dataclass(frozen=True)
class Scene:
    """Poses and disturbances per frame.

    Attributes
    ----------
    poses : list of Pose
        One per frame.
    visible : list of bool
        Whether the face can be seen; frames where it is only half seen count as neither.
    gain : list of float
        Brightness.
    blur_px : list of (float, float)
        Motion blur, as a vector.
    cover : list of float
        Part of the face that an object covers, from the left.
    cover_kind : str
        ``object``, ``skin`` (a hand's colour) or ``hair`` (the back of a head).
    """

    poses: list[Pose]
    visible: list[bool | None]
    gain: list[float] = field(default_factory=lambda: [1.0] * FRAMES)
    blur_px: list[tuple[float, float]] = field(default_factory=lambda: [(0.0, 0.0)] * FRAMES)
    cover: list[float] = field(default_factory=lambda: [0.0] * FRAMES)
    cover_kind: str = "object"


def cut_out(photograph: np.ndarray, face: Detection) -> Cutout:
    """Cut an ellipse around a detected face."""
    left, top, right, bottom = face.box_xyxy
    width, height = right - left, bottom - top
    centre = (left + right) / 2, (top + bottom) / 2
    alpha = np.zeros(photograph.shape[:2], np.float32)
    axes = round(0.62 * width), round(0.62 * height)
    cv2.ellipse(alpha, (round(centre[0]), round(centre[1])), axes, 0, 0, 360, 1.0, -1)
    edge = max(round(0.02 * width), 1)
    for side in (alpha[:edge], alpha[-edge:], alpha[:, :edge], alpha[:, -edge:]):
        side[:] = 0
    alpha = cv2.GaussianBlur(alpha, (0, 0), 0.02 * width)
    return Cutout(photograph.astype(np.float32), alpha[..., None], centre, width)


def load_backgrounds() -> list[np.ndarray]:
    """Return the backgrounds as ``[H, W, 3]`` BGR."""
    import skimage

    folder = Path(skimage.__file__).parent / "data"
    return [cv2.imread(str(folder / name)) for name in BACKGROUNDS]


def background(
    images: Sequence[np.ndarray], size: tuple[int, int], random: np.random.Generator
) -> np.ndarray:
    """Return a part of one background at ``(width, height)``, at random contrast, as float32."""
    image = images[random.integers(len(images))]
    height, width = image.shape[:2]
    part = min(width / size[0], height / size[1]) * random.uniform(0.6, 1.0)
    w, h = int(size[0] * part), int(size[1] * part)
    x, y = random.integers(width - w + 1), random.integers(height - h + 1)
    found = cv2.resize(image[y : y + h, x : x + w], size, interpolation=cv2.INTER_LINEAR)
    return found.astype(np.float32) * random.uniform(0.5, 1.1)


def paste(frame: np.ndarray, cutout: Cutout, pose: Pose) -> np.ndarray:
    """Draw a face into a float32 frame, and return its transform ``[2, 3]`` from pixels of the cut-out."""
    scale = pose.width / cutout.width
    matrix = cv2.getRotationMatrix2D(cutout.centre_xy, pose.roll, scale)
    matrix[:, 2] += np.array([pose.x, pose.y]) - cutout.centre_xy
    reach = int(1.3 * pose.width)
    x0, y0 = max(int(pose.x) - reach, 0), max(int(pose.y) - reach, 0)
    x1, y1 = min(int(pose.x) + reach, frame.shape[1]), min(int(pose.y) + reach, frame.shape[0])
    if x1 <= x0 or y1 <= y0:
        return matrix
    local = matrix.copy()
    local[:, 2] -= [x0, y0]
    image, alpha = cutout.image_bgr, cutout.alpha
    if scale < 0.5:  # averages pixels before they are dropped
        sigma = 0.5 / scale
        image, alpha = cv2.GaussianBlur(image, (0, 0), sigma / 2), cv2.GaussianBlur(alpha, (0, 0), sigma / 2)
    size = x1 - x0, y1 - y0
    image = cv2.warpAffine(image, local, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    alpha = cv2.warpAffine(alpha, local, size, flags=cv2.INTER_LINEAR)[..., None]
    part = frame[y0:y1, x0:x1]
    part += alpha * (image - part)
    return matrix


def render(
    scene: Scene,
    cutout: Cutout,
    images: Sequence[np.ndarray],
    size: tuple[int, int],
    random: np.random.Generator,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield every frame ``[H, W, 3]`` uint8 and the transform of its face."""
    plain = background(images, size, random)
    thing = background(images, (256, 256), random)
    if scene.cover_kind != "object":
        colour = np.median(cutout.image_bgr[cutout.alpha[..., 0] > 0.5], axis=0)
        shade = cv2.GaussianBlur(random.normal(0, 1, (256, 256)).astype(np.float32), (0, 0), 6)[..., None]
        thing = (colour if scene.cover_kind == "skin" else colour * 0.2) + shade * 150
        thing = thing.astype(np.float32)
    for t, pose in enumerate(scene.poses):
        frame = plain.copy()
        matrix = paste(frame, cutout, pose)
        if scene.cover[t] > 0:
            _cover(frame, pose, thing, scene.cover[t], scene.cover_kind == "hair")
        if scene.gain[t] != 1:
            frame *= scene.gain[t]
        length = float(np.hypot(*scene.blur_px[t]))
        if length > 1:
            frame = cv2.filter2D(frame, -1, _line(scene.blur_px[t], length))
        frame += random.normal(0, _NOISE, (*frame.shape[:2], 1)).astype(np.float32)
        yield frame.clip(0, 255).astype(np.uint8), matrix


def _cover(frame: np.ndarray, pose: Pose, thing: np.ndarray, part: float, is_round: bool) -> None:
    """Draw an object over the left part of a face."""
    width, height = 1.5 * pose.width, 1.9 * pose.width
    mask = np.zeros(frame.shape[:2], np.float32)
    left, top = pose.x - width / 2, pose.y - height / 2
    if is_round:
        axes = round(width / 2), round(height / 2)
        cv2.ellipse(mask, (round(pose.x), round(pose.y)), axes, 0, 0, 360, 1.0, -1)
    else:
        right, bottom = left + part * width, top + height
        cv2.rectangle(mask, (round(left), round(top)), (round(right), round(bottom)), 1.0, -1)
    texture = cv2.resize(thing, (max(round(width), 1), max(round(height), 1)))
    to_frame = np.array([[1, 0, left], [0, 1, top]], np.float64)
    drawn = cv2.warpAffine(texture, to_frame, frame.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
    frame += mask[..., None] * (drawn - frame)


def _line(vector: tuple[float, float], length: float) -> np.ndarray:
    side = 2 * int(np.ceil(length / 2)) + 1
    kernel = np.zeros((side, side), np.float32)
    half = np.array(vector) / 2
    start, end = (tuple(int(v) for v in np.round(side // 2 + sign * half)) for sign in (-1, 1))
    cv2.line(kernel, start, end, 1.0)
    return np.asarray(kernel / kernel.sum())


def _path(random: np.random.Generator, size: tuple[int, int], width: float, step: float) -> list[Pose]:
    """Return a path inside the frame, ``step`` face widths per frame, whose direction changes at times."""
    margin = 0.8 * width
    low, high = np.array([margin, margin]), np.array(size) - margin
    place, angle = random.uniform(low, high), random.uniform(0, 2 * np.pi)
    poses = []
    for _ in range(FRAMES):
        poses.append(Pose(float(place[0]), float(place[1]), width))
        angle += random.normal(0, 0.15)
        following = place + step * width * np.array([np.cos(angle), np.sin(angle)])
        while not ((low <= following) & (following <= high)).all():
            angle = random.uniform(0, 2 * np.pi)
            following = place + step * width * np.array([np.cos(angle), np.sin(angle)])
        place = following
    return poses


def _moving(step: float) -> Callable[..., Scene]:
    def make(random: np.random.Generator, size: tuple[int, int], width: float) -> Scene:
        return Scene(_path(random, size, width, step), [True] * FRAMES)

    return make


def _scaling(random: np.random.Generator, size: tuple[int, int], width: float) -> Scene:
    """Grow or shrink by 4 % per frame."""
    scene = _moving(0.05)(random, size, width)
    bend = np.abs((np.arange(FRAMES) + random.integers(20)) % 40 - 20) - 10
    return replace(
        scene,
        poses=[replace(p, width=width * 1.04 ** float(b)) for p, b in zip(scene.poses, bend, strict=True)],
    )


def _rolling(random: np.random.Generator, size: tuple[int, int], width: float) -> Scene:
    scene = _moving(0.05)(random, size, width)
    phase = random.uniform(0, 2 * np.pi)
    return replace(
        scene, poses=[replace(p, roll=25 * float(np.sin(phase + t / 4))) for t, p in enumerate(scene.poses)]
    )


def _lighting(random: np.random.Generator, size: tuple[int, int], width: float) -> Scene:
    """Change the brightness in jumps: a lamp, or the exposure of the camera."""
    scene = _moving(0.1)(random, size, width)
    steps = random.uniform(0.35, 1.6, FRAMES // 5)
    return replace(scene, gain=[float(g) for g in np.repeat(steps, 5)])


def _blurring(random: np.random.Generator, size: tuple[int, int], width: float) -> Scene:
    """Move by 0.25 face widths per frame with the blur of half of that time."""
    scene = _moving(0.25)(random, size, width)
    moves = [(b.x - a.x, b.y - a.y) for a, b in zip(scene.poses, scene.poses[1:], strict=False)]
    return replace(scene, blur_px=[(x / 2, y / 2) for x, y in [moves[0], *moves]])


def _leaving(random: np.random.Generator, size: tuple[int, int], width: float) -> Scene:
    """Leave through the right or left edge, by 0.15 face widths per frame."""
    scene = _moving(0.03)(random, size, width)
    step, at = 0.15 * width, CHANGE_AT
    poses = [replace(p, x=min(p.x, size[0] - 0.8 * width)) for p in scene.poses[:at]]
    start = replace(poses[-1], x=size[0] - 0.75 * width)
    poses = [replace(p, x=start.x) for p in poses]
    poses += [replace(start, x=start.x + step * (t + 1)) for t in range(FRAMES - at)]
    outside = [(p.x + width / 2 - size[0]) / width for p in poses]
    return Scene(poses, [True if part < 0.25 else None if part < 0.7 else False for part in outside])


def _vanishing(random: np.random.Generator, size: tuple[int, int], width: float) -> Scene:
    """Be gone from one frame to the next."""
    scene = _moving(0.05)(random, size, width)
    away = Pose(-10 * width, -10 * width, width)
    return Scene(
        [p if t < CHANGE_AT else away for t, p in enumerate(scene.poses)],
        [t < CHANGE_AT for t in range(FRAMES)],
    )


def _covered(kind: str) -> Callable[..., Scene]:
    def make(random: np.random.Generator, size: tuple[int, int], width: float) -> Scene:
        scene = _moving(0.05)(random, size, width)
        frames = 1 if kind == "hair" else 4
        cover = [float(np.clip((t - CHANGE_AT + 1) / frames, 0, 1)) for t in range(FRAMES)]
        visible = [True if c == 0 else False if c == 1 else None for c in cover]
        return Scene(scene.poses, visible, cover=cover, cover_kind=kind)

    return make


#: Sequences in which the face stays.
STAYING: dict[str, Callable[..., Scene]] = {
    **{f"motion {step:g}": _moving(step) for step in (0.05, 0.1, 0.25, 0.5)},
    "scale 4 %": _scaling,
    "roll 25°": _rolling,
    "brightness": _lighting,
    "motion blur": _blurring,
}
#: Sequences in which the face goes.
GOING: dict[str, Callable[..., Scene]] = {
    "leaves": _leaving,
    "vanishes": _vanishing,
    "covered by an object": _covered("object"),
    "covered by a hand's colour": _covered("skin"),
    "replaced by a dark ellipse": _covered("hair"),
}

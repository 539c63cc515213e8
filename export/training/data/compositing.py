"""Steps of the renderer: cut out, move, light and recolour a face, one function each.

The strengths are those of FERAtt's authors (Marrero Fernández et al., 2019) and their code of that time.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from fer_edge.errors import UsageError

#: Faces are cut out at this side, and moved on a canvas with a margin of :data:`PAD_PX`.
FACE_PX = 256
PAD_PX = 10
CANVAS_PX = FACE_PX + 2 * PAD_PX
CUTOUTS = ("ellipse", "non-black")
COLORS = ("rgb", "gray")
_EDGE_KERNEL = np.ones((7, 7), np.uint8)


@dataclass(frozen=True)
class RenderOptions:
    """Strengths of the renderer; the defaults are the paper's, except ``cutout``.

    Attributes
    ----------
    side_px : int
        Side of the picture: 128 for ``feratt``, 64 for ``feratt-2020``.
    color : {"rgb", "gray"}
        ``gray`` repeats the luma in three channels, as ``feratt-2020`` takes it. Use it with gray faces for
        every network: on a colour background, a gray face would be the only gray region.
    cutout : {"ellipse", "non-black"}
        Mask of the face in its image. ``non-black``: every pixel that is not black, for images that are
        cut out already (the paper; store them without loss). ``ellipse``: for ordinary rectangular crops,
        a centred ellipse.
    ellipse_width, ellipse_height : float
        Axes of that ellipse, in sides of the crop.
    scale : float
        Size × U(1 − s, 1 + s).
    rotation_deg : float
        U(−r, r).
    translation, warp : float
        U(−t, t) of the side; each of three corners moves by U(−w, w) of the side.
    luminance_ratio : tuple of float
        The face's mean CIELab L is brought to the background's by a factor in this range.
    luminance_range : tuple of float
        L of the face is clipped to this range.
    brightness, contrast, gamma : float
        Each, with ``change_probability``: × U(1 − x, 1 + x) on the values, on their distance to the mean,
        on the exponent.
    change_probability, permutation_probability, clahe_probability, blur_probability : float
        Probabilities that values, order of the channels, local contrast (CLAHE) and sharpness change.
    """

    side_px: int = 128
    color: str = "rgb"
    cutout: str = "ellipse"
    ellipse_width: float = 0.86
    ellipse_height: float = 1.0
    scale: float = 0.2
    rotation_deg: float = 45.0
    translation: float = 0.3
    warp: float = 0.2
    luminance_ratio: tuple[float, float] = (0.5, 1.5)
    luminance_range: tuple[float, float] = (10.0, 90.0)
    brightness: float = 0.25
    contrast: float = 0.25
    gamma: float = 0.25
    change_probability: float = 0.5
    permutation_probability: float = 0.5
    clahe_probability: float = 0.25
    blur_probability: float = 0.25

    def __post_init__(self) -> None:
        low, high = self.luminance_ratio
        dark, bright = self.luminance_range
        strengths = (self.scale, self.translation, self.warp, self.brightness, self.contrast, self.gamma)
        chances = (
            self.change_probability,
            self.permutation_probability,
            self.clahe_probability,
            self.blur_probability,
        )
        problems = [
            (8 <= self.side_px <= CANVAS_PX, f"side_px must be from 8 to {CANVAS_PX}, found {self.side_px}"),
            (self.color in COLORS, f"color must be one of {COLORS}, found {self.color!r}"),
            (self.cutout in CUTOUTS, f"cutout must be one of {CUTOUTS}, found {self.cutout!r}"),
            (min(self.ellipse_width, self.ellipse_height) >= 0.1 and max(self.ellipse_width, self.ellipse_height) <= 1, "the axes of the ellipse must be from 0.1 to 1"),
            (all(0 <= s < 1 for s in strengths) and self.warp < 0.5, "strengths must be from 0 to 1 and warp below 0.5, where corners meet"),
            (0 <= self.rotation_deg <= 180, f"rotation_deg must be from 0 to 180, found {self.rotation_deg}"),
            (0 < low <= high, f"luminance_ratio must be positive and increasing, found {self.luminance_ratio}"),
            (0 < dark < bright <= 100, f"luminance_range must be increasing within 0 to 100, found {self.luminance_range}"),
            (all(0 <= p <= 1 for p in chances), "probabilities must be from 0 to 1"),
        ]  # fmt: skip
        for fine, problem in problems:
            if not fine:
                raise UsageError(f"invalid render options: {problem}. Fix: give values in these ranges.")


def shrink(picture: np.ndarray, side_px: int) -> np.ndarray:
    """Resize to a smaller square, each pixel the mean of the pixels it covers."""
    return cv2.resize(picture, (side_px, side_px), interpolation=cv2.INTER_AREA)


def cut_out(face: np.ndarray, options: RenderOptions) -> np.ndarray:
    """Return the mask of a face ``[FACE_PX, FACE_PX, 3]``, uint8, 0 or 255."""
    if options.cutout == "non-black":
        return np.where(face.any(axis=2), np.uint8(255), np.uint8(0))
    mask = np.zeros((FACE_PX, FACE_PX), np.uint8)
    axes = (options.ellipse_width * FACE_PX, options.ellipse_height * FACE_PX)
    cv2.ellipse(mask, ((FACE_PX / 2, FACE_PX / 2), axes, 0), 255, -1)
    return mask


def clean_mask(mask: np.ndarray) -> np.ndarray:
    """Close gaps, drop the rim, where face and background mix, and fill holes."""
    closed = cv2.erode(cv2.morphologyEx(mask, cv2.MORPH_CLOSE, _EDGE_KERNEL), _EDGE_KERNEL)
    outlines, _ = cv2.findContours(closed, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(closed, outlines, -1, 255, -1)


def random_affine(options: RenderOptions, rng: np.random.Generator) -> np.ndarray:
    """Return ``[2, 3]``: scale and rotation about the middle, then translation, then warp."""
    middle = (CANVAS_PX / 2, CANVAS_PX / 2)
    scale = 1 + options.scale * rng.uniform(-1, 1)
    angle_deg = options.rotation_deg * rng.uniform(-1, 1)
    moved = cv2.getRotationMatrix2D(middle, angle_deg, scale)
    moved[:, 2] += options.translation * CANVAS_PX * rng.uniform(-1, 1, 2)
    corners = np.array([[0, 0], [0, CANVAS_PX], [CANVAS_PX, 0]], np.float32)
    pushed = corners + options.warp * CANVAS_PX * rng.uniform(-1, 1, (3, 2)).astype(np.float32)
    warp = cv2.getAffineTransform(corners, pushed)
    return warp @ np.vstack([moved, [0, 0, 1]])


def _lab(pixels: np.ndarray) -> np.ndarray:
    """Return CIELab float32 (L from 0 to 100) of RGB uint8 pixels ``[N, 3]``, as ``[N, 1, 3]``."""
    return cv2.cvtColor(pixels[:, None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)


def match_luminance(
    face: np.ndarray, mask: np.ndarray, background: np.ndarray, options: RenderOptions
) -> np.ndarray:
    """Return the face ``[S, S, 3]`` RGB with its mean L inside the mask brought to that of the whole background."""
    lab = _lab(face[mask])
    # Every second pixel of each row and column is enough for a mean.
    goal = _lab(background[::2, ::2].reshape(-1, 3))[..., 0].mean()
    ratio = np.clip(goal / max(float(lab[..., 0].mean()), 1e-6), *options.luminance_ratio)
    lab[..., 0] = np.clip(lab[..., 0] * ratio, *options.luminance_range)
    lit = face.copy()
    lit[mask] = np.rint(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)[:, 0] * 255).clip(0, 255).astype(np.uint8)
    return lit


def to_gray(picture: np.ndarray) -> np.ndarray:
    """Repeat the luma (0.299, 0.587, 0.114) of ``[S, S, 3]`` RGB in three channels."""
    return cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def change_colors(picture: np.ndarray, options: RenderOptions, rng: np.random.Generator) -> np.ndarray:
    """Return ``[S, S, 3]`` uint8 with other values, channel order, local contrast and sharpness."""

    def factor(strength: float) -> float:
        """Return a random factor, or 1 with probability 1 − ``change_probability``."""
        change = rng.random() < options.change_probability
        return 1 + strength * rng.uniform(-1, 1) * change

    brightness, contrast, gamma = (
        factor(strength) for strength in (options.brightness, options.contrast, options.gamma)
    )
    values = np.arange(256, dtype=np.float64)
    values = np.clip(values * brightness, 0, 255)
    middle = values[picture].mean()
    values = np.clip((values - middle) * contrast + middle, 0, 255)
    values = 255 * (values / 255) ** gamma
    picture = np.rint(values).astype(np.uint8)[picture]
    if rng.random() < options.permutation_probability:
        picture = np.ascontiguousarray(picture[:, :, rng.permutation(3)])
    if rng.random() < options.clahe_probability:
        lab = cv2.cvtColor(picture, cv2.COLOR_RGB2LAB)
        lab[:, :, 0] = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8)).apply(lab[:, :, 0])
        picture = cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)
    if rng.random() < options.blur_probability:
        kernel = int(rng.choice((3, 5, 7)))
        picture = cv2.GaussianBlur(picture, (kernel, kernel), 0)
    return picture

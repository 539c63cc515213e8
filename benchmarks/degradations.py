"""Degraded copies of face images, for measurements of quality and abstention: darkness, blur, size, pose, noise.

All take and return ``[H, W]`` or ``[H, W, 3]`` uint8 of the same size, except :func:`shrunk`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import cv2
import numpy as np

#: Standard deviation of the noise that a sensor adds after the gain, in levels of 8 bits.
READ_NOISE = 2.0
#: Depth of the head of :func:`turned` before its ears, and of its nose, as shares of the side of the crop.
_HEAD_DEPTH = 0.45
_NOSE_DEPTH = 0.14


def darkened(image: np.ndarray, gain: float, rng: np.random.Generator) -> np.ndarray:
    """Return the image at ``gain`` × its light, with read noise and shot noise, rounded to 8 bits."""
    light = image.astype(np.float64) * gain
    noise = rng.normal(size=image.shape) * np.sqrt(READ_NOISE**2 + 0.05 * light)
    return np.rint(light + noise).clip(0, 255).astype(np.uint8)


def overexposed(image: np.ndarray, gain: float) -> np.ndarray:
    """Return the image at ``gain`` × its light, clipped at white."""
    return np.rint(image.astype(np.float64) * gain).clip(0, 255).astype(np.uint8)


def noisy(image: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Return the image with Gaussian noise of ``sigma`` levels."""
    return np.rint(image + sigma * rng.normal(size=image.shape)).clip(0, 255).astype(np.uint8)


def blurred(image: np.ndarray, sigma_share: float) -> np.ndarray:
    """Return the image after a Gaussian blur whose sigma is a share of the side."""
    sigma = sigma_share * min(image.shape[:2])
    return cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)


def moved(image: np.ndarray, length_share: float, angle_deg: float) -> np.ndarray:
    """Return the image after motion along a line whose length is a share of the side."""
    length = length_share * min(image.shape[:2])
    side = 2 * math.ceil(length / 2) + 1
    kernel = np.zeros((side, side), np.float32)
    dx, dy = math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))
    for t in np.linspace(-length / 2, length / 2, 8 * side):
        x, y = side // 2 + t * dx, side // 2 + t * dy
        x0, y0 = math.floor(x), math.floor(y)
        for ix, iy in ((x0, y0), (x0 + 1, y0), (x0, y0 + 1), (x0 + 1, y0 + 1)):
            if 0 <= ix < side and 0 <= iy < side:
                kernel[iy, ix] += (1 - abs(x - ix)) * (1 - abs(y - iy))
    return cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE)


def shrunk(image: np.ndarray, side_px: int) -> np.ndarray:
    """Return the image at ``side_px`` × ``side_px``, each pixel the mean of the area that it covers."""
    return cv2.resize(image, (side_px, side_px), interpolation=cv2.INTER_AREA)


def tilted(image: np.ndarray, roll_deg: float) -> np.ndarray:
    """Return the image turned in its plane about its centre, clockwise, border pixels repeated."""
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), -roll_deg, 1.0)
    return cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)


def turned(image: np.ndarray, yaw_deg: float) -> np.ndarray:
    """Return the face turned about its vertical axis, as the texture of a head of average depth, seen from afar.

    Positive angles turn the face to the right of the image. The face fills the crop, as in FER2013. The head is an
    ellipsoid with a nose; a point at depth z moves to x cos θ + z sin θ. The nose hides the points behind it, and the
    side of the head that comes into view, which the image does not show, repeats the last pixel.
    """
    height, width = image.shape[:2]
    x, y = np.meshgrid((np.arange(width) + 0.5) / width - 0.5, (np.arange(height) + 0.5) / height - 0.5)
    depth = _HEAD_DEPTH * np.sqrt(np.clip(1 - (x / 0.6) ** 2 - (y / 0.8) ** 2, 0, None))
    profile = np.interp(y, (-0.15, 0.1, 0.17), (0, 1, 0))  # from between the eyes to the tip and the lip
    depth += _NOSE_DEPTH * profile * np.exp(-0.5 * (x / 0.06) ** 2)
    angle = math.radians(abs(yaw_deg))
    if yaw_deg < 0:  # the mirror image of the same turn, as the head is symmetric
        return np.ascontiguousarray(turned(image[:, ::-1], -yaw_deg)[:, ::-1])
    shift = depth * math.sin(angle) - _HEAD_DEPTH * math.sin(angle) / 2  # keeps the face in the crop
    seen = np.maximum.accumulate(x * math.cos(angle) + shift, axis=1)
    x_map = np.stack([np.interp(x[row], seen[row], np.arange(width)) for row in range(height)]).astype(
        np.float32
    )
    y_map = np.repeat(np.arange(height, dtype=np.float32)[:, None], width, axis=1)
    return cv2.remap(image, x_map, y_map, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


Make = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def _either_way(angle_deg: float, rng: np.random.Generator) -> float:
    return angle_deg if rng.random() < 0.5 else -angle_deg


_FAMILIES: Mapping[str, Callable[[float], Make]] = {
    "dark": lambda v: lambda image, rng: darkened(image, v, rng),
    "bright": lambda v: lambda image, rng: overexposed(image, v),
    "noise": lambda v: lambda image, rng: noisy(image, v, rng),
    "blur": lambda v: lambda image, rng: blurred(image, v),
    "motion": lambda v: lambda image, rng: moved(image, v, float(rng.uniform(0, 180))),
    "shrunk": lambda v: lambda image, rng: shrunk(image, int(v)),
    "turned": lambda v: lambda image, rng: turned(image, _either_way(v, rng)),
    "tilted": lambda v: lambda image, rng: tilted(image, _either_way(v, rng)),
}


def grid(severities: Mapping[str, tuple[float, ...]]) -> dict[str, Make]:
    """Return name → degradation for each family and severity, the clean copy first."""
    made: dict[str, Make] = {"clean": lambda image, rng: image}
    for family, values in severities.items():
        made |= {f"{family} {value:g}": _FAMILIES[family](value) for value in values}
    return made


#: For choosing: gains, levels of noise, blur and motion as shares of the side, pixels, degrees.
FIT_GRID = grid(
    {
        "dark": (0.5, 0.3, 0.2, 0.1, 0.05, 0.03),
        "bright": (1.5, 2.5, 4),
        "noise": (8, 16, 32),
        "blur": (0.01, 0.02, 0.04, 0.06, 0.09),
        "motion": (0.1, 0.2),
        "shrunk": (8, 12, 16, 24, 32),
        "turned": (15, 30, 45, 60, 75),
        "tilted": (15, 30, 45, 60, 90),
    }
)
#: For reporting: other severities, and darkness with blur, which the fit has not seen.
TEST_GRID = grid(
    {
        "dark": (0.4, 0.25, 0.15, 0.07),
        "bright": (2, 3),
        "noise": (12, 24),
        "blur": (0.015, 0.03, 0.05),
        "motion": (0.15,),
        "shrunk": (10, 14, 20, 28),
        "turned": (20, 40, 60),
        "tilted": (20, 40, 60),
    }
) | {"dark and blurred": lambda image, rng: darkened(blurred(image, 0.02), 0.35, rng)}

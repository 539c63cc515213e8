"""Heat maps over images: scaling to [0, 1], colours, overlays."""

from __future__ import annotations

import cv2
import numpy as np

Box = tuple[float, float, float, float]

#: A map whose range is below this share of its largest value is flat: the rest is rounding error.
_FLAT = 1e-6
#: Opacity of the hottest pixel of an overlay.
OPACITY = 0.75


def min_max(maps: np.ndarray) -> np.ndarray:
    """Scale each of ``[B, h, w]`` maps from its smallest and largest value to 0 and 1, float32.

    A flat map becomes 0, one with values that are not finite becomes NaN.
    """
    maps = maps.astype(np.float64)
    finite = np.isfinite(maps).all(axis=(1, 2), keepdims=True)
    maps = np.where(finite, maps, 0.0)
    low = maps.min(axis=(1, 2), keepdims=True)
    span = maps.max(axis=(1, 2), keepdims=True) - low
    flat = span <= _FLAT * np.abs(maps).max(axis=(1, 2), keepdims=True)
    scaled = np.where(flat, 0.0, (maps - low) / np.where(flat, 1.0, span))
    return np.where(finite, scaled, np.nan).astype(np.float32)


def turn_back(heat: np.ndarray, roll_deg: float) -> np.ndarray:
    """Return a map ``[h, w]`` over the crop of a face that was turned upright, for the rectangle before that.

    The map is turned clockwise by ``roll_deg`` about its centre; 0 where the crop does not cover the rectangle.
    """
    if not roll_deg:
        return heat
    height, width = heat.shape
    affine = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), -roll_deg, 1.0)
    return cv2.warpAffine(heat, affine, (width, height), flags=cv2.INTER_LINEAR)


def enlarge(heat: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return a map ``[h, w]`` at ``[height, width]``, bilinear, pixel centres aligned, in [0, 1]."""
    return np.clip(cv2.resize(heat.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR), 0, 1)


def colorize(heat: np.ndarray) -> np.ndarray:
    """Return ``[h, w]`` in [0, 1] as BGR uint8: dark violet for 0, over blue and green, yellow for 1.

    Viridis (Smith and van der Walt, 2015): equal steps look equal, also without colour and to colour-blind people.
    """
    return cv2.applyColorMap(np.rint(heat * 255).astype(np.uint8), cv2.COLORMAP_VIRIDIS)


def blend(image_bgr: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Blend a map ``[H, W]`` over ``[H, W, 3]``; pixels with weight 0 are left unchanged."""
    opacity = OPACITY * heat[:, :, None]
    return np.rint(image_bgr * (1 - opacity) + colorize(heat) * opacity).astype(np.uint8)


def blend_at(canvas_bgr: np.ndarray, heat: np.ndarray, box_xyxy: Box) -> None:
    """Blend a map over the part of ``canvas_bgr`` that ``box_xyxy`` covers, in place.

    The box may extend beyond the canvas; only the visible part is computed.
    """
    height, width = canvas_bgr.shape[:2]
    left, top, right, bottom = box_xyxy
    if not (right > left and bottom > top):
        return
    x0, x1 = (int(np.clip(v, 0, width)) for v in (left, right))
    y0, y1 = (int(np.clip(v, 0, height)) for v in (top, bottom))
    if x0 >= x1 or y0 >= y1:
        return
    xs = (np.arange(x0, x1) + 0.5 - left) / (right - left) * heat.shape[1] - 0.5
    ys = (np.arange(y0, y1) + 0.5 - top) / (bottom - top) * heat.shape[0] - 0.5
    x_map, y_map = (part.astype(np.float32) for part in np.meshgrid(xs, ys))
    shown = cv2.remap(
        heat.astype(np.float32), x_map, y_map, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    area = canvas_bgr[y0:y1, x0:x1]
    area[:] = blend(area, np.clip(shown, 0, 1))

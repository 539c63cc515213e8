"""Preprocessing on the CPU: from a frame and face boxes to a network's input batch.

The CUDA kernel ``crop_resize_normalize`` follows the same contract, pixel for pixel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from fer_edge.errors import DataError
from fer_edge.spec import CropRule, ModelSpec

Box = tuple[float, float, float, float]
#: Whole pixels (left, top, right, bottom).
Rectangle = tuple[int, int, int, int]
_INTERPOLATION = {"bilinear": cv2.INTER_LINEAR, "area": cv2.INTER_AREA}


#: Largest side of a crop, in longer sides of the frame.
_MAX_FRAMES_PER_CROP = 4


def crop_bounds(box_xyxy: Box, rule: CropRule) -> Rectangle:
    """Return integer crop corners (left, top, right, bottom), which may lie outside the frame.

    ``square`` follows the Residual Masking authors' inference code to the pixel: box corners truncated,
    centre = ⌊(min + max) / 2⌋, half side = ⌊⌊(w + h) / 2⌋ / 2⌋ · scale, corners truncated.
    """
    x0, y0 = int(box_xyxy[0]), int(box_xyxy[1])
    width, height = int(box_xyxy[2] - box_xyxy[0]), int(box_xyxy[3] - box_xyxy[1])
    if rule.shape == "box":
        grow_x, grow_y = width * (rule.scale - 1) / 2, height * (rule.scale - 1) / 2
        return (
            math.floor(x0 - grow_x),
            math.floor(y0 - grow_y),
            math.ceil(x0 + width + grow_x),
            math.ceil(y0 + height + grow_y),
        )
    centre_x, centre_y = (2 * x0 + width) // 2, (2 * y0 + height) // 2
    half = (width + height) // 2 // 2 * rule.scale
    return int(centre_x - half), int(centre_y - half), int(centre_x + half), int(centre_y + half)


def crop_rectangle(
    box_xyxy: Box, rule: CropRule, frame_height: int, frame_width: int, roll_deg: float = 0.0
) -> Rectangle | None:
    """Return the rectangle of a crop in pixels (left, top, right, bottom); ``None`` if the crop is too small.

    With ``replicate``, and for a turned face, it may extend beyond the frame, where the border pixels are repeated.
    ``min_side_px`` counts the pixels inside the frame. A crop of several times the frame would show no face either.
    """
    left, top, right, bottom = bounds = crop_bounds(box_xyxy, rule)
    if max(right - left, bottom - top) > _MAX_FRAMES_PER_CROP * max(frame_height, frame_width):
        return None
    inside = max(left, 0), max(top, 0), min(right, frame_width), min(bottom, frame_height)
    if min(inside[2] - inside[0], inside[3] - inside[1]) < max(rule.min_side_px, 1):
        return None
    return bounds if roll_deg or rule.edge == "replicate" else inside


def crop_face(
    frame_bgr: np.ndarray, box_xyxy: Box, rule: CropRule, roll_deg: float = 0.0
) -> np.ndarray | None:
    """Crop one face from ``[H, W, 3]`` or ``[H, W]``; ``None`` if a side is below ``min_side_px``."""
    rectangle = crop_rectangle(box_xyxy, rule, frame_bgr.shape[0], frame_bgr.shape[1], roll_deg)
    return None if rectangle is None else cut_rectangle(frame_bgr, rectangle, roll_deg)


def cut_rectangle(frame_bgr: np.ndarray, rectangle: Rectangle, roll_deg: float = 0.0) -> np.ndarray:
    """Return the pixels of a rectangle from :func:`crop_rectangle`.

    A face that is turned clockwise by ``roll_deg`` is upright in the result: the rectangle is turned about its centre,
    and border pixels are repeated beyond the frame.
    """
    height, width = frame_bgr.shape[:2]
    left, top, right, bottom = rectangle
    if roll_deg:
        # OpenCV counts from pixel centres, a rectangle from pixel edges.
        centre = ((left + right - 1) / 2, (top + bottom - 1) / 2)
        affine = cv2.getRotationMatrix2D(centre, roll_deg, 1.0)
        affine[:, 2] -= (left, top)
        size = (right - left, bottom - top)
        return cv2.warpAffine(
            frame_bgr, affine, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
    inside = frame_bgr[max(top, 0) : min(bottom, height), max(left, 0) : min(right, width)]
    borders = (max(-top, 0), max(bottom - height, 0), max(-left, 0), max(right - width, 0))
    return cv2.copyMakeBorder(inside, *borders, cv2.BORDER_REPLICATE) if any(borders) else inside


def resize_image(image: np.ndarray, spec: ModelSpec) -> np.ndarray:
    """Convert colour and resize a crop: ``[h, w, 3]`` BGR or ``[h, w]`` gray → ``[H, W, C]`` uint8."""
    if image.dtype != np.uint8 or image.size == 0 or (image.ndim != 2 and image.shape[2:] != (3,)):
        raise DataError(
            f"expected a uint8 image [H, W, 3] or [H, W], found {image.dtype} {list(image.shape)}. Fix: give such an image"
        )
    if spec.color == "gray" and image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    if image.ndim == 2:
        # Gray is resized in three channels too: with one, OpenCV's results differ between aarch64 and x86.
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    if image.shape[:2] != (spec.input_height, spec.input_width):
        image = cv2.resize(
            image, (spec.input_width, spec.input_height), interpolation=_INTERPOLATION[spec.interpolation]
        )
    if spec.color == "rgb":
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return image[:, :, : spec.channels]


def normalise(images: np.ndarray, spec: ModelSpec) -> np.ndarray:
    """Scale ``[B, H, W, C]`` uint8 to the network's input ``[B, C, H, W]`` float32, contiguous."""
    gain, offset = spec.gain_and_offset()
    batch = images.transpose(0, 3, 1, 2).astype(np.float32, order="C")
    batch *= gain[:, None, None]
    batch += offset[:, None, None]
    return batch


def prepare_batch(crops: Sequence[np.ndarray], spec: ModelSpec) -> np.ndarray:
    """Turn face crops into one input batch ``[B, C, H, W]`` float32 (B may be 0)."""
    if not crops:
        return np.zeros((0, *spec.input_shape), np.float32)
    return normalise(np.stack([resize_image(crop, spec) for crop in crops]), spec)

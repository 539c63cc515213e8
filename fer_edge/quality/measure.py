"""Size, light, contrast, sharpness, noise and pose of a face crop.

All but the size and the pose are those of the gray crop at 48 × 48 pixels, resized as the default network resizes it:
they describe the picture that the network receives, not that of the camera.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from fer_edge.errors import DataError
from fer_edge.quality.pose import estimate_pose
from fer_edge.results import Detection

SIDE_PX = 48
#: Second derivatives along a row, a column and the diagonals, of equal response to detail of medium size.
_DERIVATIVES = tuple(
    np.array(kernel, np.float32) * scale
    for kernel, scale in (
        ([[0, 0, 0], [1, -2, 1], [0, 0, 0]], 1.0),
        ([[0, 1, 0], [0, -2, 0], [0, 1, 0]], 1.0),
        ([[1, 0, 0], [0, -2, 0], [0, 0, 1]], 0.5**0.5),
        ([[0, 0, 1], [0, -2, 0], [1, 0, 0]], 0.5**0.5),
    )
)
#: Difference of two Laplacians, which edges hardly excite (Immerkær, 1996).
_NOISE_KERNEL = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
#: Median of the absolute response of the kernel to noise of standard deviation 1.
_NOISE_MEDIAN = 6 * 0.6745


@dataclass(frozen=True)
class Quality:
    """Quality of one face crop.

    Attributes
    ----------
    side_px : float
        Shorter side of the crop, in pixels of the frame.
    luma : float
        Mean of the gray crop, 0 to 255.
    contrast : float
        Standard deviation of the gray crop, in levels of 255.
    sharpness : float
        Variance of the second derivative over the variance of the gray crop, in the direction of four in which it is
        smallest, so that motion counts as blur. Independent of the light; noise counts as detail. 0 for a crop of one
        colour.
    noise : float
        Standard deviation of the noise over the contrast, estimated by the median of a high pass; 0 for a crop of one
        colour. Dark crops are noisy, as the noise of a sensor stays when the light goes.
    yaw_deg, pitch_deg, roll_deg : float or None
        Pose by the landmarks, positive to the right, down and clockwise in the image
        (:func:`fer_edge.quality.estimate_pose`). ``None`` without usable landmarks.
    """

    side_px: float
    luma: float
    contrast: float
    sharpness: float
    noise: float
    yaw_deg: float | None = None
    pitch_deg: float | None = None
    roll_deg: float | None = None


def measure_quality(crop_bgr: np.ndarray, detection: Detection) -> Quality:
    """Measure one face crop.

    Parameters
    ----------
    crop_bgr : np.ndarray
        ``[h, w, 3]`` BGR or ``[h, w]`` gray, uint8: the crop that the network classifies.
    detection : Detection
        Its detection, whose landmarks give the pose.

    Raises
    ------
    DataError
        If the crop has another type or no pixels.
    """
    is_image = crop_bgr.ndim in (2, 3) and crop_bgr.shape[2:] in ((), (3,))
    if crop_bgr.dtype != np.uint8 or crop_bgr.size == 0 or not is_image:
        raise DataError(
            f"expected a uint8 crop [h, w, 3] or [h, w], found {crop_bgr.dtype} {list(crop_bgr.shape)}. "
            "Fix: cut it from a frame with fer_edge.preprocess.crop_face"
        )
    gray = cv2.cvtColor(crop_bgr, cv2.COLOR_BGR2GRAY) if crop_bgr.ndim == 3 else crop_bgr
    small = cv2.resize(gray, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_LINEAR)  # as for the network
    luma, contrast = (float(v[0, 0]) for v in cv2.meanStdDev(small))
    detail = min(
        float(cv2.meanStdDev(cv2.filter2D(small, cv2.CV_32F, kernel)[1:-1, 1:-1])[1][0, 0])
        for kernel in _DERIVATIVES
    )
    residual = np.abs(cv2.filter2D(small, cv2.CV_16S, _NOISE_KERNEL)[1:-1, 1:-1])
    pose = estimate_pose(detection.landmarks)
    return Quality(
        side_px=float(min(crop_bgr.shape[:2])),
        luma=luma,
        contrast=contrast,
        sharpness=(detail / contrast) ** 2 if contrast > 0 else 0.0,
        noise=float(np.median(residual)) / _NOISE_MEDIAN / contrast if contrast > 0 else 0.0,
        **({} if pose is None else pose._asdict()),
    )

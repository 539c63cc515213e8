"""Measure how much a face has changed, to decide whether to classify it again.

Small gray patches of the face are shifted onto each other and compared part by part, as a mouth or an eye is a small part
of a face. Contrast is normalised, so that neither noise nor brightness counts as a change.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from fer_edge.errors import DataError
from fer_edge.frames import check_frame
from fer_edge.results import Detection
from fer_edge.tracking.alignment import cut_square, roll

PATCH_PX = 24
#: Distance above which a face has changed; benchmarks/face_change.py measures its detection rate and false rate.
CHANGED_DISTANCE = 0.6

_SMOOTHING_PX = 1.0  # standard deviation
_MARGIN_PX = 2  # largest shift that is tried
_PART_PX = 13
# Keeps noise in parts without contrast from counting.
_LEAST_VARIANCE = 0.1
# Side of the patch in units of the square root of the box's area, and mean places of the landmarks in such patches.
_SIDE = 0.9
_LANDMARKS = np.array([0.28 + 0.34j, 0.72 + 0.34j, 0.5 + 0.59j, 0.32 + 0.82j, 0.68 + 0.82j])
_MAX_PX = 1 << 15


def aligned_patch(frame_bgr: np.ndarray, detection: Detection) -> np.ndarray:
    """Return a small picture of a face for :func:`patch_distance`.

    Parameters
    ----------
    frame_bgr : np.ndarray
        ``[H, W, 3]`` uint8 BGR.
    detection : Detection
        The face. It is aligned by its box and the roll of its landmarks, or, where the frame cuts the box off, by its
        landmarks. Without landmarks it is aligned by the box.

    Returns
    -------
    np.ndarray
        ``[24, 24]`` float32 of mean 0 and standard deviation 1, or zeros if the patch is of one gray.

    Raises
    ------
    DataError
        If the frame has another format, or the box or the landmarks are not finite or have no area.
    """
    frame = check_frame(frame_bgr)
    centre, turn = _place(detection, frame.shape)
    image = cut_square(frame, centre, turn, PATCH_PX, max_step_px=1, border=cv2.BORDER_REPLICATE)
    gray = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    return _normalised(cv2.GaussianBlur(gray.astype(np.float32), (0, 0), _SMOOTHING_PX))


def patch_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return how much the parts of two patches differ that differ most.

    It is one minus the structural similarity without its comparison of means (Z. Wang et al., IEEE Transactions on Image
    Processing 13(4), 2004), the largest of all parts.

    Parameters
    ----------
    a, b : np.ndarray
        Results of :func:`aligned_patch`.

    Returns
    -------
    float
        A number in [0, 2], 0 for equal patches; above :data:`CHANGED_DISTANCE` is a change. 1 if just one of them is of
        a single gray.

    Raises
    ------
    DataError
        If a patch has another shape or dtype, or is not finite.
    """
    for patch in (a, b):
        _check(patch)
    if not (a.any() and b.any()):
        return float(a.any() != b.any())
    side = PATCH_PX - 2 * _MARGIN_PX
    middle = b[_MARGIN_PX:-_MARGIN_PX, _MARGIN_PX:-_MARGIN_PX]
    match = cv2.matchTemplate(a, middle, cv2.TM_CCOEFF_NORMED)
    top, left = divmod(int(match.argmax()), match.shape[1])
    shifted = a[top : top + side, left : left + side]
    products = cv2.merge([shifted, middle, shifted * middle, shifted * shifted + middle * middle])
    mean, other_mean, product, squares = cv2.split(cv2.blur(products, (_PART_PX, _PART_PX)))
    covariance = product - mean * other_mean
    variances = squares - mean * mean - other_mean * other_mean
    similarity = (2 * covariance + _LEAST_VARIANCE) / (variances + _LEAST_VARIANCE)
    return min(max(1 - float(similarity.min()), 0.0), 2.0)


def _normalised(image: np.ndarray) -> np.ndarray:
    centred = image - image.mean()
    deviation = math.sqrt(float(np.vdot(centred, centred)) / image.size)
    # Rounding alone leaves less in an image of one gray.
    return np.asarray(centred / np.float32(deviation)) if deviation > 1e-3 else np.zeros_like(image)


def _check(patch: np.ndarray) -> None:
    shape = (PATCH_PX, PATCH_PX)
    if not isinstance(patch, np.ndarray) or patch.shape != shape or patch.dtype != np.float32:
        found = (
            f"{patch.dtype} {list(patch.shape)}" if isinstance(patch, np.ndarray) else type(patch).__name__
        )
    elif not math.isfinite(float(patch.sum())):
        found = "NaN or infinity"
    else:
        return
    raise DataError(
        f"expected a patch of float32 {list(shape)}, found {found}. Fix: give results of aligned_patch"
    )


def _place(detection: Detection, shape: tuple[int, ...]) -> tuple[complex, complex]:
    """Return the centre of the patch, and the vector of one of its pixels to the right, in pixels of the frame."""
    left, top, right, bottom = map(float, detection.box_xyxy)
    is_cut_off = left <= 0 or top <= 0 or right >= shape[1] or bottom >= shape[0]
    if is_cut_off and detection.landmarks is not None:
        # Least-squares similarity transform: S. Umeyama, IEEE Transactions on Pattern Analysis 13(4), 1991.
        points = np.asarray(detection.landmarks, np.float64) @ np.array([1, 1j])
        middle = _LANDMARKS.mean()
        target = _LANDMARKS - middle
        across = complex((target.conj() @ (points - points.mean())) / (abs(target) ** 2).sum())
        centre = complex(points.mean()) + across * complex(0.5 + 0.5j - middle)
    else:
        centre = complex(left + right, top + bottom) / 2
        area = (right - left) * (bottom - top) if right > left else 0.0
        across = _SIDE * math.sqrt(max(area, 0.0)) * roll(detection.landmarks)
    # Comparisons with NaN are false.
    if not (0 < abs(across) <= _MAX_PX and abs(centre) <= 2 * _MAX_PX):
        raise DataError(
            f"expected a face with an area, found the box {detection.box_xyxy} and the landmarks "
            f"{None if detection.landmarks is None else np.asarray(detection.landmarks).tolist()!r:.200}. "
            "Fix: give a detection of this frame"
        )
    return centre, across / PATCH_PX

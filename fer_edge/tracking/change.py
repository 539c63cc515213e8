"""Measure how much a face has changed, to decide whether to classify it again.

Small gray patches are aligned by the landmarks and compared by normalised correlation, the best over small shifts, so
that neither jitter of the landmarks nor noise nor brightness counts as a change.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from fer_edge.errors import DataError
from fer_edge.frames import check_frame
from fer_edge.results import Detection

PATCH_PX = 32
#: Distance above which a face has changed; benchmarks/face_change.py measures its rates.
CHANGED_DISTANCE = 0.2

_MARGIN_PX = 3  # largest shift that is tried
_SMOOTHING_PX = 1.0  # standard deviation
# Places of the landmarks in the patch, in units of its side.
_LANDMARKS = np.array([0.3 + 0.35j, 0.7 + 0.35j, 0.5 + 0.56j, 0.34 + 0.75j, 0.66 + 0.75j])
# Side of the patch in units of the box, where there are no landmarks.
_BOX_SIDES = 0.9


def aligned_patch(frame_bgr: np.ndarray, detection: Detection) -> np.ndarray:
    """Return a small picture of a face for :func:`patch_distance`.

    Parameters
    ----------
    frame_bgr : np.ndarray
        ``[H, W, 3]`` uint8 BGR.
    detection : Detection
        The face. It is aligned by its landmarks, or by its box if it has none.

    Returns
    -------
    np.ndarray
        ``[32, 32]`` float32 of mean 0 and standard deviation 1, or zeros if the patch is of one gray.

    Raises
    ------
    DataError
        If the frame has another format, or the landmarks or the box are not finite or have no area.
    """
    frame = check_frame(frame_bgr)
    centre, turn = _place(detection)
    count = PATCH_PX if abs(turn) <= 1 else 2 * PATCH_PX
    turn *= PATCH_PX / count
    corner = centre - turn * complex(count - 1, count - 1) / 2
    # OpenCV counts from pixel centres.
    to_source = np.array(
        [[turn.real, -turn.imag, corner.real - 0.5], [turn.imag, turn.real, corner.imag - 0.5]]
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    image = cv2.warpAffine(frame, to_source, (count, count), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    gray = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    if count > PATCH_PX:
        gray = cv2.resize(gray, (PATCH_PX, PATCH_PX), interpolation=cv2.INTER_AREA)
    smooth = cv2.GaussianBlur(gray.astype(np.float32), (0, 0), _SMOOTHING_PX)
    smooth -= smooth.mean()
    deviation = float(smooth.std())
    return np.asarray(smooth / deviation if deviation > 0 else smooth)


def patch_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return how much two patches of :func:`aligned_patch` differ.

    Parameters
    ----------
    a, b : np.ndarray
        ``[32, 32]`` float32. The middle of ``b`` is sought in ``a``.

    Returns
    -------
    float
        One minus the correlation, in [0, 2]; 1 if one patch is of a single gray. Values above
        :data:`CHANGED_DISTANCE` are changes.

    Raises
    ------
    DataError
        If a patch has another shape or dtype, or is not finite.
    """
    for patch in (a, b):
        if (
            not isinstance(patch, np.ndarray)
            or patch.shape != (PATCH_PX, PATCH_PX)
            or patch.dtype != np.float32
        ):
            found = (
                f"{patch.dtype} {list(patch.shape)}"
                if isinstance(patch, np.ndarray)
                else type(patch).__name__
            )
            raise DataError(
                f"expected patches of float32 [{PATCH_PX}, {PATCH_PX}], found {found}. Fix: give results of aligned_patch"
            )
    middle = b[_MARGIN_PX:-_MARGIN_PX, _MARGIN_PX:-_MARGIN_PX]
    if not (a.any() and b.any()):
        return 1.0
    correlation = float(cv2.matchTemplate(a, middle, cv2.TM_CCOEFF_NORMED).max())
    if not math.isfinite(correlation):
        raise DataError("expected finite patches, found NaN or infinity. Fix: give results of aligned_patch")
    return min(max(1 - correlation, 0.0), 2.0)


def _place(detection: Detection) -> tuple[complex, complex]:
    """Return the centre of the patch, and the vector of one of its pixels to the right, in pixels of the frame."""
    if detection.landmarks is None:
        left, top, right, bottom = map(float, detection.box_xyxy)
        centre, area = complex(left + right, top + bottom) / 2, (right - left) * (bottom - top)
        side = _BOX_SIDES * math.sqrt(area) if right > left and area > 0 else 0.0
        turn = complex(side / PATCH_PX)
    else:
        # Least-squares similarity transform: S. Umeyama, IEEE Transactions on Pattern Analysis 13(4), 1991.
        points = np.asarray(detection.landmarks, np.float64) @ np.array([1, 1j])
        middle = _LANDMARKS.mean()
        target = _LANDMARKS - middle
        side_vector = complex((target.conj() @ (points - points.mean())) / (abs(target) ** 2).sum())
        centre = complex(points.mean()) + side_vector * complex(0.5 + 0.5j - middle)
        turn = side_vector / PATCH_PX
    values = (centre.real, centre.imag, turn.real, turn.imag)
    if not all(map(math.isfinite, values)) or not 0 < abs(turn) <= 1 << 15 or abs(centre) > 1 << 20:
        raise DataError(
            f"expected a face with an area, found the box {detection.box_xyxy} and landmarks "
            f"{None if detection.landmarks is None else np.asarray(detection.landmarks).tolist()!r:.200}. Fix: give a detection"
        )
    return centre, turn

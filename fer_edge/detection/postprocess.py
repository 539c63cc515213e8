"""Convert boxes to detections inside the frame, largest first."""

from __future__ import annotations

import numpy as np

from fer_edge.results import Detection


def to_detections(
    frame_bgr: np.ndarray,
    boxes_xyxy: np.ndarray,
    scores: np.ndarray,
    landmarks: np.ndarray | None,
    min_face_px: int,
    roll_deg: np.ndarray | None = None,
) -> list[Detection]:
    """Return detections, largest first, with boxes clipped to the frame.

    Parameters
    ----------
    frame_bgr : np.ndarray
        ``[H, W, 3]``.
    boxes_xyxy : np.ndarray
        ``[N, 4]`` pixels of the frame; may extend beyond it.
    scores : np.ndarray
        ``[N]`` in [0, 1].
    landmarks : np.ndarray or None
        ``[N, 5, 2]`` pixels of the frame.
    min_face_px : int
        Smallest longer side of a face. It is measured before clipping, so that a large face that is partly
        outside the frame is kept.
    roll_deg : np.ndarray or None
        ``[N]`` clockwise turns in the image plane; ``None`` if all are upright.
    """
    height, width = frame_bgr.shape[:2]
    side_px = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).max(axis=1, initial=0)
    inside = np.clip(boxes_xyxy, 0, [width, height, width, height])
    sizes = inside[:, 2:] - inside[:, :2]
    usable = np.isfinite(boxes_xyxy).all(axis=1) & (side_px >= min_face_px) & (sizes >= 1).all(axis=1)
    order = np.argsort(-sizes.prod(axis=1), kind="stable")
    return [
        Detection(
            box_xyxy=(float(inside[i, 0]), float(inside[i, 1]), float(inside[i, 2]), float(inside[i, 3])),
            score=float(np.clip(scores[i], 0, 1)),
            landmarks=None if landmarks is None else landmarks[i].astype(np.float32),
            roll_deg=0.0 if roll_deg is None else float(roll_deg[i]),
        )
        for i in order
        if usable[i]
    ]

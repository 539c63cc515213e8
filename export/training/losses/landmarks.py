"""EmotionalDAN's losses (Tautkute et al., 2018): landmarks, and landmarks with the expression."""

from __future__ import annotations

import torch
from torch import Tensor

from fer_edge.errors import DataError, UsageError
from fer_edge.export.training.losses._shapes import expect_shape, precise
from fer_edge.export.training.losses.classification import soft_cross_entropy

POINTS = 68
#: Of the 68 points, those around each eye; their means stand for the pupils.
EYES = (slice(36, 42), slice(42, 48))
# Eyes closer than this, in units of the shape's extent, are no face: even in profile they are at 5 %.
_MIN_EYE_DISTANCE = 1e-3


def landmark_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Return the mean point distance ÷ the target's distance between the eye centres, mean over faces.

    The paper divides by the distance of the pupils. They are not among the 68 points; as in the authors'
    code, the means of the points 36–41 and 42–47 take their place.

    Parameters
    ----------
    predicted : Tensor
        ``[B, 68, 2]`` float, pixels.
    target : Tensor
        ``[B, 68, 2]`` in the same pixels. A face with a NaN has no landmarks and does not contribute;
        where no face has landmarks, the loss is 0 and its gradient is 0.

    Raises
    ------
    UsageError
        If a shape does not fit.
    DataError
        If a target is infinite, or its eyes coincide.
    """
    text = f"[B, {POINTS}, 2]"
    expect_shape("predicted landmarks", predicted, (None, POINTS, 2), text)
    expect_shape("target landmarks", target, (len(predicted), POINTS, 2), f"{text}, B = {len(predicted)}")
    present = ~target.isnan().flatten(1).any(dim=1)
    predicted, target = precise(predicted[present]), precise(target[present])
    left, right = (target[:, eye].mean(dim=1) for eye in EYES)
    between_eyes = torch.linalg.vector_norm(left - right, dim=1)
    extent = (target.amax(dim=1) - target.amin(dim=1)).amax(dim=1)
    degenerate = ~(between_eyes > _MIN_EYE_DISTANCE * extent)  # also true for infinity
    if bool(degenerate.any()):
        faces = torch.nonzero(present).flatten()[degenerate].tolist()
        raise DataError(
            f"the target landmarks of faces {faces[:10]} in the batch are degenerate (the eyes coincide, or a value is infinite). Fix: mark missing landmarks with NaN."
        )
    distances = torch.linalg.vector_norm(predicted - target, dim=2).mean(dim=1)
    return (distances / between_eyes).sum() / max(len(target), 1)


def emotional_dan_loss(
    landmarks: Tensor,
    target_landmarks: Tensor,
    logits: Tensor,
    distribution: Tensor,
    landmark_weight: float = 0.4,
) -> Tensor:
    """Return w · landmark loss + (1 − w) · cross-entropy: the joint loss of the paper.

    The paper weighs 0.4 : 0.6; the authors' code 0.5 : 0.5.

    Parameters
    ----------
    landmarks, target_landmarks : Tensor
        As for :func:`landmark_loss`.
    logits, distribution : Tensor
        ``[B, K]``; as for :func:`soft_cross_entropy`.
    landmark_weight : float
        w, from 0 to 1.

    Raises
    ------
    UsageError
        If the weight is out of range, or a shape does not fit.
    DataError
        If a target shape is degenerate.
    """
    if not 0 <= landmark_weight <= 1:
        raise UsageError(
            f"landmark_weight must be from 0 to 1, found {landmark_weight}. Fix: give a value in that range."
        )
    batch = len(landmarks)
    expect_shape("logits", logits, (batch, None), f"[B, K], B = {batch} as of the landmarks")
    expect_shape("distribution", distribution, tuple(logits.shape), f"{list(logits.shape)} as the logits are")
    expression = soft_cross_entropy(logits, distribution)
    return landmark_weight * landmark_loss(landmarks, target_landmarks) + (1 - landmark_weight) * expression

"""Losses on logits and label distributions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from fer_edge.errors import UsageError
from fer_edge.export.training.losses._shapes import expect_distribution, precise

#: The Residual Masking authors' weights for VEMO, in their class order (angry, disgust, fear, happy, sad,
#: surprise, neutral). They are :func:`inverse_frequency_weights` of FER2013's 28,709 training rows.
VEMO_CLASS_WEIGHTS = (1.0266, 9.4066, 1.0010, 0.5684, 0.8491, 1.2934, 0.8260)


def soft_cross_entropy(logits: Tensor, distribution: Tensor) -> Tensor:
    """Return the mean of −Σ_k p_k log softmax(logits)_k (Barsoum et al., 2016, "cross-entropy").

    Parameters
    ----------
    logits : Tensor
        ``[B, K]`` float.
    distribution : Tensor
        ``[B, K]``, rows sum to 1: the votes of the annotators.
    """
    precise = torch.promote_types(logits.dtype, torch.float32)
    return -(distribution * F.log_softmax(logits, dim=1, dtype=precise)).sum(dim=1).mean()


def weighted_cross_entropy(
    logits: Tensor, distribution: Tensor, class_weights: Tensor | Sequence[float]
) -> Tensor:
    """Return −Σ_ik w_k p_ik log softmax(logits_i)_k ÷ Σ_ik w_k p_ik.

    For one-hot rows this is ``torch.nn.functional.cross_entropy(logits, classes, weight)``. PyTorch divides
    soft labels by B instead, so that its loss is discontinuous between hard and nearly hard labels; this one is continuous.

    Parameters
    ----------
    logits : Tensor
        ``[B, K]`` float.
    distribution : Tensor
        ``[B, K]``, rows sum to 1.
    class_weights : Tensor or sequence of float
        ``[K]``, positive: :data:`VEMO_CLASS_WEIGHTS`, or of :func:`inverse_frequency_weights`.

    Raises
    ------
    UsageError
        If a shape does not fit, or a weight is not positive and finite.
    """
    expect_distribution(logits, distribution)
    log_probabilities = F.log_softmax(precise(logits), dim=1)
    weights = torch.as_tensor(class_weights, dtype=log_probabilities.dtype, device=logits.device)
    if weights.shape != (logits.shape[1],) or not bool(((weights > 0) & weights.isfinite()).all()):
        raise UsageError(
            f"class_weights must be {logits.shape[1]} positive numbers, one per class, found {weights.tolist()}. Fix: give a weight for each class."
        )
    shares = weights * distribution
    return -(shares * log_probabilities).sum() / shares.sum()


def inverse_frequency_weights(counts: Sequence[int]) -> tuple[float, ...]:
    """Return N / (K · n_k) for the K classes, N images in all: the mean weight of an image is 1.

    This rule gives :data:`VEMO_CLASS_WEIGHTS` from FER2013's counts, to the four decimals printed.

    Raises
    ------
    UsageError
        If there is no class, or one without images.
    """
    if not counts or not all(math.isfinite(n) and n > 0 for n in counts):
        raise UsageError(
            f"every class needs at least one image, found the counts {list(counts)}. Fix: leave empty classes out."
        )
    total = sum(counts)
    return tuple(total / (len(counts) * n) for n in counts)

"""Training losses."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


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

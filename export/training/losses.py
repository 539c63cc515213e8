"""Training losses."""

from __future__ import annotations

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
    return -(distribution * F.log_softmax(logits.float(), dim=1)).sum(dim=1).mean()

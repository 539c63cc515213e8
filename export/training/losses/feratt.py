"""FERAtt's three-part loss (Marrero Fernández et al., 2019): classification, attention, representation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fer_edge.errors import UsageError
from fer_edge.export.training.losses._shapes import expect_distribution, expect_shape, precise


def classification_loss(logits: Tensor, distribution: Tensor) -> Tensor:
    """Return L_cls: binary cross-entropy of q = softmax(logits), summed over classes, mean over images.

    −Σ_k [p_k log q_k + (1 − p_k) log(1 − q_k)]. The paper does not state the argument of its binary cross-entropy.
    The network's outputs are used as one softmax, so that is taken; the sum over classes keeps the weight
    against the other parts independent of the number of classes. The authors' code takes the first term
    alone, which is ``soft_cross_entropy``. log(1 − q_k) is computed from the other logits and stays finite
    where q_k rounds to 1.

    Parameters
    ----------
    logits : Tensor
        ``[B, K]`` float, K ≥ 2.
    distribution : Tensor
        ``[B, K]``, rows sum to 1.

    Raises
    ------
    UsageError
        If a shape does not fit, or there is one class only.
    """
    expect_distribution(logits, distribution)
    classes = logits.shape[1]
    if classes < 2:
        raise UsageError(
            "binary cross-entropy of a softmax needs at least two classes, found one. Fix: give logits of more classes."
        )
    logits = precise(logits)
    same = torch.eye(classes, dtype=torch.bool, device=logits.device)
    others = logits[:, None, :].masked_fill(same, -math.inf).logsumexp(dim=2)
    total = logits.logsumexp(dim=1, keepdim=True)
    loss = distribution * (logits - total) + (1 - distribution) * (others - total)
    return -loss.sum(dim=1).mean()


def attention_image_loss(face: Tensor, image: Tensor, mask: Tensor, maximum: float | None = None) -> Tensor:
    """Return L_att = MSE(I_att, I ⊗ mask), the mean over all values.

    The authors' code of the paper's time clamps it at 10, which stops its gradient there; the later code
    multiplies it by 10, or takes 5 · mean tanh(3·|I − I_att|) against an image that is black around the face.

    Parameters
    ----------
    face : Tensor
        I_att, ``[B, C, H, W]`` float.
    image : Tensor
        I, of the same shape and scaling; values outside the mask are ignored.
    mask : Tensor
        ``[B, H, W]`` or ``[B, 1, H, W]``, bool or 0…1.
    maximum : float, optional
        Clamp the loss here (the authors' code: 10).

    Raises
    ------
    UsageError
        If a shape does not fit, or ``maximum`` is not positive.
    """
    expect_shape("face", face, (None, None, None, None), "[B, C, H, W]")
    expect_shape("image", image, tuple(face.shape), f"{list(face.shape)} as the face is")
    batch, _, height, width = face.shape
    if mask.ndim == 3:
        mask = mask[:, None]
    expect_shape("mask", mask, (batch, 1, height, width), f"[{batch}, {height}, {width}]")
    if maximum is not None and not maximum > 0:
        raise UsageError(f"maximum must be positive, found {maximum}. Fix: give a positive number.")
    face = precise(face)
    # Not the product alone: values outside may be infinite.
    masked = torch.where(mask > 0, image * mask, 0.0)
    loss = F.mse_loss(face, masked.to(face.dtype))
    return loss if maximum is None else loss.clamp(max=maximum)


def structured_gaussian_manifold_loss(embedding: Tensor, labels: Tensor, sigma: float = 1.0) -> Tensor:
    """Return L_rep (Eq. 5): mean_i Σ_c (p_ic − [c = class of i])².

    p_i = softmax_c(−‖z_i − μ_c‖² / 2σ²) over the classes of the batch, μ_c the batch mean of class c, through
    which the gradient flows. A class that is not in the batch has p = 0 and does not contribute. The
    softmax is the paper's quotient of exponentials without its underflow (far from every mean that quotient
    is 0 ÷ 0, and the authors' code adds 1e-15).

    Parameters
    ----------
    embedding : Tensor
        z, ``[B, D]`` float.
    labels : Tensor
        ``[B]`` integer classes.
    sigma : float
        Width of the Gaussians: 1 in the authors' code of the paper's time, 0.5 in that of 2020.

    Raises
    ------
    UsageError
        If a shape or the type of the labels does not fit, or σ is not positive.
    """
    expect_shape("embedding", embedding, (None, None), "[B, D]")
    expect_shape("labels", labels, (len(embedding),), f"[B], B = {len(embedding)} as of the embedding")
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise UsageError(f"labels must be integer class indices, found {labels.dtype}. Fix: convert them.")
    if not 0 < sigma < math.inf:
        raise UsageError(f"sigma must be positive, found {sigma}. Fix: give a positive number.")
    z = precise(embedding)
    present, classes, counts = torch.unique(labels, return_inverse=True, return_counts=True)
    means = z.new_zeros(len(present), z.shape[1]).index_add(0, classes, z) / counts[:, None]
    squared_distance = (z[:, None] - means).square().sum(dim=2)
    p = F.softmax(-squared_distance / (2 * sigma**2), dim=1)
    return (p - F.one_hot(classes, len(present))).square().sum(dim=1).mean()


class FERAttLosses(NamedTuple):
    """The loss and its parts, each a scalar tensor.

    Attributes
    ----------
    total : Tensor
        The sum of the others, 1 : 1 : 1.
    classification, attention, representation : Tensor
        L_cls, L_att and L_rep; the last is 0 for a network without embedding.
    """

    total: Tensor
    classification: Tensor
    attention: Tensor
    representation: Tensor


def feratt_loss(
    *,
    logits: Tensor,
    embedding: Tensor | None,
    face: Tensor,
    distribution: Tensor,
    image: Tensor,
    mask: Tensor,
    sigma: float = 1.0,
    maximum_attention: float | None = None,
    classification: Callable[[Tensor, Tensor], Tensor] = classification_loss,
) -> FERAttLosses:
    """Return L_cls + L_att + L_rep and the parts.

    Parameters
    ----------
    logits, embedding, face : Tensor
        y ``[B, K]``, z ``[B, D]`` and I_att ``[B, 3, H, W]`` of the network; ``embedding=None`` for one
        that has the class head only.
    distribution : Tensor
        ``[B, K]``, rows sum to 1; L_rep takes the largest of each row (the first of equals).
    image, mask : Tensor
        I ``[B, 3, H, W]``, scaled as the network's input is, and the mask of the face ``[B, H, W]``.
    sigma, maximum_attention : float
        See :func:`structured_gaussian_manifold_loss` and :func:`attention_image_loss`.
    classification : callable
        L_cls of (logits, distribution); ``soft_cross_entropy`` to train as the authors' code does.

    Raises
    ------
    UsageError
        If a shape does not fit.
    """
    batch = len(logits)
    expect_shape("face", face, (batch, None, None, None), f"[B, 3, H, W], B = {batch} as of the logits")
    expect_shape("distribution", distribution, tuple(logits.shape), f"{list(logits.shape)} as the logits are")
    cls = classification(logits, distribution)
    att = attention_image_loss(face, image, mask, maximum_attention)
    if embedding is None:
        rep = torch.zeros_like(cls)
    else:
        rep = structured_gaussian_manifold_loss(embedding, distribution.argmax(dim=1), sigma)
    return FERAttLosses(cls + att + rep, cls, att, rep)

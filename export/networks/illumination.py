"""Illumination normalisation by isotropic diffusion, as matrix products that export with the network.

The light on a face varies slowly. It is estimated as the solution u of (I + λL) u = image, where L is the
5-point Laplacian with mirrored borders, and divided out. The cosine transform diagonalises L, so the solve
is exact: two products there, one division by 1 + λμ, two products back.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from fer_edge.errors import UsageError

#: Inputs are pixel / 255: one grey level keeps black areas and flat images finite.
GREY_LEVEL = 1 / 255


def normalise_illumination(images: Tensor, smoothness: float) -> Tensor:
    """Divide each image by its diffused copy (Sun et al., input of Section 3).

    Parameters
    ----------
    images : Tensor
        ``[B, C, H, W]``, pixel / 255.
    smoothness : float
        λ ≥ 0, in squared pixels; the paper does not state it. 0 turns every lit pixel into 1.

    Returns
    -------
    Tensor
        ``[B, C, H, W]`` image / luminance, around 1; 0 where the image is black.

    Raises
    ------
    UsageError
        If ``smoothness`` is negative.
    """
    return images / diffuse(images, smoothness).clamp_min(GREY_LEVEL)


def diffuse(images: Tensor, smoothness: float) -> Tensor:
    """Solve (I + λL) u = image for every channel of ``[B, C, H, W]``; the mean stays."""
    if smoothness < 0:
        raise UsageError(
            f"smoothness must be at least 0, found {smoothness}. Fix: give a value in that range."
        )
    rows, row_values = _cosine_basis(images.shape[2])
    columns, column_values = _cosine_basis(images.shape[3])
    gains = 1 / (1 + smoothness * (row_values[:, None] + column_values[None, :]))
    spectrum = _constant(rows, images) @ images @ _constant(columns.T, images)
    return _constant(rows.T, images) @ (spectrum * _constant(gains, images)) @ _constant(columns, images)


def standardise(images: Tensor) -> Tensor:
    """Give every image of ``[B, C, H, W]`` zero mean and unit standard deviation over C, H, W."""
    centred = images - images.mean(dim=(1, 2, 3), keepdim=True)
    deviation = centred.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    return centred / deviation.clamp_min(GREY_LEVEL)


@lru_cache(maxsize=16)
def _cosine_basis(length: int) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvectors, as rows ``[length, length]``, and eigenvalues of the 1-D Laplacian with mirrored ends."""
    frequency = np.pi * np.arange(length) / length
    basis = np.cos(frequency[:, None] * (np.arange(length) + 0.5))
    return basis / np.linalg.norm(basis, axis=1, keepdims=True), 2 - 2 * np.cos(frequency)


def _constant(values: np.ndarray, like: Tensor) -> Tensor:
    # float32 from the start: a conversion would stay in the exported graph, and TensorRT has no float64.
    return torch.from_numpy(np.ascontiguousarray(values, np.float32)).to(like)

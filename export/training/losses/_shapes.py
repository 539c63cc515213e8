"""Shape checks and the precision of the losses."""

from __future__ import annotations

from torch import Tensor, float32, promote_types

from fer_edge.errors import UsageError


def expect_shape(name: str, tensor: Tensor, sizes: tuple[int | None, ...], text: str) -> None:
    """Raise unless ``tensor`` has these sizes (``None``: any size but 0); ``text`` is their name."""
    fits = tensor.ndim == len(sizes) and all(
        found > 0 if size is None else found == size for size, found in zip(sizes, tensor.shape, strict=True)
    )
    if not fits:
        raise UsageError(
            f"{name} must be {text}, found {list(tensor.shape)}. Fix: check the arguments of the loss."
        )


def expect_distribution(logits: Tensor, distribution: Tensor) -> None:
    """Raise unless both are ``[B, K]`` of one size."""
    expect_shape("logits", logits, (None, None), "[B, K]")
    expect_shape("distribution", distribution, tuple(logits.shape), f"{list(logits.shape)} like the logits")


def precise(tensor: Tensor) -> Tensor:
    """Return float32 for half precision, float64 as it is."""
    return tensor.to(promote_types(tensor.dtype, float32))

"""Balanced sampling of the images of an epoch (Jalal et al.)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Generator, Tensor

from fer_edge.errors import DataError, UsageError, lookup

#: Number of draws from a class of ``count`` < ``per_class`` images. ``copies`` is the paper's rule: as many whole
#: copies as fit. From AffectNet's 6,378 fear, 3,803 disgust and 3,750 contempt training images it gives
#: exactly the 12,756, 11,409 and 11,250 that the paper prints for 13,000 per class.
RARE_CLASSES: Mapping[str, Callable[[int, int], int]] = {
    "copies": lambda count, per_class: per_class // count * count,
    "cap": lambda count, per_class: count,
    "oversample": lambda count, per_class: per_class,
}


def balanced_indices(
    targets: Tensor,
    per_class: int = 13_000,
    generator: Generator | None = None,
    *,
    rare: str = "copies",
    num_classes: int | None = None,
) -> Tensor:
    """Draw one epoch with (nearly) the same number of images of every class, in random order.

    A class with more than ``per_class`` images is sampled without replacement, anew each epoch.

    Parameters
    ----------
    targets : Tensor
        ``[N]`` integer class of each image.
    per_class : int
        Images per class; 13,000 in the paper.
    generator : torch.Generator, optional
        The same state gives the same indices.
    rare : {"copies", "cap", "oversample"}
        A class with fewer images: ``copies`` shows each image the same number of times, as often as
        fits; ``cap`` shows each image once; ``oversample`` fills up to ``per_class``, so that the number of
        times that two images are shown differs by at most one.
    num_classes : int, optional
        Require the classes 0 … ``num_classes`` − 1, each with an image. Without it, the classes are those
        that occur.

    Returns
    -------
    Tensor
        ``[M]`` int64 indices into ``targets``, M ≤ classes × ``per_class``.

    Raises
    ------
    DataError
        If there are no images, a required class has none (all such are listed), or a target is out of range.
    UsageError
        If an argument is invalid.
    """
    amount = lookup(RARE_CLASSES, rare, "rule for rare classes")
    if per_class < 1:
        raise UsageError(f"per_class must be at least 1, found {per_class}. Fix: give a positive number.")
    if targets.ndim != 1 or targets.is_floating_point() or targets.dtype == torch.bool:
        raise UsageError(
            f"targets must be integer class indices [N], found {targets.dtype} {list(targets.shape)}. Fix: convert them."
        )
    if len(targets) == 0:
        raise DataError("found no images to sample from. Fix: give labelled data.")
    classes: list[int] = torch.unique(targets).tolist()
    if num_classes is not None:
        empty = sorted(set(range(num_classes)) - set(classes))
        if empty:
            raise DataError(
                f"the classes {empty} have no images. Fix: add images, or train a network without these classes."
            )
        if classes[0] < 0 or classes[-1] >= num_classes:
            raise DataError(
                f"the targets must be from 0 to {num_classes - 1}, found {classes[0]} to {classes[-1]}. Fix: give class indices in that range."
            )
    drawn = []
    for label in classes:
        members = torch.nonzero(targets == label).flatten()
        count = len(members)
        wanted = per_class if count >= per_class else amount(count, per_class)
        rounds = -(-wanted // count)
        order = [torch.randperm(count, generator=generator) for _ in range(rounds)]
        drawn.append(members[torch.cat(order)[:wanted]])
    indices = torch.cat(drawn)
    return indices[torch.randperm(len(indices), generator=generator)]


def expected_draws(targets: Tensor, per_class: int = 13_000, *, rare: str = "copies") -> Tensor:
    """Return ``[N]`` float64, the mean number of draws of each image per epoch by :func:`balanced_indices`."""
    drawn = targets[balanced_indices(targets, per_class, Generator().manual_seed(0), rare=rare)]
    classes = int(targets.max()) + 1
    draws, images = (torch.bincount(t, minlength=classes).double() for t in (drawn, targets))
    return (draws / images)[targets]

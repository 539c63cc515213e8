"""Entries that an author's file holds twice, since one module is registered under two names."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from fer_edge.errors import WeightsError

State = Mapping[str, Tensor]
Rename = Callable[[str], str | None]


def without_aliases(
    state: State, original_of: Rename, alias_of: Rename, origin: str, what: str
) -> dict[str, Tensor]:
    """Return ``state`` with one entry for each pair.

    Parameters
    ----------
    state : mapping
        Name → value.
    original_of : callable
        Alias → the name that is kept; ``None`` for any other name.
    alias_of : callable
        Name that is stored twice → its alias; ``None`` for any other name.
    origin, what : str
        The file and the kind of entry, for errors.

    Raises
    ------
    WeightsError
        If one of a pair is missing, or the two differ.
    """
    twins = {kept: value for name, value in state.items() if (kept := original_of(name)) is not None}
    own = {name: value for name, value in state.items() if original_of(name) is None}
    for name in sorted(twins.keys() | {name for name in own if alias_of(name) is not None}):
        if name not in own or name not in twins or not same_values(own[name], twins[name]):
            raise WeightsError(
                f"{origin} must hold the {what} {name} also as {alias_of(name)} with equal values, but one is missing or they differ. Fix: fetch the file again."
            )
    return own


def same_values(a: Tensor, b: Tensor) -> bool:
    """Tell whether all values are equal; NaN equals NaN, since it is reported later under its own name."""
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num())

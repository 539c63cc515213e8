"""The networks of the papers, by name."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from torch import nn

from fer_edge.errors import UsageError, lookup
from fer_edge.export.networks.entry import NetworkEntry
from fer_edge.models.catalogue import CATALOGUE

__all__ = ["NETWORKS", "NetworkEntry", "build_network"]

#: The entries of the modules that the catalogue names.
NETWORKS: dict[str, NetworkEntry] = {
    name: import_module(f"{__name__}.{entry.module}").ENTRIES[name]
    for name, entry in CATALOGUE.items()
    if entry.module  # a program's own network has none
}


def build_network(name: str, options: Mapping[str, Any] | None = None) -> nn.Module:
    """Return network ``name`` with random weights.

    Parameters
    ----------
    name : str
        A key of :data:`NETWORKS`.
    options : mapping, optional
        Fields of the network's options class, such as ``{"num_classes": 7}``.

    Raises
    ------
    UsageError
        If the name or an option is unknown.
    """
    entry = lookup(NETWORKS, name, "network")
    try:
        return entry.build(**(options or {}))
    except TypeError as error:
        raise UsageError(
            f"network {name!r} does not take these options ({error}). Fix: give options of its class only."
        ) from error

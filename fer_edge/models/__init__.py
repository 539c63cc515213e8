"""Catalogue of the networks, and the bundles and weights that ship with the package."""

from __future__ import annotations

from fer_edge.models.catalogue import (
    CATALOGUE,
    DEFAULT_MODEL,
    SHIPPED,
    CatalogueEntry,
    ShippedModel,
    find_bundle,
    shipped_bundle,
)

__all__ = [
    "CATALOGUE",
    "DEFAULT_MODEL",
    "SHIPPED",
    "CatalogueEntry",
    "ShippedModel",
    "find_bundle",
    "shipped_bundle",
]

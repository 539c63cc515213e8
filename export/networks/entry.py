"""Registry entry of a network, defined in the network's module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from fer_edge.export.networks.tolerance import Tolerance
from fer_edge.spec import ModelSpec

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class NetworkEntry:
    """Constructor of a network, and the input contract of its paper."""

    build: Callable[..., nn.Module]
    spec: ModelSpec
    paper: str
    #: Output → tolerance of a runtime against PyTorch, where it is not the default.
    tolerances: Mapping[str, Tolerance] = field(default_factory=dict)


def as_tuples(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with tuples in place of the lists of JSON."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}

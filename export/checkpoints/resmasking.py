"""The files of the Residual Masking Network's authors, and those of the ensemble's other members.

A mask's shortcut is stored under both names that the module has for it. The last layer is ``fc.1`` behind
dropout and ``fc`` without. The other members' entries are those of our modules.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import asdict
from typing import Any

from torch import Tensor, nn

from fer_edge.errors import WeightsError
from fer_edge.export.checkpoints.aliases import State, without_aliases
from fer_edge.export.networks.resmasking import ResMaskingOptions

_SHORTCUT = re.compile(r"^(mask\d+)\.conv(\d+)\.downsample\.")
_ALIAS = re.compile(r"^(mask\d+)\.downsample(\d+)\.")


def from_author(state: State, origin: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return options and state of our network or raise :class:`WeightsError` for a missing shortcut or head."""
    own = without_aliases(state, _original_of, _alias_of, origin, "shortcut")
    plain = without_dropout(own)
    if plain:
        own = {re.sub(r"^fc\.", "fc.1.", name): value for name, value in own.items()}
    options = ResMaskingOptions(
        num_classes=_classes(own, "fc.1.weight", origin),
        dropout=0.0 if plain else ResMaskingOptions.dropout,
    )
    return asdict(options), own


def to_author(module: nn.Module) -> dict[str, Tensor]:
    """Return the state under its authors' names, aliases included."""
    plain = module.get_submodule("fc.0").p == 0
    author: dict[str, Tensor] = {}
    for name, value in module.state_dict().items():
        if (alias := _alias_of(name)) is not None:
            author[alias] = value
        author[re.sub(r"^fc\.1\.", "fc.", name) if plain else name] = value
    return author


def without_dropout(names: Collection[str]) -> bool:
    """Return whether the network has no dropout before its last layer."""
    return "fc.weight" in names and "fc.1.weight" not in names


def unchanged(head: str) -> Callable[[State, str], tuple[dict[str, Any], dict[str, Tensor]]]:
    """Return the reader of a network whose entries keep their names, classified by entry ``head``."""
    return lambda state, origin: ({"num_classes": _classes(state, head, origin)}, dict(state))


def _classes(state: State, head: str, origin: str) -> int:
    if head not in state:
        raise WeightsError(
            f"{origin} has no classifier ({head}). Fix: give a checkpoint of the whole network."
        )
    return state[head].shape[:1].numel()


def _alias_of(name: str) -> str | None:
    alias, count = _SHORTCUT.subn(r"\1.downsample\2.", name)
    return alias if count else None


def _original_of(alias: str) -> str | None:
    original, count = _ALIAS.subn(r"\1.conv\2.downsample.", alias)
    return original if count else None

"""The files of FERAtt's authors: entry names of each variant, to our network and back.

The encoder is stored under two names. In 2018 the U-Net had no module of its own, so its names lack the
first ``attention_map.``. The encoder's ImageNet classifier (513,000 parameters, in every file and in every
published total) is never used: it is dropped on reading and zero on writing.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from fer_edge.errors import WeightsError
from fer_edge.export.checkpoints.aliases import State, without_aliases
from fer_edge.export.networks.feratt import VARIANTS, FERAtt, FERAttOptions

#: An entry in the files of every variant.
SIGNATURE = "conv_mid.weight"

#: A file that asks for a larger representation is not one of the authors'.
_MAX_EMBEDDING = 4096

_UNET = "attention_map."
_UNET_2018 = re.compile(r"^(encoder|conv[1-5]|center|dec[1-5]|attention_map)\.")
_ENCODER = {"conv1": "conv1.0", "bn1": "conv1.1"} | {f"layer{i}": f"conv{i + 1}" for i in range(1, 5)}
_STORED_TWICE = re.compile(rf"^((?:{re.escape(_UNET)})?)(conv1\.[01]|conv[2-5])\.")
_ALIAS = re.compile(rf"^((?:{re.escape(_UNET)})?)encoder\.({'|'.join(_ENCODER)})\.")
_ENCODER_HEAD = f"{_UNET}encoder.fc."


def from_author_paper(state: State, origin: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return options and state of our network for a file of late 2018, or raise :class:`WeightsError`."""
    return _from_author("paper", state, origin)


def from_author_2019(state: State, origin: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """:func:`from_author_paper` for a file of 2019."""
    return _from_author("2019", state, origin)


def from_author_2020(state: State, origin: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """:func:`from_author_paper` for a file of 2020."""
    return _from_author("2020", state, origin)


def to_author(module: nn.Module) -> dict[str, Tensor]:
    """Return the state of a :class:`FERAtt` in its authors' order and names.

    Aliases are included.
    """
    if not isinstance(module, FERAtt):
        raise TypeError(
            f"expected a FERAtt network, found {type(module).__name__}. Fix: pass a FERAtt module."
        )
    own = module.state_dict()
    encoder = {alias: value for name, value in own.items() if (alias := _alias_of(name)) is not None}
    head = {f"{_ENCODER_HEAD}weight": torch.zeros(1000, 512), f"{_ENCODER_HEAD}bias": torch.zeros(1000)}
    return {
        _author_name(name, module.options.variant): value for name, value in (encoder | head | own).items()
    }


def _from_author(variant: str, state: State, origin: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    found = variant_of(state)
    if found != variant:
        raise WeightsError(
            f"{origin} holds the {found} variant of FERAtt, expected {variant}. Fix: give --model {VARIANTS[found].network}."
        )
    own = without_aliases(state, _original_of, _alias_of, origin, "encoder entry")
    if variant == "paper":
        own = {_UNET_2018.sub(rf"{_UNET}\g<0>", name): value for name, value in own.items()}
    own = {name: value for name, value in own.items() if not name.startswith(_ENCODER_HEAD)}
    return asdict(_options(variant, own, origin)), own


def _options(variant: str, own: State, origin: str) -> FERAttOptions:
    inner, head = "netclass.linear.weight", "netclass.classification.weight"
    if inner not in own:
        raise WeightsError(
            f"{origin} has no classifier ({inner}). Fix: give a checkpoint of the whole network."
        )
    width = own[inner].shape[:1].numel()
    if head not in own:
        return FERAttOptions(num_classes=width, embedding=None, variant=variant)
    if not 1 <= width <= _MAX_EMBEDDING:
        raise WeightsError(
            f"{origin} has a representation of {width} values, expected 64 and at most {_MAX_EMBEDDING}. Fix: fetch the file again."
        )
    return FERAttOptions(num_classes=own[head].shape[:1].numel(), embedding=width, variant=variant)


def variant_of(names: Collection[str]) -> str:
    """Return the key of :data:`VARIANTS` for the entry names of a FERAtt file."""
    if "conv2_bn.weight" in names:
        return "2020"
    return "2019" if any(name.startswith(f"{_UNET}conv1.") for name in names) else "paper"


def _alias_of(name: str) -> str | None:
    """Map an entry to its alias: ``attention_map.conv2.0.bn1.bias`` → ``attention_map.encoder.layer1.0.bn1.bias``."""
    names = {ours: theirs for theirs, ours in _ENCODER.items()}
    alias, count = _STORED_TWICE.subn(lambda match: f"{match[1]}encoder.{names[match[2]]}.", name)
    return alias if count else None


def _original_of(alias: str) -> str | None:
    original, count = _ALIAS.subn(lambda match: f"{match[1]}{_ENCODER[match[2]]}.", alias)
    return original if count else None


def _author_name(name: str, variant: str) -> str:
    return name.removeprefix(_UNET) if variant == "paper" else name

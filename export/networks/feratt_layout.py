"""The files of FERAtt's authors: entry names of each variant, to our network and back.

The encoder is stored under two names. In 2018 the U-Net had no module of its own, so its names lack the
first ``attention_map.``. The encoder's ImageNet classifier (513,000 parameters, in every file and in every
published total) is never used: it is dropped on reading and zero on writing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from fer_edge.errors import WeightsError
from fer_edge.export.networks.feratt import VARIANTS, FERAtt, FERAttOptions

State = Mapping[str, Tensor]

#: An entry that every file has, whatever the variant.
SIGNATURE = "conv_mid.weight"

#: A file that asks for a larger representation is not one of the authors'.
_MAX_EMBEDDING = 4096

_UNET = "attention_map."
_UNET_2018 = re.compile(r"^(encoder|conv[1-5]|center|dec[1-5]|attention_map)\.")
_ENCODER = {"conv1": "conv1.0", "bn1": "conv1.1"} | {f"layer{i}": f"conv{i + 1}" for i in range(1, 5)}
_STORED_TWICE = re.compile(rf"^{re.escape(_UNET)}(conv1\.[01]|conv[2-5])\.")
_ALIAS = re.compile(rf"^{re.escape(_UNET)}encoder\.({'|'.join(_ENCODER)})\.")
_ENCODER_HEAD = f"{_UNET}encoder.fc."


def from_author_paper(state: State, origin: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return options and state of our network for a file of late 2018 (:class:`WeightsError` if it is none)."""
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
        raise TypeError(f"expected a FERAtt network, found {type(module).__name__}")
    own = module.state_dict()
    encoder = {_alias_of(name): value for name, value in own.items() if _STORED_TWICE.match(name)}
    head = {f"{_ENCODER_HEAD}weight": torch.zeros(1000, 512), f"{_ENCODER_HEAD}bias": torch.zeros(1000)}
    return {
        _author_name(name, module.options.variant): value for name, value in (encoder | head | own).items()
    }


def _from_author(variant: str, state: State, origin: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    found = _variant_of(state)
    if found != variant:
        raise WeightsError(
            f"{origin} holds the {found} variant of FERAtt, expected {variant}: give --model {VARIANTS[found].network}"
        )
    if variant == "paper":
        state = {_UNET_2018.sub(rf"{_UNET}\g<0>", name): value for name, value in state.items()}
    aliases = {_aliased(name): value for name, value in state.items() if _ALIAS.match(name)}
    own = {
        name: value
        for name, value in state.items()
        if not _ALIAS.match(name) and not name.startswith(_ENCODER_HEAD)
    }
    for name in sorted(aliases.keys() | {name for name in own if _STORED_TWICE.match(name)}):
        if name not in own or name not in aliases or not _same(own[name], aliases[name]):
            first, second = (_author_name(n, variant) for n in (name, _alias_of(name)))
            raise WeightsError(
                f"{origin}: expected the encoder entry {first} a second time as {second} with equal values, found them different or one missing: fetch the file again"
            )
    return asdict(_options(variant, own, origin)), own


def _options(variant: str, own: State, origin: str) -> FERAttOptions:
    inner, head = "netclass.linear.weight", "netclass.classification.weight"
    if inner not in own:
        raise WeightsError(f"{origin} has no classifier ({inner}): give a checkpoint of the whole network")
    width = own[inner].shape[:1].numel()
    if head not in own:
        return FERAttOptions(num_classes=width, embedding=None, variant=variant)
    if not 1 <= width <= _MAX_EMBEDDING:
        raise WeightsError(
            f"{origin} has a representation of {width} values, expected 64, or at most {_MAX_EMBEDDING}: fetch the file again"
        )
    return FERAttOptions(num_classes=own[head].shape[:1].numel(), embedding=width, variant=variant)


def _variant_of(state: State) -> str:
    if "conv2_bn.weight" in state:
        return "2020"
    return "2019" if any(name.startswith(f"{_UNET}conv1.") for name in state) else "paper"


def _alias_of(name: str) -> str:
    """``attention_map.conv2.0.bn1.bias`` → ``attention_map.encoder.layer1.0.bn1.bias``."""
    names = {ours: theirs for theirs, ours in _ENCODER.items()}
    return _STORED_TWICE.sub(lambda match: f"{_UNET}encoder.{names[match[1]]}.", name)


def _aliased(alias: str) -> str:
    return _ALIAS.sub(lambda match: f"{_UNET}{_ENCODER[match[1]]}.", alias)


def _author_name(name: str, variant: str) -> str:
    return name.removeprefix(_UNET) if variant == "paper" else name


def _same(a: Tensor, b: Tensor) -> bool:
    """Equal in every value; NaN counts as equal here, since it is reported later under its own name."""
    return a.dtype == b.dtype and torch.equal(a.nan_to_num(), b.nan_to_num())

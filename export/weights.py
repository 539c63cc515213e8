"""Our weights files: safetensors with the network, its options and its spec in the header."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from fer_edge._utils.checks import is_number
from fer_edge._utils.file_kinds import is_safetensors
from fer_edge._utils.files import sha256_of, text_path, whole_file
from fer_edge._utils.safetensors_header import parse_json, read_safetensors_header
from fer_edge.errors import FerEdgeError, WeightsError
from fer_edge.export.networks import build_network
from fer_edge.manifest import LOGIT_PRIORS, TEMPERATURES, parse_frequencies
from fer_edge.spec import ModelSpec

_HEADER = "fer_edge"
#: What a provenance says about the file that the weights come from.
_FILE = ("weights_sha256", "layout", "container")
#: What a network's constructor can raise for options that make no sense.
_ODD_OPTIONS = (
    KeyError, TypeError, AttributeError, ValueError, IndexError, ArithmeticError, RuntimeError, MemoryError,
)  # fmt: skip
#: Larger than any option of our networks.
_MAX_OPTION = 1 << 16
_MAX_STAGES = 32


@dataclass(frozen=True)
class TrainedNetwork:
    """A network with weights, and what is known about them."""

    module: nn.Module
    spec: ModelSpec
    options: Mapping[str, Any]
    provenance: Mapping[str, Any]  # licence, data, recipe, metrics; weights_sha256 if it comes from a file

    @property
    def temperature(self) -> float:
        """What makes the confidences honest, as fitted on the images held out in training; 1 if none was.

        Raises
        ------
        WeightsError
            If the recorded one is no number in the range of the fit.
        """
        validation = self.provenance.get("validation")
        fitted = validation.get("temperature") if isinstance(validation, Mapping) else None
        if fitted is None:
            return 1.0
        least, most = TEMPERATURES
        if not is_number(fitted) or not least <= fitted <= most:
            raise WeightsError(
                f"the weights record the temperature {fitted!r:.40}, expected a number from {least:g} to {most:g}: fetch or train them again"
            )
        return float(fitted)

    @property
    def class_frequencies(self) -> dict[str, float] | None:
        """Share of each class among the targets that the loss saw; ``None`` for weights that do not record it.

        Raises
        ------
        WeightsError
            If the recorded frequencies do not fit the classes.
        """
        try:
            return parse_frequencies(self.provenance.get("class_frequencies"), self.spec)
        except ValueError as error:
            raise WeightsError(f"the weights cannot be used ({error}): fetch or train them again") from error

    @property
    def logit_prior(self) -> str | None:
        """Prior that the logits imply; ``None`` where unknown."""
        found = self.provenance.get("logit_prior")
        if found not in LOGIT_PRIORS:
            raise WeightsError(f"the weights name an unknown logit_prior {found!r:.40}: train them again")
        return None if self.class_frequencies is None else found

    @property
    def default_prior(self) -> str | None:
        """Weights name none."""
        return None


def save_weights(path: Path, trained: TrainedNetwork) -> None:
    """Write the weights whole or not at all.

    What the provenance says about the file they were loaded from moves into its ``source``. Numbers that are
    not finite, such as a loss that was not measured, are stored as ``null``.
    """
    provenance = {name: value for name, value in trained.provenance.items() if name not in _FILE}
    source = {name: trained.provenance[name] for name in _FILE if name in trained.provenance}
    if source:
        provenance["source"] = source
    header = {
        "spec": trained.spec.to_dict(),
        "options": dict(trained.options),
        "provenance": provenance,
    }
    tensors = {name: value.contiguous() for name, value in trained.module.state_dict().items()}
    with whole_file(path) as part, text_path(part, "wb") as name:
        safetensors.torch.save_file(tensors, name, {_HEADER: json.dumps(_finite(header), allow_nan=False)})


def load_weights(path: Path) -> TrainedNetwork:
    """Build the network that a file describes and fill it; nothing in the file is executed.

    The provenance is that in the file, with the file's own ``weights_sha256``, ``layout`` and ``container``.

    Raises
    ------
    WeightsError
        If the file is missing, damaged, not ours, or does not fit the network it names.
    """
    if not path.is_file():
        raise WeightsError(
            f"weights file {path} does not exist: give --weights a file, or 'random' for timing only"
        )
    try:
        header = parse_json(read_safetensors_header(path).metadata[_HEADER])
        with text_path(path) as name:
            tensors = safetensors.torch.load_file(name)
    except (SafetensorError, KeyError, TypeError, ValueError, OSError, RuntimeError) as error:
        raise WeightsError(
            f"{path} is not a whole FER-Edge weights file ({type(error).__name__}: {error}): fetch or train it again"
        ) from error
    try:
        spec = ModelSpec.from_dict(header["spec"])
        options, provenance = dict(header["options"]), dict(header["provenance"])
        _require_small(options)
        with torch.device("meta"):  # sizes are compared before memory is taken
            module = build_network(spec.network, options)
    except (FerEdgeError, *_ODD_OPTIONS) as error:
        raise WeightsError(
            f"{path} does not describe a network that this version knows ({type(error).__name__}: {error}): fetch or train it again"
        ) from error
    require_fit(module, tensors, str(path))
    module = build_network(spec.network, options)
    fill(module, tensors, str(path))
    found = dict(zip(_FILE, (sha256_of(path), "fer-edge", "safetensors"), strict=True))
    trained = TrainedNetwork(module.eval(), spec, options, provenance | found)
    trained.temperature, trained.class_frequencies, trained.logit_prior  # noqa: B018 - refuses odd values now
    return trained


def is_ours(path: Path) -> bool:
    """Tell a weights file of ours, by its header, from others; so a damaged one is none."""
    if not path.is_file() or not is_safetensors(path):
        return False
    try:
        return _HEADER in read_safetensors_header(path).metadata
    except ValueError:
        return False


def fill(module: nn.Module, state: Mapping[str, Any], origin: str) -> None:
    """Load ``state`` into ``module``; say what is missing, unknown, of another shape or not finite."""
    require_fit(module, state, origin)
    module.load_state_dict(dict(state))
    # NaN and infinity survive a sum; several times as fast as a look at each value.
    sums = {name: value.sum(dtype=torch.float64) for name, value in module.state_dict().items()}
    damaged = [name for name, total in sums.items() if not torch.isfinite(total)]
    if damaged:
        raise WeightsError(
            f"{origin} holds values that are not finite in {len(damaged)} entries (such as {damaged[0]}): fetch or train it again"
        )


def require_fit(module: nn.Module, state: Mapping[str, Any], origin: str) -> None:
    """Refuse a state with missing, unknown or differently shaped entries; say which, and the likely reason."""
    expected = module.state_dict()
    missing = [name for name in expected if name not in state]
    unknown = [name for name in state if name not in expected]
    wrong = [
        f"{name} is {tuple(state[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in expected
        if name in state and state[name].shape != expected[name].shape
    ]
    if missing or unknown or wrong:
        parts = [
            f"{len(group)} {what} (such as {group[0]})"
            for group, what in (
                (missing, "entries missing"),
                (unknown, "unknown entries"),
                (wrong, "wrong shapes"),
            )
            if group
        ]
        if len(missing) > 1:
            parts.append(f"missing are {', '.join(missing[:4])}{', …' if len(missing) > 4 else ''}")
        raise WeightsError(
            f"{origin} does not fit {type(module).__name__}: {'; '.join(parts)}{_reason(missing, unknown, len(expected))}: give weights of this network"
        )


def _reason(missing: list[str], unknown: list[str], expected: int) -> str:
    """Guess why entries do not fit, where it can be told."""
    present = {name.partition(".")[0] for name in unknown}
    lacking = sorted({name.partition(".")[0] for name in missing} - present)
    if missing and unknown:
        return "; it seems to be of another version of the network"
    if len(missing) * 10 >= expected:
        return f"; it seems to be a part of the network, without {', '.join(lacking[:4])}"
    return ""


def _require_small(options: Mapping[str, Any]) -> None:
    """Refuse options that would take a network's constructor long."""
    for name, value in options.items():
        numbers = value if isinstance(value, list) else [value]
        small = all(
            number is None or isinstance(number, str) or (is_number(number) and abs(number) <= _MAX_OPTION)
            for number in numbers
            if not isinstance(number, bool)
        )
        if not small or len(numbers) > _MAX_STAGES:
            raise ValueError(f"the option {name!r:.40} is out of range")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

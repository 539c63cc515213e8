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
from fer_edge.errors import FerEdgeError, WeightsError, without_fix
from fer_edge.export.networks import build_network
from fer_edge.manifest import LOGIT_PRIORS, TEMPERATURES, parse_frequencies
from fer_edge.spec import ModelSpec

_HEADER = "fer_edge"
#: Provenance fields about the file of the weights.
_FILE = ("weights_sha256", "layout", "container")
#: Errors of a network's constructor for invalid options.
_ODD_OPTIONS = (
    KeyError, TypeError, AttributeError, ValueError, IndexError, ArithmeticError, RuntimeError, MemoryError,
)  # fmt: skip
#: Larger than any option of our networks.
_MAX_OPTION = 1 << 16
_MAX_STAGES = 32


@dataclass(frozen=True)
class TrainedNetwork:
    """A network with its weights and their provenance."""

    module: nn.Module
    spec: ModelSpec
    options: Mapping[str, Any]
    provenance: Mapping[str, Any]  # licence, data, recipe, metrics; weights_sha256 if it comes from a file

    @property
    def temperature(self) -> float:
        """Temperature that calibrates the confidences, fitted on the held-out images of training; 1 if none was.

        Raises
        ------
        WeightsError
            If the recorded temperature is not a number in the range of the fit.
        """
        validation = self.provenance.get("validation")
        fitted = validation.get("temperature") if isinstance(validation, Mapping) else None
        if fitted is None:
            return 1.0
        least, most = TEMPERATURES
        if not is_number(fitted) or not least <= fitted <= most:
            raise WeightsError(
                f"the weights record the temperature {fitted!r:.40}, expected a number from {least:g} to {most:g}. Fix: fetch the weights again, or train again."
            )
        return float(fitted)

    @property
    def class_frequencies(self) -> dict[str, float] | None:
        """Share of each class among the targets of the loss; ``None`` for weights that do not record it.

        Raises
        ------
        WeightsError
            If the recorded frequencies do not fit the classes.
        """
        try:
            return parse_frequencies(self.provenance.get("class_frequencies"), self.spec)
        except ValueError as error:
            raise WeightsError(
                f"the weights cannot be used ({error}). Fix: fetch the weights again, or train again."
            ) from error

    @property
    def logit_prior(self) -> str | None:
        """Prior that the logits imply; ``None`` where unknown."""
        found = self.provenance.get("logit_prior")
        if found not in LOGIT_PRIORS:
            raise WeightsError(
                f"the weights name an unknown logit_prior {found!r:.40}. Fix: train again with this version."
            )
        return None if self.class_frequencies is None else found

    @property
    def default_prior(self) -> str | None:
        """None: weights have no default prior."""
        return None


def save_weights(path: Path, trained: TrainedNetwork) -> None:
    """Write the weights completely or not at all.

    Provenance about the file they were loaded from moves into ``source``. NaN and infinite numbers, such as an
    unmeasured loss, are stored as ``null``.
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

    The provenance is read from the file and extended by the file's ``weights_sha256``, ``layout`` and ``container``.

    Raises
    ------
    WeightsError
        If the file is missing, damaged, not ours, or does not fit the network it names.
    """
    if not path.is_file():
        raise WeightsError(
            f"weights file {path} does not exist. Fix: give --weights a file, or 'random' for timing only."
        )
    try:
        header = parse_json(read_safetensors_header(path).metadata[_HEADER])
        with text_path(path) as name:
            tensors = safetensors.torch.load_file(name)
    except (SafetensorError, KeyError, TypeError, ValueError, OSError, RuntimeError) as error:
        raise WeightsError(
            f"{path} is not a complete FER-Edge weights file ({type(error).__name__}: {error}). Fix: fetch the weights again, or train again."
        ) from error
    try:
        spec = ModelSpec.from_dict(header["spec"])
        options, provenance = dict(header["options"]), dict(header["provenance"])
        _require_small(options)
        with torch.device("meta"):  # compare sizes before memory is allocated
            module = build_network(spec.network, options)
    except (FerEdgeError, *_ODD_OPTIONS) as error:
        reason = without_fix(error)
        raise WeightsError(
            f"{path} does not describe a network of this version ({type(error).__name__}: {reason}). Fix: fetch the weights again, or train again."
        ) from error
    require_fit(module, tensors, str(path))
    module = build_network(spec.network, options)
    fill(module, tensors, str(path))
    found = dict(zip(_FILE, (sha256_of(path), "fer-edge", "safetensors"), strict=True))
    trained = TrainedNetwork(module.eval(), spec, options, provenance | found)
    trained.temperature, trained.class_frequencies, trained.logit_prior  # noqa: B018 - refuse invalid values now
    return trained


def is_ours(path: Path) -> bool:
    """Return whether the header is that of a FER-Edge weights file; false for a damaged one."""
    if not path.is_file() or not is_safetensors(path):
        return False
    try:
        return _HEADER in read_safetensors_header(path).metadata
    except ValueError:
        return False


def fill(module: nn.Module, state: Mapping[str, Any], origin: str) -> None:
    """Load ``state`` into ``module``; refuse missing, unknown, differently shaped or non-finite entries."""
    require_fit(module, state, origin)
    module.load_state_dict(dict(state))
    # NaN and infinity survive a sum, which is several times as fast as a test of each value.
    sums = {name: value.sum(dtype=torch.float64) for name, value in module.state_dict().items()}
    damaged = [name for name, total in sums.items() if not torch.isfinite(total)]
    if damaged:
        raise WeightsError(
            f"{origin} has NaN or infinite values in {len(damaged)} entries (such as {damaged[0]}). Fix: fetch the weights again, or train again."
        )


def require_fit(module: nn.Module, state: Mapping[str, Any], origin: str) -> None:
    """Refuse a state with missing, unknown or differently shaped entries; name them and the likely reason."""
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
            f"{origin} does not fit {type(module).__name__}: {'; '.join(parts)}{_reason(missing, unknown, len(expected))}. Fix: give weights of this network."
        )


def _reason(missing: list[str], unknown: list[str], expected: int) -> str:
    """Return the likely reason for a misfit, or an empty text."""
    present = {name.partition(".")[0] for name in unknown}
    lacking = sorted({name.partition(".")[0] for name in missing} - present)
    if missing and unknown:
        return "; it seems to be of another version of the network"
    if len(missing) * 10 >= expected:
        return f"; it seems to be a part of the network, without {', '.join(lacking[:4])}"
    return ""


def _require_small(options: Mapping[str, Any]) -> None:
    """Refuse options so large that the network's constructor would take long."""
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

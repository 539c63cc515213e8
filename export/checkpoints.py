"""Authors' checkpoints: read into our networks, and written back in the same layout.

A file is untrusted: only tensors and plain values are read from it, and no code in it runs.
A layout says how one network's authors name their entries; :data:`LAYOUTS` holds those we know.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fer_edge._files import sha256_of, whole_file
from fer_edge.errors import WeightsError, lookup
from fer_edge.export.networks import NETWORKS, build_network, feratt_layout
from fer_edge.export.networks.resmasking import ResMaskingOptions
from fer_edge.export.weights import TrainedNetwork, fill, load_weights

State = Mapping[str, Tensor]

#: Records that authors leave beside the weights; they are repeated as the file's claims.
_CLAIMS = ("best_val_acc", "best_val_loss", "best_train_acc", "best_train_loss", "test_acc", "best_acc1")


@dataclass(frozen=True)
class Layout:
    """How the authors of one network store it.

    Attributes
    ----------
    signature : str
        An entry that no other network has.
    from_author : callable
        ``(state, origin)`` → options of our network and its state; raises :class:`WeightsError`.
    to_author : callable
        Our module → the authors' state.
    licence : str
        What is known about the licence of published files.
    """

    signature: str
    from_author: Callable[[State, str], tuple[dict[str, Any], dict[str, Tensor]]]
    to_author: Callable[[nn.Module], dict[str, Tensor]]
    licence: str


def load_any(path: Path, network: str) -> TrainedNetwork:
    """Load ``network`` from our ``.safetensors`` file or from its authors' checkpoint.

    Raises
    ------
    WeightsError
        If the file cannot be used, or holds another network.
    UsageError
        If ``network`` is unknown.
    """
    lookup(NETWORKS, network, "network")
    if path.suffix != ".safetensors":
        return load_checkpoint(path, network)
    trained = load_weights(path)
    if trained.spec.network != network:
        raise WeightsError(
            f"{path} holds the network {trained.spec.network}, expected {network}: give --model {trained.spec.network} or another file"
        )
    return trained


def random_network(network: str, seed: int = 0) -> TrainedNetwork:
    """Return ``network`` with random weights, the same for equal seeds: good for timing only.

    Raises
    ------
    UsageError
        If ``network`` is unknown.
    """
    entry = lookup(NETWORKS, network, "network")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = build_network(network)
    provenance = {"network": network, "weights": "random", "paper": entry.paper}
    return TrainedNetwork(module.eval(), entry.spec, {}, provenance)


def load_checkpoint(path: Path, network: str) -> TrainedNetwork:
    """Load an authors' checkpoint: a dict with ``net`` or ``state_dict``, or a bare state dict.

    Returns
    -------
    TrainedNetwork
        In evaluation mode, float32. Its provenance names the file's sha256, layout and licence, and
        repeats the scores that the file claims, which nobody here has measured.

    Raises
    ------
    WeightsError
        If the file is missing, damaged, holds code, belongs to another network or to other classes,
        or holds values that are not finite.
    UsageError
        If ``network`` is unknown.
    """
    entry = lookup(NETWORKS, network, "network")
    spec, layout = entry.spec, _layout(network)
    content = _read(path)
    container, state = _state(content, str(path))
    if layout.signature not in state:
        raise WeightsError(
            f"{path} is not a {network} checkpoint: expected entries such as {layout.signature}, found {', '.join([*state][:3])}: choose the --model that the file is for"
        )
    options, own = layout.from_author(state, str(path))
    if options["num_classes"] != len(spec.class_names):
        raise WeightsError(
            f"{path} has {options['num_classes']} classes, expected the {len(spec.class_names)} of {network} ({', '.join(spec.class_names)}): give weights trained on these"
        )
    with torch.device("meta"):  # no time is spent on random weights
        module = build_network(network, options)
    module.to_empty(device="cpu")
    fill(module, _counters(module) | own, str(path))
    provenance = {
        "network": network,
        "paper": entry.paper,
        "file": path.name,
        "weights_sha256": sha256_of(path),
        "layout": f"{network} authors, {container}",
        "licence": layout.licence,
        "claims": {name: content[name] for name in _CLAIMS if _is_score(content.get(name))},
    }
    return TrainedNetwork(module.eval(), spec, options, provenance)


def save_checkpoint(path: Path, trained: TrainedNetwork, records: Mapping[str, float] | None = None) -> None:
    """Write the authors' layout, whole or not at all: ``net``, and ``records`` such as ``best_val_acc``.

    Raises
    ------
    WeightsError
        If the network's authors published no layout.
    """
    state = to_author_state(trained.module, trained.spec.network)
    with whole_file(path) as part:
        torch.save({**(records or {}), "net": state}, part)


def to_author_state(module: nn.Module, network: str) -> dict[str, Tensor]:
    """Return the state of ``module`` under its authors' names, aliases included."""
    return _layout(network).to_author(module)


def _layout(network: str) -> Layout:
    if network not in LAYOUTS:
        raise WeightsError(
            f"{network} has no authors' checkpoint layout (there is one for {', '.join(LAYOUTS)}): give a .safetensors file"
        )
    return LAYOUTS[network]


def _read(path: Path) -> Mapping[str, Any]:
    """Read the file's tensors and plain values; nothing in it is executed."""
    if not path.is_file():
        raise WeightsError(f"checkpoint {path} does not exist or is no file: give --weights another path")
    size = path.stat().st_size
    if size == 0:
        raise WeightsError(f"{path} is empty, expected a PyTorch checkpoint: fetch it again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle versions: what cannot be read raises
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes can raise anything in the unpickler
        if blocked := re.search(r"GLOBAL (\S+)", str(error)):
            raise WeightsError(
                f"{path} is refused: expected tensors and plain values only, found the object {blocked[1]}, which could run code: get the weights from a source you trust"
            ) from error
        raise WeightsError(
            f"{path} cannot be read ({type(error).__name__}, {size} bytes): expected a whole PyTorch checkpoint: fetch it again"
        ) from error
    if not isinstance(content, dict) or not content:
        raise WeightsError(
            f"{path} holds a {type(content).__name__} of no use, expected a dict with 'net', 'state_dict' or the entries: give a checkpoint"
        )
    return content


def _state(content: Mapping[str, Any], origin: str) -> tuple[str, State]:
    """Return the kind of container and the entries, without ``module.`` of data-parallel training."""
    key = next((k for k in ("net", "state_dict") if k in content), None)
    entries = content if key is None else content[key]
    if not isinstance(entries, Mapping):
        raise WeightsError(
            f"{origin}: {key!r} is a {type(entries).__name__}, expected a dict of tensors: give a checkpoint"
        )
    for name, value in entries.items():
        if not isinstance(name, str) or not _is_plain(value):
            raise WeightsError(
                f"{origin}: entry {name!r} is not a dense tensor of numbers ({type(value).__name__}): give a checkpoint of weights"
            )
    container = "bare state dict" if key is None else f"'{key}'"
    return container, {name.removeprefix("module."): value for name, value in entries.items()}


def _is_plain(value: object) -> bool:
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and (value.is_floating_point() or value.dtype == torch.int64)
    )


def _is_score(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _counters(module: nn.Module) -> dict[str, Tensor]:
    """Batch counters, which files of PyTorch before 0.4.1 lack and inference does not read."""
    names = (name for name in module.state_dict() if name.endswith(".num_batches_tracked"))
    return {name: torch.zeros((), dtype=torch.int64) for name in names}


# Residual Masking Network: each mask shortcut is stored under both names, and the head is fc.1 behind
# dropout, fc without.
_SHORTCUT = re.compile(r"^(mask\d+)\.conv(\d+)\.downsample\.")
_ALIAS = re.compile(r"^(mask\d+)\.downsample(\d+)\.")


def _from_resmasking(state: State, origin: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    own = {name: value for name, value in state.items() if not _ALIAS.match(name)}
    twins = {
        _ALIAS.sub(r"\1.conv\2.downsample.", name): value
        for name, value in state.items()
        if _ALIAS.match(name)
    }
    for name in sorted(twins.keys() | {name for name in own if _SHORTCUT.match(name)}):
        if name not in own or name not in twins or not _same(own[name], twins[name]):
            alias = _SHORTCUT.sub(r"\1.downsample\2.", name)
            raise WeightsError(
                f"{origin}: expected the shortcut {name} a second time as {alias} with equal values, found them different or one missing: fetch the file again"
            )
    plain = "fc.weight" in own and "fc.1.weight" not in own
    if plain:
        own = {re.sub(r"^fc\.", "fc.1.", name): value for name, value in own.items()}
    if "fc.1.weight" not in own:
        raise WeightsError(
            f"{origin} has no classifier (fc.1.weight or fc.weight): give a checkpoint of the whole network"
        )
    options = ResMaskingOptions(num_classes=own["fc.1.weight"].shape[:1].numel())
    return asdict(options) | ({"dropout": 0.0} if plain else {}), own


def _to_resmasking(module: nn.Module) -> dict[str, Tensor]:
    plain = module.get_submodule("fc.0").p == 0
    author: dict[str, Tensor] = {}
    for name, value in module.state_dict().items():
        if _SHORTCUT.match(name):
            author[_SHORTCUT.sub(r"\1.downsample\2.", name)] = value
        author[re.sub(r"^fc\.1\.", "fc.", name) if plain else name] = value
    return author


def _same(a: Tensor, b: Tensor) -> bool:
    """Equal in every value; NaN counts as equal here, since it is reported later under its own name."""
    return a.dtype == b.dtype and torch.equal(a.nan_to_num(), b.nan_to_num())


LAYOUTS: Mapping[str, Layout] = {
    "resmasking": Layout(
        signature="mask1.conv1.conv1.weight",
        from_author=_from_resmasking,
        to_author=_to_resmasking,
        licence="see the authors' repository (code: MIT; no licence is stated for the weights)",
    ),
    **{
        name: Layout(
            signature=feratt_layout.SIGNATURE,
            from_author=from_author,
            to_author=feratt_layout.to_author,
            licence="see the authors' repository (no licence is stated for weights)",
        )
        for name, from_author in (
            ("feratt", feratt_layout.from_author_paper),
            ("feratt-2019", feratt_layout.from_author_2019),
            ("feratt-2020", feratt_layout.from_author_2020),
        )
    },
}

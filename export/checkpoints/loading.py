"""Load a network from a weights file of any format, and save it in the authors' layout."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fer_edge._utils.file_kinds import refuse_foreign
from fer_edge._utils.files import combined_sha256, whole_file
from fer_edge.errors import DataError, UsageError, WeightsError, lookup
from fer_edge.export.checkpoints import dan
from fer_edge.export.checkpoints.author_file import AuthorFile
from fer_edge.export.checkpoints.emotionaldan import AuthorInputs
from fer_edge.export.checkpoints.ensemble import ENSEMBLE, combine
from fer_edge.export.checkpoints.files import read_author_file
from fer_edge.export.checkpoints.layouts import LAYOUTS, describe_layouts, layout_of, recognise
from fer_edge.export.networks import NETWORKS, build_network
from fer_edge.export.weights import TrainedNetwork, fill, is_ours, load_weights
from fer_edge.labels import canonical
from fer_edge.weights.cache import FoundWeights, require_sha256
from fer_edge.weights.request import Request

_NOTHING = AuthorInputs()


def load_any(path: Path, network: str | None, inputs: AuthorInputs = _NOTHING) -> TrainedNetwork:
    """Load ``network`` from our weights file or from its authors' files; the format is recognised by content.

    Parameters
    ----------
    path : Path
        One file; of a TensorFlow checkpoint its prefix or any of its files; for ``resmasking-ensemble`` also
        a folder with the seven members' files, which are recognised by their entries.
    network : str or None
        A key of :data:`~fer_edge.export.networks.NETWORKS`; ``None``: the one that the file holds.
    inputs : AuthorInputs
        Inputs that EmotionalDAN needs beside its checkpoint.

    Raises
    ------
    WeightsError
        If the file cannot be used, or holds another network.
    UsageError
        If ``network`` is unknown, or ``inputs`` are given for a file that does not need them.
    """
    if network is not None:
        lookup(NETWORKS, network, "network")
        if network == ENSEMBLE and path.is_dir():
            _refuse_inputs(path, inputs)
            return combine(path, {file: _load_member(file) for file in _files_in(path)})
    return _load_one(path, network, inputs)


def _load_one(path: Path, network: str | None, inputs: AuthorInputs) -> TrainedNetwork:
    if network != "emotionaldan":
        _refuse_inputs(path, inputs)
    if network is not None and not path.exists():
        layout_of(network)
    refuse_foreign(path)
    if not is_ours(path):
        return load_checkpoint(path, network, inputs)
    _refuse_inputs(path, inputs)
    trained = load_weights(path)
    if network not in (None, trained.spec.network):
        raise WeightsError(
            f"{path} holds the network {trained.spec.network}, expected {network}. Fix: give --model {trained.spec.network}, or another file."
        )
    return trained


def load_found(found: FoundWeights, request: Request, inputs: AuthorInputs = _NOTHING) -> TrainedNetwork:
    """Load weights that :func:`fer_edge.weights.cache.find_weights` has found.

    Returns
    -------
    TrainedNetwork
        Its provenance holds ``weights_sha256``, and of published weights the licence, the remark and the address.

    Raises
    ------
    WeightsError
        If the file cannot be used, changed since it was hashed, or does not have the requested sha256.
    """
    try:
        trained = load_any(found.path, request.network, inputs)
    except WeightsError as error:
        if request.kind != "published":
            raise
        raise WeightsError(
            f"{str(error).removesuffix('.')}, or delete a damaged file to have it downloaded again."
        ) from error
    loaded = trained.provenance["weights_sha256"]
    if found.sha256 is not None and not inputs.given():
        require_sha256(found.path, loaded, found.sha256)  # the file may have been replaced since
    require_sha256(found.path, loaded, request.sha256)
    return dataclasses.replace(trained, provenance={**trained.provenance, **found.provenance})


def _refuse_inputs(path: Path, inputs: AuthorInputs) -> None:
    if inputs.given():
        raise UsageError(
            f"found {inputs.given()[0]}, but only the authors' EmotionalDAN checkpoint takes a canonical shape and image statistics. Fix: leave them out for {path}."
        )


def random_network(network: str, seed: int = 0) -> TrainedNetwork:
    """Return ``network`` with random weights, equal for equal seeds; for timing only.

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


def load_checkpoint(path: Path, network: str | None, inputs: AuthorInputs = _NOTHING) -> TrainedNetwork:
    """Load an authors' checkpoint; without ``network``, the layout is recognised by its entries.

    Returns
    -------
    TrainedNetwork
        In evaluation mode, float32, with the authors' class order. Its provenance names the file's sha256,
        layout, container and licence, and the scores recorded in the file, which FER-Edge has not measured.

    Raises
    ------
    WeightsError
        If the file is missing, damaged, holds code, belongs to another network or to other classes,
        or holds values that are not finite.
    UsageError
        If ``network`` is unknown, or an extra is not installed.
    """
    if network is not None:
        lookup(NETWORKS, network, "network")
        layout_of(network)
    file = read_author_file(path)
    return _convert(file, _network_of(file, network), inputs)


def save_checkpoint(path: Path, trained: TrainedNetwork, records: Mapping[str, float] | None = None) -> None:
    """Write a file in the layout of the network's authors, completely or not at all.

    The entries lie under ``net`` (Residual Masking) or ``state_dict`` (FERAtt), beside ``arch`` and
    ``records`` such as ``best_val_acc`` or ``prec``.

    Raises
    ------
    WeightsError
        If the network's authors published no layout, or one that cannot be written.
    """
    network = trained.spec.network
    state, layout = to_author_state(trained.module, network), layout_of(network)
    described: dict[str, Any] = {"arch": layout.arch}
    if layout.container == "state_dict":
        described |= {
            "imsize": trained.spec.input_height,
            "num_input_channels": trained.spec.channels,
            "num_output_channels": state["netclass.linear.weight"].shape[0],
            "num_classes": len(trained.spec.class_names),
        }
    with whole_file(path) as part:
        torch.save({**described, **(records or {}), layout.container: state}, part)


def to_author_state(module: nn.Module, network: str) -> dict[str, Tensor]:
    """Return the state of ``module`` under its authors' names, aliases included.

    Raises
    ------
    WeightsError
        If the network's authors published no layout, or one that cannot be written.
    """
    write = layout_of(network).to_author
    if write is None:
        raise WeightsError(
            f"the authors' files of {network} ({layout_of(network).container}) can be read but not written. Fix: save a .safetensors file."
        )
    return write(module)


def _check_classes(file: AuthorFile, expected: Sequence[str]) -> None:
    """Refuse a file that names its classes in another order than its layout's authors."""
    for key in ("classes", "class_names", "class_to_idx"):
        stated = file.records.get(key)
        if isinstance(stated, Mapping) and all(isinstance(i, int) for i in stated.values()):
            stated = sorted(stated, key=stated.__getitem__)
        if not isinstance(stated, list | tuple) or not all(isinstance(name, str) for name in stated):
            continue
        if [_canonical(name) for name in stated] != [_canonical(name) for name in expected]:
            raise WeightsError(
                f"{file.path} names its classes {', '.join(stated)[:200]} ({key}), expected the order of the network's "
                f"authors, {', '.join(expected)}. Fix: reorder the rows of its last layer, or train with fer-edge train."
            )


def _canonical(name: str) -> str:
    try:
        return canonical(name)
    except DataError:
        return name.casefold()


def _convert(file: AuthorFile, network: str, inputs: AuthorInputs) -> TrainedNetwork:
    layout, origin = LAYOUTS[network], str(file.path)
    options, own = layout.from_author(file, inputs)
    spec = layout.spec(network, options["num_classes"], origin)
    _check_classes(file, spec.class_names)
    with torch.device("meta"):  # do not initialise random weights
        module = build_network(network, options)
    module.to_empty(device="cpu")
    fill(module, _counters(module) | own, origin)
    extra = {path.name: AuthorFile(path, "", {}, parts=(path,)).sha256() for path in inputs.given()}
    provenance = {
        "network": network,
        "paper": NETWORKS[network].paper,
        "file": file.path.name,
        "weights_sha256": combined_sha256({file.path.name: file.sha256(), **extra}),
        "layout": network,
        "container": file.container,
        "licence": layout.licence if file.licence is None else file.licence,
        "claims": file.claims(),
        **file.changes,
    }
    if extra:
        provenance["extra_inputs"] = extra
    return TrainedNetwork(module.eval(), spec, options, provenance)


def _network_of(file: AuthorFile, network: str | None) -> str:
    """Return the network to fill: the one asked for, if the file is of its layout."""
    found = recognise(file.entries)
    if found is not None and network in (None, found):
        return found
    wanted = network or "a known network"
    signature = "" if network is None else f" (expected {LAYOUTS[network].signature})"
    if dan.is_dan(file.entries):
        looks = "dan, which finds landmarks and no expression. Fix: use fer_edge.export.checkpoints.load_dan"
    elif found is not None:
        looks = f"{found} ({LAYOUTS[found].signature}). Fix: use --model {found}"
    else:
        some = ", ".join(name[:80] for name in [*file.entries][:3]) or "nothing"
        expected = "" if network is None else f"expected entries such as {LAYOUTS[network].signature}, "
        raise WeightsError(
            f"{file.path} ({file.container}) is not a checkpoint of {wanted}: {expected}found {some}{_nearest(file, network)}. Known layouts are {describe_layouts()}, dan ({dan.SIGNATURE}). Fix: give the --model that the file is for."
        )
    raise WeightsError(
        f"{file.path} ({file.container}) is not a checkpoint of {wanted}{signature}. It looks like {looks}"
    )


def _nearest(file: AuthorFile, wanted: str | None) -> str:
    """Name the network that shares most entries with the file, if they are a large part of it."""
    names = set(file.entries)
    best, shared = "", 0
    for network in sorted(LAYOUTS, key=lambda name: name != wanted):  # prefer the requested one
        if LAYOUTS[network].to_author is None:
            continue
        with torch.device("meta"):
            common = len(names & set(to_author_state(build_network(network), network)))
        if common > shared:
            best, shared = network, common
    if shared < max(8, len(names) // 2):
        return ""
    return f" ({shared} of {len(names)} entries are also in {best}, so it may be a part such as the backbone, or another version)"


def _files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def _load_member(path: Path) -> TrainedNetwork:
    refuse_foreign(path)
    if is_ours(path):
        return load_weights(path)
    file = read_author_file(path)
    network = recognise(file.entries)
    if network is None:
        raise WeightsError(
            f"{path} ({file.container}) has no known layout, expected one of {describe_layouts()}. Fix: keep only the members' files in this folder."
        )
    return _convert(file, network, _NOTHING)


def _counters(module: nn.Module) -> dict[str, Tensor]:
    """Return zero batch counters: PyTorch before 0.4.1 did not store them, and inference does not read them."""
    names = (name for name in module.state_dict() if name.endswith(".num_batches_tracked"))
    return {name: torch.zeros((), dtype=torch.int64) for name in names}

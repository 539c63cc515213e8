"""Which weights a command asks for, checked without PyTorch and without the network."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from fer_edge._utils.checks import require_path
from fer_edge._utils.file_kinds import judge_weights
from fer_edge.errors import UsageError, WeightsError, closest, lookup
from fer_edge.models.catalogue import CATALOGUE, SHIPPED, no_weights_ship
from fer_edge.models.published import PUBLISHED, PUBLISHED_FILES, PublishedFile
from fer_edge.weights.http import SHA256

#: Its members' files lie in one folder.
_FROM_FOLDER = "resmasking-ensemble"


@dataclass(frozen=True)
class Request:
    """Which weights are asked for, and found possible before anything is fetched.

    Attributes
    ----------
    network : str
        A key of :data:`fer_edge.models.catalogue.CATALOGUE`.
    kind : {"shipped", "random", "file", "published"}
        Where they come from.
    shipped : str
        For ``shipped``: a key of :data:`fer_edge.models.catalogue.SHIPPED`.
    path : Path
        For ``file``: a file, a folder, or the prefix of a TensorFlow checkpoint.
    files : tuple of PublishedFile
        For ``published``: one, or the members' of an ensemble.
    sha256 : str or None
        What they must have.
    """

    network: str
    kind: str
    shipped: str = ""
    path: Path = Path()
    files: tuple[PublishedFile, ...] = ()
    sha256: str | None = None


def request_weights(
    network: str, weights: str, sha256: str | None = None, author_inputs: bool = False
) -> Request:
    """Return what ``--weights`` asks for, without PyTorch and without the network.

    Parameters
    ----------
    network : str
        A key of :data:`fer_edge.models.catalogue.CATALOGUE`.
    weights : str
        ``auto``, ``random``, a key of :data:`fer_edge.models.catalogue.SHIPPED`, a name in
        :data:`fer_edge.models.published.PUBLISHED_FILES`, or a path.
    sha256 : str, optional
        What the weights must have.
    author_inputs : bool
        Whether a canonical shape or image statistics are given, which only EmotionalDAN's checkpoint needs.

    Raises
    ------
    UsageError
        If a name is unknown, or the request contradicts itself.
    WeightsError
        If the file is missing, or nothing is known of weights of this network.
    """
    lookup(CATALOGUE, network, "model")
    require_path("weights", weights, optional=False)
    weights = os.fspath(weights)
    if sha256 is not None and not (isinstance(sha256, str) and SHA256.fullmatch(sha256.lower())):
        raise UsageError(
            f"weights_sha256 must be 64 hex digits, found {sha256!r:.80}: give what sha256sum prints"
        )
    sha256 = None if sha256 is None else sha256.lower()
    if author_inputs and (network != "emotionaldan" or weights == "random"):
        raise UsageError(
            f"canonical shape and image statistics belong to the authors' EmotionalDAN checkpoint: leave them out for {weights} weights of {network}"
        )
    if weights == "random":
        if sha256 is not None:
            raise UsageError("random weights have no sha256 to compare: leave weights_sha256 out")
        return Request(network, "random")
    if weights == "auto" and network in SHIPPED:
        weights = network
    if weights in SHIPPED:
        if SHIPPED[weights].network != network:
            wanted = SHIPPED[weights].network
            raise UsageError(f"{weights} is of the network {wanted}: give --model {wanted}")
        return Request(network, "shipped", shipped=weights, sha256=sha256)
    if weights == "auto":
        if network not in PUBLISHED:
            raise no_weights_ship(network)
        return Request(network, "published", files=PUBLISHED[network], sha256=sha256)
    path = Path(weights)
    if path.is_dir() and network != _FROM_FOLDER:
        raise WeightsError(
            f"{path} is a folder, which only {_FROM_FOLDER} is loaded from: give --weights a file"
        )
    if weights in PUBLISHED_FILES and not path.exists():
        file = PUBLISHED_FILES[weights]
        if file.network != network:
            raise UsageError(f"{weights} is of the network {file.network}: give --model {file.network}")
        return Request(network, "published", files=(file,), sha256=sha256)
    if not path.exists() and not _is_tensorflow_prefix(path):
        names = ("auto", "random", *SHIPPED, *PUBLISHED_FILES)
        raise WeightsError(
            f"weights file {path} does not exist: give --weights a file, auto, random (for timing only), or one of {', '.join(SHIPPED)}{closest(weights, names)}"
        )
    judge_weights(path, network)
    return Request(network, "file", path=path, sha256=sha256)


def _is_tensorflow_prefix(path: Path) -> bool:
    return path.with_name(f"{path.name}.index").is_file() if path.name else False

"""The request for weights of a command, validated without PyTorch and without network access."""

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

#: The network whose weights are a folder with one file per member.
_FROM_FOLDER = "resmasking-ensemble"


@dataclass(frozen=True)
class Request:
    """A valid request for weights.

    Attributes
    ----------
    network : str
        A key of :data:`fer_edge.models.catalogue.CATALOGUE`.
    kind : {"shipped", "random", "file", "published"}
        Source of the weights.
    shipped : str
        For ``shipped``: a key of :data:`fer_edge.models.catalogue.SHIPPED`.
    path : Path
        For ``file``: a file, a folder, or the prefix of a TensorFlow checkpoint.
    files : tuple of PublishedFile
        For ``published``: one file, or one per ensemble member.
    sha256 : str or None
        Expected sha256.
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
    """Return the request for ``--weights``, validated without PyTorch and without network access.

    Parameters
    ----------
    network : str
        A key of :data:`fer_edge.models.catalogue.CATALOGUE`.
    weights : str
        ``auto``, ``random``, a key of :data:`fer_edge.models.catalogue.SHIPPED`, a name in
        :data:`fer_edge.models.published.PUBLISHED_FILES`, or a path.
    sha256 : str, optional
        Expected sha256 of the weights.
    author_inputs : bool
        ``True`` if a canonical shape or image statistics are given, which only EmotionalDAN's checkpoint needs.

    Raises
    ------
    UsageError
        If a name is unknown, or the request contradicts itself.
    WeightsError
        If the file is missing, or no weights of this network are known.
    """
    lookup(CATALOGUE, network, "model")
    require_path("weights", weights, optional=False)
    weights = os.fspath(weights)
    if sha256 is not None and not (isinstance(sha256, str) and SHA256.fullmatch(sha256.lower())):
        raise UsageError(
            f"weights_sha256 must be 64 hex digits, found {sha256!r:.80}. Fix: give the output of sha256sum"
        )
    sha256 = None if sha256 is None else sha256.lower()
    if author_inputs and (network != "emotionaldan" or weights == "random"):
        raise UsageError(
            "canonical shape and image statistics belong to the authors' EmotionalDAN checkpoint, "
            f"found {weights} weights of {network}. Fix: leave them out"
        )
    if weights == "random":
        if sha256 is not None:
            raise UsageError("random weights have no sha256 to compare. Fix: leave weights_sha256 out")
        return Request(network, "random")
    if weights == "auto" and network in SHIPPED:
        weights = network
    if weights in SHIPPED:
        if SHIPPED[weights].network != network:
            wanted = SHIPPED[weights].network
            raise UsageError(
                f"{weights} are weights of {wanted}, expected weights of {network}. Fix: give --model {wanted}"
            )
        return Request(network, "shipped", shipped=weights, sha256=sha256)
    if weights == "auto":
        if network not in PUBLISHED:
            raise no_weights_ship(network)
        return Request(network, "published", files=PUBLISHED[network], sha256=sha256)
    path = Path(weights)
    if path.is_dir() and network != _FROM_FOLDER:
        raise WeightsError(
            f"{path} is a folder, which only {_FROM_FOLDER} accepts. Fix: give --weights a file"
        )
    if weights in PUBLISHED_FILES and not path.exists():
        file = PUBLISHED_FILES[weights]
        if file.network != network:
            raise UsageError(
                f"{weights} are weights of {file.network}, expected weights of {network}. Fix: give --model {file.network}"
            )
        return Request(network, "published", files=(file,), sha256=sha256)
    if not path.exists() and not _is_tensorflow_prefix(path):
        names = ("auto", "random", *SHIPPED, *PUBLISHED_FILES)
        raise WeightsError(
            f"weights file {path} does not exist. Fix: give --weights a file, auto, random (for timing only), or one of {', '.join(SHIPPED)}{closest(weights, names)}"
        )
    judge_weights(path, network)
    return Request(network, "file", path=path, sha256=sha256)


def _is_tensorflow_prefix(path: Path) -> bool:
    return path.with_name(f"{path.name}.index").is_file() if path.name else False

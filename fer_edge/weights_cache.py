"""The weights that a command asks for: what ships, a file, or what the authors have published, fetched once.

Fetched files lie in ``weights`` in the cache folder. Beside each lies a record of its sha256, made when it is first
used and required ever after; a file that somebody puts there by hand is accepted likewise.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fer_edge._file_kinds import judge_weights
from fer_edge._files import cache_folder, combined_sha256, sha256_of, whole_folder, write_json
from fer_edge._http import SHA256, check_address
from fer_edge.catalogue import CATALOGUE, MODELS_FOLDER, SHIPPED, no_weights_ship
from fer_edge.download import DEFAULT_OPTIONS, DiskError, DownloadOptions, download, only_one, part_of
from fer_edge.errors import DownloadError, UsageError, WeightsError, closest, lookup
from fer_edge.published import PUBLISHED, PUBLISHED_FILES, PublishedFile

Progress = Callable[[str, int, int], None]

MIRROR = "FER_EDGE_WEIGHTS_MIRROR"
OFFLINE = "FER_EDGE_OFFLINE"
_SAID_YES, _SAID_NO = ("1", "true", "yes"), ("", "0", "false", "no")
_BYTES_PER_PARAMETER = 4
_LONGEST_RECORD_BYTES = 64 << 10


@dataclass(frozen=True)
class Request:
    """Which weights are asked for, and found possible before anything is fetched.

    Attributes
    ----------
    network : str
        A key of :data:`fer_edge.catalogue.CATALOGUE`.
    kind : {"shipped", "random", "file", "published"}
        Where they come from.
    shipped : str
        For ``shipped``: a key of :data:`fer_edge.catalogue.SHIPPED`.
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


@dataclass(frozen=True)
class FoundWeights:
    """Weights on this machine.

    Attributes
    ----------
    path : Path
        A file, or a folder with an ensemble's files.
    sha256 : str or None
        What was found now; ``None`` for what is hashed while it is loaded.
    provenance : mapping
        What is known of published files: licence, remark, address.
    """

    path: Path
    sha256: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)


def weights_folder() -> Path:
    """Return the folder of fetched weights; it need not exist."""
    return cache_folder() / "weights"


def request_weights(
    network: str, weights: str, sha256: str | None = None, author_inputs: bool = False
) -> Request:
    """Return what ``--weights`` asks for, without PyTorch and without the network.

    Parameters
    ----------
    network : str
        A key of :data:`fer_edge.catalogue.CATALOGUE`.
    weights : str
        ``auto``, ``random``, a key of :data:`fer_edge.catalogue.SHIPPED`, a name in
        :data:`fer_edge.published.PUBLISHED_FILES`, or a path.
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


def find_weights(
    request: Request,
    on_progress: Progress = lambda stage, done, total: None,
    options: DownloadOptions = DEFAULT_OPTIONS,
) -> FoundWeights:
    """Return the weights that are asked for, fetched if they are published and not here yet.

    Raises
    ------
    DownloadError
        If they cannot be fetched; the message names the addresses, the place for a file from elsewhere, and
        ``--weights FILE``.
    WeightsError
        If a file is not what it was, or not what was asked for.
    """
    if request.kind == "shipped":
        return _checked(FoundWeights(MODELS_FOLDER / f"{request.shipped}.safetensors"), request.sha256)
    if request.kind == "file":
        return _checked(FoundWeights(request.path), request.sha256)
    assert request.kind == "published"
    alone = request.sha256 if len(request.files) == 1 else None
    found = [_published(file, on_progress, alone, options) for file in request.files]
    if len(found) == 1:
        return found[0]
    folder = weights_folder() / request.network
    links = {each.path.name: each.path for each in found}
    with whole_folder(folder) as part:
        for name in links:
            (part / name).symlink_to(Path("..") / name)
    addresses = {each.path.name: each.provenance["address"] for each in found}
    first = request.files[0]
    return FoundWeights(
        folder, None, {"licence": first.licence, "remark": first.remark, "address": addresses}
    )


def cached_weights(sha256: str) -> Path | None:
    """Return the file, or the folder of an ensemble, in the cache that has this sha256 now."""
    folder = weights_folder()
    digests: dict[str, str] = {}
    for record in sorted(folder.glob("*.json")):
        path = record.with_suffix("")
        with contextlib.suppress(WeightsError):
            digests[path.name] = _recorded(path) or ""
        if digests.get(path.name) == sha256 and path.is_file() and sha256_of(path) == sha256:
            return path
    for network, files in PUBLISHED.items():
        members = {file.name: digests.get(file.name, "") for file in files}
        whole = folder / network
        if len(members) > 1 and whole.is_dir() and combined_sha256(members) == sha256:
            found = {path.name: sha256_of(path) for path in whole.iterdir() if path.is_file()}
            return whole if combined_sha256(found) == sha256 else None
    return None


def _published(
    file: PublishedFile, on_progress: Progress, sha256: str | None, options: DownloadOptions
) -> FoundWeights:
    path = weights_folder() / file.name
    least_bytes = _BYTES_PER_PARAMETER * CATALOGUE[file.network].parameters
    try:
        if not path.is_file():
            _fetch(file, path, least_bytes, on_progress, sha256, options)
        size = path.stat().st_size
        if size < least_bytes:
            raise WeightsError(
                f"{path} has {size} bytes, expected at least {least_bytes}: delete it, so that it is fetched again"
            )
        on_progress(f"checking {file.name}", 0, 1)
        found, recorded = sha256_of(path), _recorded(path)
        on_progress(f"checking {file.name}", 1, 1)
        if recorded is not None and found != recorded:
            raise WeightsError(
                f"{path} is not the file it was (its sha256 is {found}, it was {recorded}): delete {path} and {_record_of(path)}, so that it is fetched again"
            )
        if sha256 is not None and found != sha256:
            raise WeightsError(
                f"{path} has the sha256 {found}, expected {sha256}: delete {path} and {_record_of(path)}, or give another weights_sha256"
            )
        if recorded is None:
            _record(path, found, None)
    except OSError as error:
        raise DownloadError(
            f"{path} cannot be read or written ({error.strerror}): set FER_EDGE_CACHE to a folder that can, or give --weights FILE"
        ) from error
    address = _read_record(path).get("address") or "put into the cache by hand"
    return FoundWeights(
        path,
        found,
        {"licence": file.licence, "remark": file.remark, "address": address},
    )


def _fetch(
    file: PublishedFile,
    path: Path,
    least_bytes: int,
    on_progress: Progress,
    sha256: str | None,
    options: DownloadOptions,
) -> None:
    addresses = _addresses(file)
    if _offline():
        raise _not_fetched(
            file, path, f"{OFFLINE} forbids the network, where it is {' and '.join(addresses)}"
        )

    def in_megabytes(stage: str, done: int, total: int) -> None:
        on_progress(f"{stage} (MB)", done // 10**6, total // 10**6)

    def waiting() -> None:
        part = part_of(path)
        arrived = part.stat().st_size if part.is_file() else 0
        on_progress(f"waiting for the process that fetches {file.name} (MB)", arrived // 10**6, 0)

    failures = []
    with only_one(path, waiting):
        if path.is_file():  # another process fetched it meanwhile
            return
        for address in addresses:
            try:
                found = download(
                    address, path, in_megabytes, sha256=sha256, least_bytes=least_bytes, options=options
                )
            except DiskError:
                raise
            except DownloadError as error:
                failures.append(str(error))
            else:
                _record(path, found.sha256, address)
                return
    raise _not_fetched(file, path, "; ".join(failures))


def _not_fetched(file: PublishedFile, path: Path, reason: str) -> DownloadError:
    doubt = "" if file.confirmed else f" (it is not known to be published there: {file.known})"
    return DownloadError(
        f"{file.name}, the weights of {file.network}, cannot be fetched: {reason}{doubt}: put it at {path}, where it is found next time, or give --weights FILE"
    )


def _addresses(file: PublishedFile) -> tuple[str, ...]:
    mirror = os.environ.get(MIRROR, "").strip()
    if not mirror:
        return file.addresses
    try:
        check_address(mirror)
    except UsageError as error:
        raise UsageError(f"{MIRROR}: {error}") from None
    return (mirror.rstrip("/") + file.mirror_path,)


def _offline() -> bool:
    value = os.environ.get(OFFLINE, "").strip().lower()
    if value not in (*_SAID_YES, *_SAID_NO):
        raise UsageError(f"{OFFLINE} must be 1 or 0, found {value!r:.40}: set one of them")
    return value in _SAID_YES


def _checked(found: FoundWeights, expected: str | None) -> FoundWeights:
    """Compare one file before anything reads it; what consists of several is compared by what loads it."""
    if expected is None or not found.path.is_file() or _is_tensorflow_part(found.path):
        return found
    sha256 = sha256_of(found.path)
    require_sha256(found.path, sha256, expected)
    return FoundWeights(found.path, sha256, found.provenance)


def require_sha256(path: Path, found: str | None, expected: str | None) -> None:
    """Refuse weights whose sha256 is not the expected one; ``None`` expects nothing.

    Raises
    ------
    WeightsError
        If it is another.
    """
    if expected is not None and found != expected:
        raise WeightsError(f"{path} has the sha256 {found}, expected {expected}: give the file that has it")


# --- Records ------------------------------------------------------------------------------------------------


def _record_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _record(path: Path, sha256: str, address: str | None) -> None:
    """Write down what a file is; ``address`` is ``None`` for one that was put there by hand."""
    day = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    size = path.stat().st_size
    write_json(_record_of(path), {"sha256": sha256, "size_bytes": size, "address": address, "date": day})


def _read_record(path: Path) -> Mapping[str, Any]:
    record = _record_of(path)
    try:
        with record.open("rb") as file:
            value = json.loads(file.read(_LONGEST_RECORD_BYTES))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or not SHA256.fullmatch(str(value.get("sha256"))):
        raise WeightsError(
            f"{record} does not hold the sha256 of {path.name}: delete it if you trust that file, both if not"
        )
    return value


def _recorded(path: Path) -> str | None:
    found = _read_record(path).get("sha256")
    return None if found is None else str(found)


def _is_tensorflow_prefix(path: Path) -> bool:
    return path.with_name(f"{path.name}.index").is_file() if path.name else False


def _is_tensorflow_part(path: Path) -> bool:
    return path.suffix in (".index", ".meta") or ".data-" in path.name

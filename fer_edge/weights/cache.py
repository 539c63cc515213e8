"""Local weights: shipped, given as a file, or published by the authors and downloaded once.

Downloaded files are stored in ``weights`` in the cache folder, each with a record of its sha256, which is written on
first use and required from then on. A file placed there by hand is accepted in the same way.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fer_edge._utils.files import cache_folder, combined_sha256, sha256_of, whole_folder, write_json
from fer_edge._utils.progress import Progress
from fer_edge.errors import DownloadError, UsageError, WeightsError
from fer_edge.models.catalogue import CATALOGUE, MODELS_FOLDER
from fer_edge.models.published import PUBLISHED, PublishedFile
from fer_edge.weights.download import DEFAULT_OPTIONS, DiskError, DownloadOptions, download, only_one, part_of
from fer_edge.weights.http import SHA256, check_address
from fer_edge.weights.request import Request

MIRROR = "FER_EDGE_WEIGHTS_MIRROR"
OFFLINE = "FER_EDGE_OFFLINE"
_SAID_YES, _SAID_NO = ("1", "true", "yes"), ("", "0", "false", "no")
_BYTES_PER_PARAMETER = 4
_MAX_RECORD_BYTES = 64 << 10


@dataclass(frozen=True)
class FoundWeights:
    """Weights on this machine.

    Attributes
    ----------
    path : Path
        File, or folder with the files of an ensemble.
    sha256 : str or None
        Measured sha256; ``None`` for weights that are hashed while they are loaded.
    provenance : mapping
        Licence, remark and address of published files.
    """

    path: Path
    sha256: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)


def weights_folder() -> Path:
    """Return the folder of downloaded weights, which may not exist."""
    return cache_folder() / "weights"


def find_weights(
    request: Request,
    on_progress: Progress = lambda stage, done, total: None,
    options: DownloadOptions = DEFAULT_OPTIONS,
) -> FoundWeights:
    """Return the requested weights; published ones are downloaded if they are not in the cache.

    Raises
    ------
    DownloadError
        If the download fails; the message names the URLs, the path for a manual download, and ``--weights FILE``.
    WeightsError
        If a file has changed since its first use, or does not match the request.
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
    """Return the cached file, or folder of an ensemble, whose content has this sha256."""
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
                f"{path} has {size} bytes, expected at least {least_bytes}. Fix: delete it, so that it is downloaded again"
            )
        on_progress(f"checking {file.name}", 0, 1)
        found, recorded = sha256_of(path), _recorded(path)
        on_progress(f"checking {file.name}", 1, 1)
        if recorded is not None and found != recorded:
            raise WeightsError(
                f"{path} has changed (its sha256 is {found}, expected {recorded}). "
                f"Fix: delete {path} and {_record_of(path)}, so that it is downloaded again"
            )
        if sha256 is not None and found != sha256:
            raise WeightsError(
                f"{path} has the sha256 {found}, expected {sha256}. Fix: delete {path} and {_record_of(path)}, or give another weights_sha256"
            )
        if recorded is None:
            _record(path, found, None)
    except OSError as error:
        raise DownloadError(
            f"{path} cannot be read or written ({error.strerror}). "
            "Fix: set FER_EDGE_CACHE to a writable folder, or give --weights FILE"
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
        raise _not_fetched(file, path, f"{OFFLINE} forbids network access to {' and '.join(addresses)}")

    def in_megabytes(stage: str, done: int, total: int) -> None:
        on_progress(f"{stage} (MB)", done // 10**6, total // 10**6)

    def waiting() -> None:
        part = part_of(path)
        arrived = part.stat().st_size if part.is_file() else 0
        on_progress(f"waiting for the process that downloads {file.name} (MB)", arrived // 10**6, 0)

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
    doubt = "" if file.confirmed else f" (it is not known to be published there, {file.known})"
    return DownloadError(
        f"{file.name}, the weights of {file.network}, cannot be downloaded: {reason}{doubt}. "
        f"Fix: put the file at {path}, or give --weights FILE"
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
        raise UsageError(f"{OFFLINE} must be 1 or 0, found {value!r:.40}. Fix: set {OFFLINE} to 1 or 0")
    return value in _SAID_YES


def _checked(found: FoundWeights, expected: str | None) -> FoundWeights:
    """Verify the sha256 of a single file before it is read; weights of several files are verified while loading."""
    if expected is None or not found.path.is_file() or _is_tensorflow_part(found.path):
        return found
    sha256 = sha256_of(found.path)
    require_sha256(found.path, sha256, expected)
    return FoundWeights(found.path, sha256, found.provenance)


def require_sha256(path: Path, found: str | None, expected: str | None) -> None:
    """Require the expected sha256; ``None`` accepts any.

    Raises
    ------
    WeightsError
        If it differs.
    """
    if expected is not None and found != expected:
        raise WeightsError(
            f"{path} has the sha256 {found}, expected {expected}. Fix: give the file with this sha256"
        )


def _record_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _record(path: Path, sha256: str, address: str | None) -> None:
    """Record the sha256 and source of a file; ``address`` is ``None`` for a file placed there by hand."""
    day = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    size = path.stat().st_size
    write_json(_record_of(path), {"sha256": sha256, "size_bytes": size, "address": address, "date": day})


def _read_record(path: Path) -> Mapping[str, Any]:
    record = _record_of(path)
    try:
        with record.open("rb") as file:
            value = json.loads(file.read(_MAX_RECORD_BYTES))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or not SHA256.fullmatch(str(value.get("sha256"))):
        raise WeightsError(
            f"{record} does not hold the sha256 of {path.name}. Fix: delete it if you trust that file, otherwise delete both"
        )
    return value


def _recorded(path: Path) -> str | None:
    found = _read_record(path).get("sha256")
    return None if found is None else str(found)


def _is_tensorflow_part(path: Path) -> bool:
    return path.suffix in (".index", ".meta") or ".data-" in path.name

"""Header file of an engine: its key, size and sha256."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from fer_edge._utils.files import write_json
from fer_edge.engines.cache.key import FORMAT_VERSION, EngineKey, is_count, require_sha256
from fer_edge.errors import UsageError

_MAX_HEADER_BYTES = 64 << 10


@dataclass(frozen=True)
class EngineHeader:
    """Content of a header file; ``size`` in bytes."""

    key: EngineKey
    size: int
    sha256: str


def write_header(path: Path, key: EngineKey, engine: Path, mode: int | None = None) -> EngineHeader:
    """Write the header of a finished engine atomically and return it."""
    with engine.open("rb") as file:
        size, digest = _measure(file)
    header = EngineHeader(key, size, digest)
    write_json(path, {"format": FORMAT_VERSION, **asdict(header)}, mode)
    return header


def read_header(path: Path) -> EngineHeader | None:
    """Return a header, ``None`` for a file that is missing or not a valid header."""
    try:
        with open_regular(path) as file:
            data = file.read(_MAX_HEADER_BYTES + 1)
        if len(data) > _MAX_HEADER_BYTES:
            return None
        value = json.loads(data)
        if value["format"] != FORMAT_VERSION or not is_count(value["size"]):
            return None
        require_sha256("engine", value["sha256"])
        return EngineHeader(EngineKey.from_dict(value["key"]), value["size"], value["sha256"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError, UsageError):
        return None


def find_damage(header: EngineHeader, engine: Path) -> str | None:
    """Return the reason why an engine does not match ``header``, ``None`` if it does."""
    try:
        with open_regular(engine) as file:
            found = os.fstat(file.fileno()).st_size
            if found != header.size:
                return f"the engine must have {header.size} bytes, found {found}"
            if _measure(file) != (header.size, header.sha256):
                return "the engine does not match its sha256"
    except OSError as error:
        return f"the engine cannot be read ({error.strerror})"
    return None


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading; raise :class:`OSError` for a link, pipe, device or folder."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(handle, "rb")


def _measure(file: BinaryIO) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    for block in iter(lambda: file.read(1 << 20), b""):
        digest.update(block)
        size += len(block)
    return size, digest.hexdigest()

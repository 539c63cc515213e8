"""The beginning of a file that is being fetched, and what identifies the version of the file that it belongs to."""

from __future__ import annotations

import dataclasses
import errno
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from fer_edge._utils.files import write_json
from fer_edge.errors import DownloadError
from fer_edge.weights.http import SHA256


class DiskError(DownloadError):
    """The folder of the file cannot be written, or is full: another address does not help."""


@dataclass(frozen=True)
class Version:
    """What a server says of a file: its ETag or Last-Modified, its length (0: unknown), and its sha256 if it does."""

    validator: str
    total_bytes: int
    sha256: str | None


def part_of(path: Path) -> Path:
    """Return where the beginning of ``path`` waits to be resumed."""
    return path.with_name(f".{path.name}.part")


class PartialFile:
    """The beginning of ``path``, as it came from ``address``, with a record beside it."""

    def __init__(self, path: Path, address: str) -> None:
        self.path = part_of(path)
        self._whole, self._address = path, address
        self._record = self.path.with_name(f"{self.path.name}.json")

    def size(self) -> int:
        """Return how many bytes have arrived."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def version(self) -> Version | None:
        """Return what the bytes belong to; ``None`` where they cannot be added to from this address."""
        try:
            value = json.loads(self._record.read_text(encoding="utf-8"))
            same = value.pop("address") == self._address
            version = Version(**value)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        usable = (
            isinstance(version.validator, str)
            and version.validator.isprintable()
            and isinstance(version.total_bytes, int)
            and (version.sha256 is None or bool(SHA256.fullmatch(str(version.sha256))))
        )
        return version if same and usable and self.size() else None

    def remember(self, version: Version) -> None:
        """Record what the bytes to come belong to."""
        write_json(self._record, {"address": self._address, **dataclasses.asdict(version)})

    def forget(self) -> None:
        """Delete what has arrived."""
        self.path.unlink(missing_ok=True)
        self._record.unlink(missing_ok=True)

    def finish(self) -> None:
        """Give the file its name."""
        self.path.replace(self._whole)
        self._record.unlink(missing_ok=True)

    def check_space(self, needed_bytes: int, spare_bytes: int) -> None:
        """Refuse to begin what the disk cannot hold.

        Raises
        ------
        DiskError
            If there is too little room.
        """
        free = shutil.disk_usage(self.path.parent).free
        if free < needed_bytes + spare_bytes:
            raise DiskError(
                f"{self.path.parent} has {free / 1e6:.0f} MB free, the file needs {(needed_bytes + spare_bytes) / 1e6:.0f} MB: make room, or set FER_EDGE_CACHE to another folder"
            )


def disk_error(error: OSError, path: Path) -> DiskError:
    """Return the error of a write that failed."""
    what = "the disk is full" if error.errno == errno.ENOSPC else f"it cannot be written ({error.strerror})"
    return DiskError(f"{path}: {what}: make room, or set FER_EDGE_CACHE to another folder")

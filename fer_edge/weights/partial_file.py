"""The received part of a file being downloaded, and the version of the file that it belongs to."""

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
    """The folder of the file is not writable or full; another URL does not help."""


@dataclass(frozen=True)
class Version:
    """Version of a file on a server: its ETag or Last-Modified, length (0: unknown), and sha256 if declared."""

    validator: str
    total_bytes: int
    sha256: str | None


def part_of(path: Path) -> Path:
    """Return the path of the received part of ``path``."""
    return path.with_name(f".{path.name}.part")


class PartialFile:
    """The part of ``path`` received from ``address``, with a record of its version beside it."""

    def __init__(self, path: Path, address: str) -> None:
        self.path = part_of(path)
        self._whole, self._address = path, address
        self._record = self.path.with_name(f"{self.path.name}.json")

    def size(self) -> int:
        """Return the number of received bytes."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def version(self) -> Version | None:
        """Return the version of the received bytes; ``None`` if they cannot be resumed from this address."""
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
        """Record the version of the bytes to be received."""
        write_json(self._record, {"address": self._address, **dataclasses.asdict(version)})

    def forget(self) -> None:
        """Delete the received bytes and their record."""
        self.path.unlink(missing_ok=True)
        self._record.unlink(missing_ok=True)

    def finish(self) -> None:
        """Rename the complete file to its final name."""
        self.path.replace(self._whole)
        self._record.unlink(missing_ok=True)

    def check_space(self, needed_bytes: int, spare_bytes: int) -> None:
        """Require enough free disk space.

        Raises
        ------
        DiskError
            If there is too little space.
        """
        free = shutil.disk_usage(self.path.parent).free
        if free < needed_bytes + spare_bytes:
            raise DiskError(
                f"{self.path.parent} has {free / 1e6:.0f} MB free, the file needs {(needed_bytes + spare_bytes) / 1e6:.0f} MB. Fix: free disk space, or set FER_EDGE_CACHE to another folder"
            )


def disk_error(error: OSError, path: Path) -> DiskError:
    """Return the error of a write that failed."""
    what = "the disk is full" if error.errno == errno.ENOSPC else error.strerror
    return DiskError(
        f"{path} cannot be written ({what}). Fix: free disk space, or set FER_EDGE_CACHE to another folder"
    )

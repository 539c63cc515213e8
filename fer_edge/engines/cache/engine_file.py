"""An engine file, whose bytes that were checked are the bytes that are loaded."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fer_edge.errors import BackendError, EngineError


@dataclass(frozen=True)
class EngineFile:
    """Where an engine lies, and its content.

    Attributes
    ----------
    path : Path
        The file.
    sha256 : str or None
        Of the content that was checked; ``None`` takes the file as it is, for a caller who vouches for it.
    """

    path: Path
    sha256: str | None = None

    def read(self) -> bytes:
        """Return the content.

        Raises
        ------
        BackendError
            If the file cannot be read.
        EngineError
            If it was changed after it was checked.
        """
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise BackendError(f"{self.path} cannot be read: {error.strerror}") from error
        if self.sha256 is not None and (found := hashlib.sha256(content).hexdigest()) != self.sha256:
            raise EngineError(
                f"{self.path} was changed after it was checked: expected sha256 {self.sha256[:12]}…, found {found[:12]}…; "
                "see who writes to that folder, and open the model again"
            )
        return content

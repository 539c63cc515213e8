"""Errors: one base class, and messages that say what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


class FerEdgeError(Exception):
    """Base of every error that FER-Edge raises on purpose.

    The message is one line: what was expected, what was found, what to do.
    """


class UsageError(FerEdgeError):
    """The request itself is wrong: an unknown name, options that contradict each other."""


class MissingExtraError(FerEdgeError):
    """An optional package is not installed; the message names the command that installs it."""


class DataError(FerEdgeError):
    """An image, video, label file or folder cannot be used."""


class WeightsError(FerEdgeError):
    """A weights file is missing, damaged, or belongs to another network."""


class DownloadError(FerEdgeError):
    """A file cannot be fetched: the network, the server, what it sent, or the disk is at fault."""


class BundleError(FerEdgeError):
    """A bundle is incomplete, altered, or of another format version."""


class BackendError(FerEdgeError):
    """A backend is not available or cannot run this bundle."""


class SelfTestError(BackendError):
    """A session computes something else than the reference outputs of its bundle."""


class DetectorError(FerEdgeError):
    """A face detector cannot be loaded."""


class SourceError(FerEdgeError):
    """A camera, video, image or folder cannot be opened or read."""


class UnreadableFilesError(SourceError):
    """Files of a folder could not be read; all others were. Raised after the last of them.

    Attributes
    ----------
    problems : tuple of str
        One for each file.
    """

    def __init__(self, message: str, problems: tuple[str, ...]) -> None:
        super().__init__(message)
        self.problems = problems


class ExportError(FerEdgeError):
    """An exported file does not compute what the network computes."""


class CalibrationError(FerEdgeError):
    """Activation ranges are missing, not finite, or do not fit the network."""


class EngineError(FerEdgeError):
    """An engine cannot be built: the model, the target device, or the memory does not allow it."""


class PluginMissingError(EngineError):
    """The library with the TensorRT plugin is not installed."""


class GateError(FerEdgeError):
    """A measured result missed the bound that the user asked for.

    Attributes
    ----------
    tried : Any
        Figures until then, for the report of a refused build; ``None`` without any.
    """

    def __init__(self, message: str, tried: Any = None) -> None:
        super().__init__(message)
        self.tried = tried


def closest(name: str, choices: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the choice nearest to ``name``, case ignored, or an empty string."""
    names = {choice.casefold(): choice for choice in choices}
    match = difflib.get_close_matches(str(name).casefold(), list(names), n=1, cutoff=0.5)
    return f"; did you mean {names[match[0]]!r}?" if match else ""


def lookup(registry: Mapping[str, T], name: str, what: str) -> T:
    """Return ``registry[name]``, or raise an error that lists the choices and the closest match."""
    if not isinstance(name, str):
        raise UsageError(
            f"{what} must be a name, found {name!r:.60}: choose from {', '.join(sorted(registry))}"
        )
    try:
        return registry[name]
    except KeyError:
        raise UsageError(
            f"unknown {what} {name!r}: choose from {', '.join(sorted(registry))}{closest(name, registry)}"
        ) from None

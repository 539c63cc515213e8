"""Error classes, and helpers for their messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


class FerEdgeError(Exception):
    """Base of every error that FER-Edge raises on purpose.

    The message is one line: a sentence with the expected and the found value, then ``Fix:`` and the remedy.
    """


class UsageError(FerEdgeError):
    """The request is invalid: an unknown name, or options that contradict each other."""


class MissingExtraError(FerEdgeError):
    """An optional package is not installed; the message names the command that installs it."""


class DataError(FerEdgeError):
    """An image, video, label file or folder cannot be used."""


class WeightsError(FerEdgeError):
    """A weights file is missing, damaged, or belongs to another network."""


class DownloadError(FerEdgeError):
    """A file cannot be downloaded, because of the network, the server, its answer, or the disk."""


class BundleError(FerEdgeError):
    """A bundle is incomplete, altered, or of another format version."""


class BackendError(FerEdgeError):
    """A backend is not available or cannot run this bundle."""


class SelfTestError(BackendError):
    """The outputs of a session differ from the reference outputs of its bundle."""


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
    """The outputs of an exported file differ from those of the network."""


class CalibrationError(FerEdgeError):
    """Activation ranges are missing, not finite, or do not fit the network."""


class EngineError(FerEdgeError):
    """An engine cannot be built, because of the model, the target device, or memory."""


class PluginMissingError(EngineError):
    """The TensorRT plugin library is not installed."""


class GateError(FerEdgeError):
    """A measured result missed the bound that the user asked for.

    Attributes
    ----------
    tried : Any
        Measurements up to the failure, for the report of a refused build; ``None`` without any.
    """

    def __init__(self, message: str, tried: Any = None) -> None:
        super().__init__(message)
        self.tried = tried


def without_fix(error: object) -> str:
    """Return the message of an error without its remedy, to be put into a message that has its own."""
    return str(error).partition(". Fix: ")[0]


def closest(name: str, choices: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the choice nearest to ``name``, case ignored, or an empty string."""
    names = {choice.casefold(): choice for choice in choices}
    match = difflib.get_close_matches(str(name).casefold(), list(names), n=1, cutoff=0.5)
    return f" (did you mean {names[match[0]]!r}?)" if match else ""


def lookup(registry: Mapping[str, T], name: str, what: str) -> T:
    """Return ``registry[name]``, or raise a :class:`UsageError` that lists the choices and the closest match."""
    if not isinstance(name, str):
        raise UsageError(
            f"{what} must be a name, found {name!r:.60}. Fix: choose from {', '.join(sorted(registry))}"
        )
    try:
        return registry[name]
    except KeyError:
        raise UsageError(
            f"unknown {what} {name!r}. Fix: choose from {', '.join(sorted(registry))}{closest(name, registry)}"
        ) from None

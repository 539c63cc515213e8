"""Checks of options: numbers in bounds, of the right type, never NaN, and an error that names the option."""

from __future__ import annotations

import math
import os
from collections.abc import Collection
from numbers import Integral, Real
from typing import Any

from fer_edge.errors import FerEdgeError, UsageError

#: Of faces that a command may be asked to use: more than any data set has.
MAX_IMAGES = 10**9
#: Of a processor that one session may use.
MAX_THREADS = 1024


def require_whole(
    name: str,
    value: Any,
    least: int,
    most: int,
    *,
    optional: bool = False,
    error: type[FerEdgeError] = UsageError,
) -> None:
    """Refuse all but a whole number from ``least`` to ``most``; ``True`` is none. ``optional`` allows ``None``."""
    if optional and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, Integral) or not least <= int(value) <= most:
        raise error(
            f"{name} must be {_or_none(optional)}a whole number from {least} to {most}, found {_shown(value)}"
        )


def require_number(
    name: str,
    value: Any,
    least: float,
    most: float,
    *,
    optional: bool = False,
    error: type[FerEdgeError] = UsageError,
) -> None:
    """Refuse all but a finite number from ``least`` to ``most``. ``optional`` allows ``None``."""
    if optional and value is None:
        return
    if not is_number(value) or not least <= value <= most:
        raise error(
            f"{name} must be {_or_none(optional)}a number from {least:g} to {most:g}, found {_shown(value)}"
        )


def require_flag(name: str, value: Any, *, error: type[FerEdgeError] = UsageError) -> None:
    """Refuse all but ``True`` and ``False``."""
    if not isinstance(value, bool):
        raise error(f"{name} must be True or False, found {_shown(value)}")


def require_choice(name: str, value: Any, choices: Collection[str], *, optional: bool = False) -> None:
    """Refuse all but ``choices``. ``optional`` allows ``None``."""
    if optional and value is None:
        return
    if not isinstance(value, str) or value not in choices:
        raise UsageError(
            f"{name} must be {_or_none(optional)}one of {', '.join(choices)}, found {_shown(value)}"
        )


def require_path(name: str, value: Any, *, optional: bool = True) -> None:
    """Refuse all but a path of a file or folder. ``optional`` allows ``None``."""
    if not (isinstance(value, str | os.PathLike) or (optional and value is None)):
        raise UsageError(f"{name} must be {_or_none(optional)}a path, found {_shown(value)}")


def is_number(value: Any) -> bool:
    """Whether ``value`` is a finite number, ``True`` and ``False`` not counted."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond all floating-point ones
        return False


def is_text(value: Any, longest: int) -> bool:
    """Whether ``value`` is printable text of 1 to ``longest`` letters."""
    return isinstance(value, str) and 1 <= len(value) <= longest and value.isprintable()


def _or_none(optional: bool) -> str:
    return "None or " if optional else ""


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"

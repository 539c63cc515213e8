"""Checks of option types and ranges; the error names the option."""

from __future__ import annotations

import math
import os
from collections.abc import Collection
from numbers import Integral, Real
from typing import Any

from fer_edge.errors import FerEdgeError, UsageError

#: Largest number of faces in an option: more than any data set has.
MAX_IMAGES = 10**9
#: Largest number of threads of one session.
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
    """Require a whole number from ``least`` to ``most``, not a bool. ``optional`` allows ``None``."""
    if optional and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, Integral) or not least <= int(value) <= most:
        raise error(_refusal(name, f"a whole number from {least} to {most}", value, optional))


def require_number(
    name: str,
    value: Any,
    least: float,
    most: float,
    *,
    optional: bool = False,
    error: type[FerEdgeError] = UsageError,
) -> None:
    """Require a finite number from ``least`` to ``most``. ``optional`` allows ``None``."""
    if optional and value is None:
        return
    if not is_number(value) or not least <= value <= most:
        raise error(_refusal(name, f"a number from {least:g} to {most:g}", value, optional))


def require_flag(name: str, value: Any, *, error: type[FerEdgeError] = UsageError) -> None:
    """Require ``True`` or ``False``."""
    if not isinstance(value, bool):
        raise error(_refusal(name, "True or False", value))


def require_choice(name: str, value: Any, choices: Collection[str], *, optional: bool = False) -> None:
    """Require one of ``choices``. ``optional`` allows ``None``."""
    if optional and value is None:
        return
    if not isinstance(value, str) or value not in choices:
        raise UsageError(_refusal(name, f"one of {', '.join(choices)}", value, optional))


def require_path(name: str, value: Any, *, optional: bool = True) -> None:
    """Require a path of a file or folder. ``optional`` allows ``None``."""
    if not (isinstance(value, str | os.PathLike) or (optional and value is None)):
        raise UsageError(_refusal(name, "a path", value, optional))


def is_number(value: Any) -> bool:
    """Return ``True`` if ``value`` is a finite number and not a bool."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an int beyond the range of float
        return False


def is_text(value: Any, longest: int) -> bool:
    """Return ``True`` if ``value`` is printable text of 1 to ``longest`` characters."""
    return isinstance(value, str) and 1 <= len(value) <= longest and value.isprintable()


def _refusal(name: str, expected: str, value: Any, optional: bool = False) -> str:
    text = repr(value)
    found = text if len(text) <= 60 else f"{text[:60]}…"
    return f"{name} must be {'None or ' if optional else ''}{expected}, found {found}. Fix: change {name}"

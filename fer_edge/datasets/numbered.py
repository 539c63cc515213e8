"""Numbered classes, whose order is never guessed."""

from __future__ import annotations

import re
from collections.abc import Collection

from fer_edge.errors import DataError, UsageError
from fer_edge.labels import canonical

_NUMBER = re.compile("[0-9]{1,3}")


def parse_class_order(text: str | None) -> tuple[str, ...]:
    """Return the canonical names of ``"angry,disgust,…"``; empty for ``None``.

    Raises
    ------
    UsageError
        If a name is not an expression, or occurs twice.
    """
    if text is None:
        return ()
    try:
        order = tuple(canonical(name) for name in text.split(","))
    except DataError as error:
        raise UsageError(f"class_order: {error}") from error
    if len(set(order)) != len(order):
        raise UsageError(
            f"class_order names a class twice, found {', '.join(order)}. Fix: name each class once"
        )
    return order


def is_number(name: str) -> bool:
    """Return ``True`` if a class is given only as a number."""
    return _NUMBER.fullmatch(name.strip()) is not None


def names_of_numbers(numbers: Collection[str], order: tuple[str, ...], where: str) -> dict[str, str]:
    """Return the class name of each number, counted from 0 or from 1.

    Raises
    ------
    DataError
        If no order is given, a number is out of its range, or the first number, 0 or 1, is ambiguous.
    """
    found = sorted({int(number) for number in numbers})
    listed = ", ".join(map(str, found[:10])) + (", …" if len(found) > 10 else "")
    if not order:
        raise DataError(
            f"the classes of {where} are numbered {listed}, and data sets number them differently. Fix: give their names "
            "in that order, such as --class-order angry,disgust,fear,happy,sad,surprise,neutral (class_order in Python), or "
            "rename the classes, such as 0_angry"
        )
    count = len(order)
    starts = [start for start in (0, 1) if found[0] >= start and found[-1] < count + start]
    if not starts:
        raise DataError(
            f"class_order has {count} names for {where}, expected classes 0 to {count - 1} or 1 to {count}, found {listed}. "
            "Fix: name every class"
        )
    if len(starts) == 2:
        raise DataError(
            f"neither class 0 nor class {count} occurs in {where} (found {listed}), so it is unknown whether numbers begin at "
            f"0 or 1. Fix: rename the classes, such as {found[0]}_{order[0]}"
        )
    return {number: order[int(number) - starts[0]] for number in numbers}

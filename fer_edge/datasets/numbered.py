"""Classes that are numbered: their order is never guessed."""

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
        If a name is no expression, or is there twice.
    """
    if text is None:
        return ()
    try:
        order = tuple(canonical(name) for name in text.split(","))
    except DataError as error:
        raise UsageError(f"class_order: {error}") from error
    if len(set(order)) != len(order):
        raise UsageError(f"class_order names a class twice: {', '.join(order)}")
    return order


def is_number(name: str) -> bool:
    """Return whether a class is given as a number alone."""
    return _NUMBER.fullmatch(name.strip()) is not None


def names_of_numbers(numbers: Collection[str], order: tuple[str, ...], where: str) -> dict[str, str]:
    """Return the name of each number that stands for a class, counted from 0 or from 1.

    Raises
    ------
    DataError
        If no order is given, a number lies beyond it, or it cannot be told whether counting begins at 0 or 1.
    """
    found = sorted({int(number) for number in numbers})
    listed = ", ".join(map(str, found[:10])) + (", …" if len(found) > 10 else "")
    if not order:
        raise DataError(
            f"{where}: the classes are numbered {listed}, and data sets number them differently: give their names in that "
            "order, such as --class-order angry,disgust,fear,happy,sad,surprise,neutral (class_order in Python), or write "
            "them where the numbers stand, such as 0_angry"
        )
    count = len(order)
    starts = [start for start in (0, 1) if found[0] >= start and found[-1] < count + start]
    if not starts:
        raise DataError(
            f"{where}: class_order has {count} names, expected classes 0 to {count - 1} or 1 to {count}, found {listed}"
        )
    if len(starts) == 2:
        raise DataError(
            f"{where}: neither class 0 nor class {count} occurs, so that it is unknown where counting begins (found "
            f"{listed}): write the names, such as {found[0]}_{order[0]}"
        )
    return {number: order[int(number) - starts[0]] for number in numbers}

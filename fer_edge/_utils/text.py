"""Text of files and devices that anybody may have written, for messages."""

from __future__ import annotations


def printable(text: str, max_chars: int = 100) -> str:
    """Return the beginning of ``text``, with ``?`` for every character that cannot be printed."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:max_chars])

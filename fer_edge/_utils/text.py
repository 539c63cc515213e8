"""Untrusted text of files and devices, made printable for messages."""

from __future__ import annotations


def printable(text: str, max_chars: int = 100) -> str:
    """Return the beginning of ``text``, with ``?`` for every non-printable character."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:max_chars])

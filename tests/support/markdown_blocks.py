"""Fenced code blocks of Markdown pages, and the reason why one is not run."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from fer_edge.cli import COMMANDS, make_parser

_FENCED = re.compile(
    r"^(?:<!-- not run: (?P<reason>\S[^\n]*) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """One block; ``reason`` is the text of ``<!-- not run: REASON -->`` on the line before, ``None`` without."""

    name: str
    language: str
    text: str
    reason: str | None


def blocks_of(page: Path, root: Path) -> list[Block]:
    """Return the blocks of ``page``, named by its path below ``root`` and their line."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            name=f"{page.relative_to(root)}:{text.count(chr(10), 0, match.start('text'))}",
            language=match["language"],
            text=match["text"],
            reason=match["reason"],
        )
        for match in _FENCED.finditer(text)
    ]


def require_parses(commands: str) -> None:
    """Parse every line that begins with ``fer-edge``; an error of usage ends the test."""
    for line in re.findall(r"^fer-edge .*$", commands.replace("\\\n", " "), re.MULTILINE):
        words = shlex.split(line, comments=True)[1:]
        assert make_parser(words).parse_args(words).command in COMMANDS

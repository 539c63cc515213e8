"""The README names commands, files and classes that exist."""

from __future__ import annotations

import re

import pytest
from markdown_blocks import require_parses
from places import ROOT

from fer_edge import cli
from fer_edge.cli import COMMANDS
from fer_edge.models.catalogue import CATALOGUE

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_command_is_in_the_table() -> None:
    assert set(re.findall(r"^\| `fer-edge (\w+)", README, re.MULTILINE)) == set(COMMANDS)


@pytest.mark.parametrize("line", re.findall(r"^fer-edge .*$", README, re.MULTILINE))
def test_command_lines_parse(line: str) -> None:
    require_parses(line)


def test_the_exit_codes_are_those_of_the_command_line() -> None:
    rows = re.findall(r"^\| (\d[\d, ]*) \|", README, re.MULTILINE)
    shown = {int(code) for row in rows for code in row.split(", ")}
    assert shown == {int(code) for code in re.findall(r"^(\d+) {2,}", cli.__doc__ or "", re.MULTILINE)}


def test_every_network_is_in_the_table() -> None:
    cells = re.findall(r"^\| (`[^|]*`) \|", README, re.MULTILINE)
    assert {name for cell in cells for name in re.findall(r"`([\w-]+)`", cell)} >= set(CATALOGUE)


def test_python_in_the_readme_compiles() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        compile(block, "README.md", "exec")


def test_ci_runs_the_test_command_of_the_readme() -> None:
    assert README.count("<!-- test command -->") == 1
    assert "README.md" in (ROOT / ".ci" / "run").read_text()

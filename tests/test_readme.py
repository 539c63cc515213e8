"""The README is short, and its commands, code and links hold."""

from __future__ import annotations

import re

import pytest
from markdown_blocks import require_parses
from places import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_it_is_short() -> None:
    assert README.count("\n") < 120


@pytest.mark.parametrize("line", re.findall(r"^fer-edge .*$", README, re.MULTILINE))
def test_command_lines_parse(line: str) -> None:
    require_parses(line)


def test_python_in_the_readme_compiles() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        compile(block, "README.md", "exec")


@pytest.mark.parametrize(
    "target", re.findall(r"\]\((?!https?:)([^)#]+)", README) + re.findall(r'src="([^"]+)"', README)
)
def test_links_lead_to_files(target: str) -> None:
    assert (ROOT / target).is_file()


def test_the_set_up_commands_are_marked() -> None:
    for name in ("demo", "test"):
        assert len(re.findall(rf"<!-- {name} command -->\n```\npython3 ", README)) == 1


def test_ci_runs_the_test_command_of_the_readme() -> None:
    assert "README.md" in (ROOT / ".ci" / "run").read_text()

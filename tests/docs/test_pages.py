"""Pages say what the code says: generated parts, names, variables; and the site builds without a warning."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

import fer_edge
from fer_edge.models.catalogue import CATALOGUE, SHIPPED

DOCS = ROOT / "docs"
CONFIGURATION = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
#: Made for C++ and CMake alone, or for the tests.
INTERNAL = {"FER_EDGE_ARCHITECTURES", "FER_EDGE_DYNAMIC_SHARED", "FER_EDGE_EMULATION", "FER_EDGE_EXPORT"}


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def test_generated_parts_are_of_this_code_and_these_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(DOCS)
    generate = importlib.import_module("generate")
    pages = {path.name: path.read_text(encoding="utf-8") for path in DOCS.glob("*.md")}
    for name, text in pages.items():
        assert text == generate.generated(text), f"{name}: run python docs/generate.py"
    for name, text in generate.model_cards().items():
        assert page(name) == text, f"{name}: run python docs/generate.py"
    for part in generate.PARTS:
        assert sum(f"<!-- {part} -->\n\n" in text for text in pages.values()) == 1


def test_every_page_is_in_the_navigation() -> None:
    names = re.findall(r"(\S+\.md)$", CONFIGURATION, re.MULTILINE)
    assert sorted(names) == sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))


def test_every_public_name_has_a_reference() -> None:
    names = set(re.findall(r"^::: fer_edge\.(\w+)", page("api.md"), re.MULTILINE))
    assert names == set(fer_edge.__all__) - {"__version__"}


def test_every_network_and_every_shipped_model_has_a_page() -> None:
    assert set(re.findall(r"`([\w-]+)`", page("networks/index.md"))) >= set(CATALOGUE)
    assert {path.stem for path in (DOCS / "models").iterdir()} == set(SHIPPED)


def test_every_environment_variable_is_explained() -> None:
    sources = [ROOT / "CMakeLists.txt", ROOT / "pyproject.toml"]
    sources += [
        path
        for folder in ("fer_edge", "calibration", "export", "kernels")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".cpp", ".cu", ".cuh", ".hpp", ".txt")
    ]
    used = {
        name
        for path in sources
        for name in re.findall(r"FER_EDGE_[A-Z_]+[A-Z]", path.read_text(encoding="utf-8"))
    }
    explained = set(re.findall(r"^\| `(FER_EDGE_\w+)`", page("environment.md"), re.MULTILINE))
    assert explained == used - INTERNAL


def test_the_site_builds_strictly(tmp_path: Path) -> None:
    """In a copy, as the site is written beside its configuration."""
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    shutil.copytree(DOCS, tmp_path / "docs")
    (tmp_path / "fer_edge").symlink_to(ROOT / "fer_edge")
    result = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    site = tmp_path / "build" / "site"
    reference = (site / "api.html").read_text(encoding="utf-8")
    assert "min_probability" in reference  # of a docstring
    assert ":class:" not in reference
    assert not list(site.rglob("*.py"))
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        # A link may lead elsewhere; nothing else is loaded from there, and the theme would fetch Mermaid.
        loaded = re.findall(r"<(?!a\b)[^>]*\b(?:src|href)=[\"']?((?:https?:)?//[^\"' >]+)", text)
        assert loaded == [], path.name
        assert 'class="mermaid"' not in text
    for path in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(https?:)?//|@import", path.read_text(encoding="utf-8")), path.name

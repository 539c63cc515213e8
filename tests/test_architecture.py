"""Imports run down the layers without a circle, and the page on the architecture shows them as they are."""

from __future__ import annotations

import importlib
import itertools
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest
from places import ROOT

SVG = "{http://www.w3.org/2000/svg}"


def test_imports_run_down_and_in_no_circle() -> None:
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache", ROOT / "pyproject.toml"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[result.stdout.find("Contracts") :] + result.stderr
    assert "2 kept, 0 broken" in result.stdout


@pytest.fixture
def draw(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "docs")
    return importlib.import_module("draw_imports")


def test_picture_and_table_are_of_this_code(draw: ModuleType) -> None:
    page = draw.PAGE.read_text(encoding="utf-8")
    assert page == draw.written(page), "run: python docs/draw_imports.py"
    picture = draw.PICTURE.read_text(encoding="utf-8")
    assert picture == draw.picture(), "run: python docs/draw_imports.py"
    assert f"]({draw.PICTURE.relative_to(draw.PAGE.parent)})" in page
    assert sorted(room for rooms in draw.GROUPS.values() for room in rooms) == sorted(draw.layers())


def test_the_picture_shows_every_room_and_its_arrows_point_down(draw: ModuleType) -> None:
    root = ElementTree.fromstring(draw.PICTURE.read_text(encoding="utf-8"))
    names = [node.text for node in root.iter(f"{SVG}text") if node.get("class") is None]
    assert sorted(names) == sorted(draw.layers())
    paths = [node.get("d") for node in root.iter(f"{SVG}path") if node.get("class") == "edge"]
    assert len(paths) > 30
    for path in paths:
        heights = [float(point) for point in re.findall(r"(?:M\S+ |V|C\S+ \S+ \S+ \S+ \S+ )([\d.]+)", path)]
        assert heights == sorted(heights)
        assert len(heights) >= 2
    boxes: dict[str, list[tuple[float, float]]] = {}
    for node in root.iter(f"{SVG}rect"):
        if node.get("height") == "24":
            left = float(node.attrib["x"])
            boxes.setdefault(node.attrib["y"], []).append((left, left + float(node.attrib["width"])))
    assert sum(map(len, boxes.values())) == len(names)
    for row in boxes.values():
        row.sort()
        assert all(right < left for (_, right), (left, _) in itertools.pairwise(row))

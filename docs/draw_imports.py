"""Writes ``images/imports.svg`` and the table of rooms in ``architecture.md`` from the code: ``python docs/draw_imports.py``.

A room is a module or a package directly below ``fer_edge``. The order of the layers is the one in ``pyproject.toml``,
which ``lint-imports`` holds. An arrow that follows from others is left out: where A imports B and B imports C, an
import of C by A is not drawn.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import grimp
import layered_drawing

PACKAGE = "fer_edge"
PAGE = Path(__file__).with_name("architecture.md")
PICTURE = PAGE.parent / "images" / "imports.svg"
PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
#: Rooms of one colour in the picture; together they are the layers.
GROUPS = {
    "Commands": ("cli", "commands"),
    "Bundles": ("builder", "export", "calibration"),
    "Device": (
        "doctor", "runtime", "tracking", "explanation", "evaluation", "weights", "sinks", "sources", "datasets",
    ),
    "Computation": ("models", "detection", "quality", "drawing", "backends", "synthetic", "engines", "cuda", "system"),
    "Data types": (
        "outputs", "bundle", "manifest", "probabilities", "preprocess", "frames", "levels", "spec", "results", "heatmaps",
        "labels", "_utils", "errors",
    ),
}  # fmt: skip


def layers() -> tuple[str, ...]:
    """Return the rooms from top to bottom, as pyproject.toml orders them; tomllib is not in Python 3.10."""
    (block,) = re.findall(r"^layers = \[\n(.*?)^\]", PYPROJECT.read_text(encoding="utf-8"), re.M | re.S)
    return tuple(re.findall(r'"([^"]+)"', block))


def imports_of_rooms(rooms: Sequence[str]) -> dict[str, set[str]]:
    """Return room → rooms below that it imports, imports for types included.

    The few upward ones that pyproject.toml allows, for methods that import when they are called, are left out.
    """
    order = {room: index for index, room in enumerate(layers())}
    graph = grimp.build_graph(PACKAGE, cache_dir=None)
    for room in rooms:
        if graph.find_children(f"{PACKAGE}.{room}"):
            graph.squash_module(f"{PACKAGE}.{room}")
    prefix = f"{PACKAGE}."
    return {
        room: {
            name.removeprefix(prefix)
            for name in graph.find_modules_directly_imported_by(prefix + room)
            if name.removeprefix(prefix) in rooms and order[name.removeprefix(prefix)] > order[room]
        }
        for room in rooms
    }


def without_implied(arrows: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Leave out each arrow to a room that is reached through another arrow."""
    below: dict[str, set[str]] = {}
    for room in reversed(layers()):  # those that it imports come first
        below[room] = arrows[room].union(*(below.get(other, set()) for other in arrows[room]))
    return {
        room: {b for b in others if not any(b in below[a] for a in others - {b})}
        for room, others in arrows.items()
    }


def picture() -> str:
    """Return the picture of the imports as SVG."""
    arrows = without_implied(imports_of_rooms(layers()))
    return layered_drawing.draw(arrows, GROUPS, "Imports between the rooms of FER-Edge")


def table(rooms: Sequence[str]) -> str:
    """Return a Markdown table with the first line of each room's docstring."""
    lines = ["| room | purpose |", "|---|---|"]
    for room in rooms:
        spec = find_spec(f"{PACKAGE}.{room}")
        assert spec is not None
        assert spec.origin is not None
        text = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
        lines.append(f"| `{room}` | {text.splitlines()[0].replace('``', '`')} |")
    return "\n".join(lines)


def written(page: str) -> str:
    """Return the text of the page with the table as the code is now."""
    marked = re.compile(r"(<!-- rooms -->\n).*?(<!-- end of rooms -->)", re.S)
    return marked.sub(lambda m: f"{m[1]}{table(layers())}\n{m[2]}", page)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    PICTURE.write_text(picture(), encoding="utf-8")

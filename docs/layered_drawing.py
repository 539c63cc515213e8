"""Drawing of an acyclic graph in levels, as SVG: every arrow points down.

Steps of Sugiyama, Tagawa and Toda, "Methods for Visual Understanding of Hierarchical System Structures" (1981):
a node lies one level below the lowest node with an arrow to it; an arrow over several levels gets a bend on each; the
nodes of a level are sorted by the mean position of their neighbours. The result is a function of the input alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from html import escape
from math import fsum

#: Pixels.
_NODE_HEIGHT, _LEVEL_HEIGHT, _GAP, _CHARACTER_WIDTH, _MARGIN = 24, 58, 14, 7.3, 12
_SWEEPS = 24
_STYLE = """
  .page { fill: #fff } .legend, text { fill: #1c2b2a } .edge { fill: none; stroke: #7d8f8d }
  marker path { fill: #7d8f8d } rect.node { stroke: #7d8f8d } text { font: 12px ui-monospace, monospace }
  .legend { font-family: system-ui, sans-serif }
  .group0 { fill: #ffe0b2 } .group1 { fill: #f8c9d4 } .group2 { fill: #b2dfdb } .group3 { fill: #bbdefb } .group4 { fill: #e3e3e3 }
  @media (prefers-color-scheme: dark) {
    .page { fill: #1e2129 } .legend, text { fill: #e6ecec } .edge, rect.node { stroke: #8b9c9a } marker path { fill: #8b9c9a }
    .group0 { fill: #6b4a16 } .group1 { fill: #6d2f40 } .group2 { fill: #14534d } .group3 { fill: #1c4468 } .group4 { fill: #414651 }
  }
"""


def levels_of(arrows: Mapping[str, set[str]]) -> dict[str, int]:
    """Return node → level, 0 at the top: the number of arrows of the longest path that ends there."""
    levels: dict[str, int] = {}
    above = {node: {a for a, others in arrows.items() if node in others} for node in arrows}

    def level(node: str) -> int:
        if node not in levels:
            levels[node] = 1 + max((level(other) for other in above[node]), default=-1)
        return levels[node]

    for node in arrows:
        level(node)
    return levels


def draw(arrows: Mapping[str, set[str]], groups: Mapping[str, Sequence[str]], title: str) -> str:
    """Return an SVG document.

    Parameters
    ----------
    arrows : mapping of str to set of str
        Node → nodes that its arrows point to; every node is a key. The graph has no circle.
    groups : mapping of str to sequence of str
        Title of each group → its nodes, which share a colour; at most five.
    title : str
        Title for screen readers.
    """
    rows, chains = _rows(arrows)
    _sort(rows, chains)
    centres = _centres(rows, chains)
    left = min(centres[node] - _width(node) / 2 for row in rows for node in row) - _MARGIN
    centres = {node: x - left for node, x in centres.items()}
    width = max(x + _width(node) / 2 for node, x in centres.items()) + _MARGIN
    top = {node: _MARGIN + 26 + _LEVEL_HEIGHT * i for i, row in enumerate(rows) for node in row}
    height = max(top.values()) + _NODE_HEIGHT + _MARGIN
    colour = {node: i for i, nodes in enumerate(groups.values()) for node in nodes}
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{_STYLE}</style>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z"/></marker></defs>',
        f'<rect class="page" width="{width:.0f}" height="{height:.0f}"/>',
        *_legend(groups),
    ]
    lines += [_edge(chain, centres, top) for chain in chains]
    for node in arrows:
        x, y = centres[node], top[node]
        box = f'x="{x - _width(node) / 2:.1f}" y="{y}" width="{_width(node):.1f}" height="{_NODE_HEIGHT}" rx="4"'
        lines.append(
            f'<rect class="node group{colour[node]}" {box}/>'
            f'<text x="{x:.1f}" y="{y + 16}" text-anchor="middle">{escape(node)}</text>'
        )
    return "\n".join([*lines, "</svg>", ""])


def _is_bend(node: str) -> bool:
    return "→" in node


def _width(node: str) -> float:
    return 2.0 if _is_bend(node) else len(node) * _CHARACTER_WIDTH + 16


def _rows(arrows: Mapping[str, set[str]]) -> tuple[list[list[str]], list[list[str]]]:
    """Return the nodes and bends of every level, and each arrow as the chain of its nodes and bends."""
    levels = levels_of(arrows)
    rows: list[list[str]] = [[] for _ in range(1 + max(levels.values()))]
    for node in arrows:
        rows[levels[node]].append(node)
    chains = []
    for a in arrows:
        for b in sorted(arrows[a]):
            bends = [f"{a}→{b} {level}" for level in range(levels[a] + 1, levels[b])]
            for level, bend in enumerate(bends, levels[a] + 1):
                rows[level].append(bend)
            chains.append([a, *bends, b])
    return rows, chains


def _neighbours(chains: Sequence[Sequence[str]]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    above: dict[str, list[str]] = {}
    below: dict[str, list[str]] = {}
    for chain in chains:
        for a, b in itertools.pairwise(chain):
            below.setdefault(a, []).append(b)
            above.setdefault(b, []).append(a)
    return above, below


def _crossings(rows: Sequence[Sequence[str]], below: Mapping[str, list[str]]) -> int:
    """Return the number of pairs of arrow parts that cross."""
    count = 0
    for row, lower in itertools.pairwise(rows):
        place = {node: i for i, node in enumerate(lower)}
        parts = [(i, place[other]) for i, node in enumerate(row) for other in below.get(node, [])]
        count += sum((a - c) * (b - d) < 0 for n, (a, b) in enumerate(parts) for c, d in parts[:n])
    return count


def _sort(rows: list[list[str]], chains: Sequence[Sequence[str]]) -> None:
    """Order every level by the mean place of its neighbours, alternating downwards and upwards; keep the best order."""
    above, below = _neighbours(chains)
    best, fewest = [list(row) for row in rows], _crossings(rows, below)
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        neighbours = above if down else below
        order = range(1, len(rows)) if down else range(len(rows) - 2, -1, -1)
        for i in order:
            place = {node: n / len(row) for row in rows for n, node in enumerate(row)}
            rows[i].sort(key=lambda node: _mean([place[o] for o in neighbours.get(node, [])], place[node]))
        crossings = _crossings(rows, below)
        if crossings < fewest:
            best, fewest = [list(row) for row in rows], crossings
    rows[:] = best


def _mean(values: Sequence[float], otherwise: float) -> float:
    return fsum(values) / len(values) if values else otherwise


def _centres(rows: Sequence[Sequence[str]], chains: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return node or bend → centre, pixels: near its neighbours, and without overlap in a level."""
    above, below = _neighbours(chains)
    centres: dict[str, float] = {}
    for row in rows:
        x = 0.0
        for node in row:
            centres[node] = x + _width(node) / 2
            x += _width(node) + _GAP
        centres.update({node: centres[node] - x / 2 for node in row})
    for _ in range(60):
        for row in [*rows, *reversed(rows)]:
            wanted = [
                _mean([centres[o] for o in above.get(node, []) + below.get(node, [])], centres[node])
                for node in row
            ]
            centres.update(zip(row, _apart(wanted, [_width(node) for node in row]), strict=True))
    return centres


def _apart(wanted: Sequence[float], widths: Sequence[float]) -> list[float]:
    """Return centres in the same order, at least a gap apart: the mean of pushing to the right and to the left."""
    right, left = list(wanted), list(wanted)
    for i in range(1, len(wanted)):
        right[i] = max(right[i], right[i - 1] + (widths[i - 1] + widths[i]) / 2 + _GAP)
    for i in range(len(wanted) - 2, -1, -1):
        left[i] = min(left[i], left[i + 1] - (widths[i] + widths[i + 1]) / 2 - _GAP)
    return [(a + b) / 2 for a, b in zip(right, left, strict=True)]


def _edge(chain: Sequence[str], centres: Mapping[str, float], top: Mapping[str, int]) -> str:
    """Return an arrow: a curve between levels, a straight line through each bend."""
    path = f"M{centres[chain[0]]:.1f} {top[chain[0]] + _NODE_HEIGHT}"
    for a, b in itertools.pairwise(chain):
        start, end = top[a] + _NODE_HEIGHT, top[b]
        middle = (start + end) / 2
        path += f"C{centres[a]:.1f} {middle} {centres[b]:.1f} {middle} {centres[b]:.1f} {end}"
        if _is_bend(b):
            path += f"V{end + _NODE_HEIGHT}"
    return f'<path class="edge" d="{path}" marker-end="url(#head)"/>'


def _legend(groups: Mapping[str, Sequence[str]]) -> list[str]:
    lines, x = [], float(_MARGIN)
    for i, title in enumerate(groups):
        lines.append(
            f'<rect class="node group{i}" x="{x:.1f}" y="{_MARGIN - 4}" width="14" height="14" rx="3"/>'
            f'<text class="legend" x="{x + 19:.1f}" y="{_MARGIN + 7}">{escape(title)}</text>'
        )
        x += 19 + len(title) * _CHARACTER_WIDTH + 20
    return lines

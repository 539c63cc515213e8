"""Plots as SVG that scales with the page. Coordinates are pixels of a phone: 360 wide, text of 12.

Colours are classes of ``page.css``, so that a plot follows the page into the dark and onto paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fer_edge.calibration.report.markup import Html, Number, count, element, printable

WIDTH = 360.0
_LABELS = 84.0  # the column of class names
_RIGHT = WIDTH - 18
_LETTER = 6.6  # mean width at 12 pixels


@dataclass(frozen=True)
class Bar:
    """One bar: its name, its length, what is written at its end, and ``reference``, ``accent`` or ``kept``."""

    label: str
    length: float
    shown: Sequence[Number | str]
    style: str = "accent"


@dataclass(frozen=True)
class Span:
    """A value with its interval; ``marked`` spans stand out."""

    label: str
    value: float
    low: float
    high: float
    marked: bool = False


def bars(title: str, description: str, rows: Sequence[Bar], legend: Sequence[tuple[str, str]] = ()) -> Html:
    """Draw horizontal bars from 0, each under its name and its figures."""
    longest = max((row.length for row in rows), default=0.0) or 1.0
    top = 24.0 if legend else 2.0
    parts: list[Html] = [_legend(legend)] if legend else []
    for index, row in enumerate(rows):
        y = top + 34 * index
        room = WIDTH - _LETTER * (2 + sum(len(s.text if isinstance(s, Number) else s) for s in row.shown))
        shown = [s.in_svg() if isinstance(s, Number) else s for s in row.shown]
        length = max(WIDTH * row.length / longest, 1.5)
        parts += [
            _label(row.label, 0, y + 12, room),
            element("text", shown, x=WIDTH, y=y + 12, class_="value end"),
            element("rect", x=0, y=y + 17, width=WIDTH, height=8.0, rx=2.0, class_="track"),
            element(
                "rect", x=0.75, y=y + 17.5, width=length - 1.5, height=7.0, rx=2.0, class_=f"bar {row.style}"
            ),
        ]
    return _drawing(title, description, top + 34 * len(rows), parts)


def intervals(title: str, description: str, rows: Sequence[Span]) -> Html:
    """Draw values in percentage points with their intervals, around a line at 0."""
    extent = max([0.5] + [1.08 * abs(v) for row in rows for v in (row.value, row.low, row.high)])
    scale = _Scale(-extent, extent)
    bottom = 8 + 26.0 * len(rows)
    parts = _axis(
        _ticks(-extent, extent), scale, 2, bottom, lambda v: f"{v:+g}".replace("-", "−") if v else "0"
    )
    parts.append(element("line", x1=scale(0), x2=scale(0), y1=2, y2=bottom, class_="zero"))
    parts.append(element("text", "percentage points", x=_RIGHT, y=bottom + 32, class_="tick end"))
    for index, row in enumerate(rows):
        y = 20 + 26.0 * index
        style = "marked" if row.marked else "accent"
        ends = [
            element("line", x1=scale(v), x2=scale(v), y1=y - 5, y2=y + 5, class_=f"whisker {style}")
            for v in (row.low, row.high)
        ]
        parts += [
            _label(row.label, 0, y + 4, _LABELS - 6),
            element("line", x1=scale(row.low), x2=scale(row.high), y1=y, y2=y, class_=f"whisker {style}"),
            *ends,
            element(
                "circle",
                cx=scale(row.value),
                cy=y,
                r=5.0,
                class_="dot marked" if row.marked else "ring accent",
            ),
        ]
    return _drawing(title, description, bottom + 38, parts)


def dumbbells(title: str, description: str, rows: Sequence[tuple[str, float, float]]) -> Html:
    """Draw two shares per name on an axis from 0 to 100 %: FP32 as a ring, INT8 as a dot."""
    scale = _Scale(0, 1)
    bottom = 28 + 26.0 * len(rows)
    parts = [_legend((("ring reference", "FP32"), ("dot accent", "INT8")))]
    parts += _axis([0, 0.25, 0.5, 0.75, 1], scale, 22, bottom, lambda v: f"{100 * v:g} %")
    for index, (label, fp32, int8) in enumerate(rows):
        y = 40 + 26.0 * index
        parts += [
            _label(label, 0, y + 4, _LABELS - 6),
            element("line", x1=scale(fp32), x2=scale(int8), y1=y, y2=y, class_="whisker accent"),
            element("circle", cx=scale(fp32), cy=y, r=6.0, class_="ring reference"),
            element("circle", cx=scale(int8), cy=y, r=3.5, class_="dot accent"),
        ]
    return _drawing(title, description, bottom + 24, parts)


def heat_map(title: str, description: str, names: Sequence[str], counts: Sequence[Sequence[int]]) -> Html:
    """Draw a confusion matrix: counts, on a ground as strong as their share of the row."""
    side = (WIDTH - _LABELS - 32) / max(len(names), 1)
    top = 70.0
    height = min(side, 32.0)
    room = min(64.0, (20 + side / 2) / 0.55)  # turned by 60°, the last name stays within the drawing
    parts = []
    for index, name in enumerate(names):
        x, y = _LABELS + side * (index + 0.5), top + height * index
        turned = f"rotate(-60 {x:.1f} {top - 6:.1f})"
        parts += [
            _label(name, 0, y + height / 2 + 4, _LABELS - 6),
            _label(name, x, top - 6, room, transform=turned),
        ]
    for row, values in enumerate(counts):
        total = max(sum(values), 1)
        for column, value in enumerate(values):
            x, y = _LABELS + side * column, top + height * row
            # At most half covered: the text keeps its contrast, in the dark too.
            cell = element(
                "rect", x=x + 0.5, y=y + 0.5, width=side - 1, height=height - 1, class_="cell",
                fill_opacity=0.5 * value / total,
            )  # fmt: skip
            tip = element(
                "title", f"{printable(names[row])} named {printable(names[column])}: {value} of {sum(values)}"
            )
            number = element(
                "text", count(value).in_svg(), x=x + side / 2, y=y + height / 2 + 4,
                class_="value middle" + (" diagonal" if row == column else ""),
            )  # fmt: skip
            parts.append(element("g", tip, cell, number if value and len(names) <= 12 else None))
    return _drawing(title, description, top + height * len(names) + 2, parts)


def reliability(
    title: str, description: str, series: Sequence[tuple[str, Sequence[tuple[int, float, float]]]]
) -> Html:
    """Draw share of right answers over confidence; a series is its style and (count, confidence, accuracy)."""
    left, top, side = 40.0, 26.0, 300.0
    parts = [_legend((("ring reference", "FP32"), ("dot accent", "INT8"), ("ideal", "ideal")))]
    for tick in (0, 0.25, 0.5, 0.75, 1.0):
        x, y = left + side * tick, top + side * (1 - tick)
        parts += [
            element("line", x1=left, x2=left + side, y1=y, y2=y, class_="grid"),
            element("line", x1=x, x2=x, y1=top, y2=top + side, class_="grid"),
            element("text", f"{100 * tick:g}", x=left - 6, y=y + 4, class_="tick end"),
            element("text", f"{100 * tick:g}", x=x, y=top + side + 16, class_="tick middle"),
        ]
    parts.append(element("line", x1=left, y1=top + side, x2=left + side, y2=top, class_="ideal"))
    most = max((faces for _, bins in series for faces, _, _ in bins), default=1)
    for style, bins in series:
        places = [(left + side * c, top + side * (1 - a), 2.5 + 4 * math.sqrt(n / most)) for n, c, a in bins]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in places)
        parts.append(element("polyline", points=path, class_=f"curve {style.split()[-1]}"))
        parts += [element("circle", cx=x, cy=y, r=r, class_=style) for x, y, r in places]
    parts += [
        element("text", "confidence, %", x=left + side / 2, y=top + side + 34, class_="tick middle"),
        element(
            "text", "share of right answers, %", x=10, y=top + side / 2, class_="tick middle",
            transform=f"rotate(-90 10 {top + side / 2:g})",
        ),
    ]  # fmt: skip
    return _drawing(title, description, top + side + 42, parts)


def curve(
    title: str, description: str, places: Sequence[tuple[float, float]], x_name: str, y_name: str
) -> Html:
    """Draw values over a number, joined by a line."""
    low, high = min(0.0, *(y for _, y in places)), max(0.0, *(y for _, y in places))
    margin = 0.08 * (high - low) or 0.5
    low, high, most = low - margin, high + margin, max(x for x, _ in places) or 1
    left, top, width, height = 44.0, 22.0, _RIGHT - 44.0, 150.0

    def at(x: float, y: float) -> tuple[float, float]:
        return left + width * x / most, top + height * (high - y) / (high - low)

    parts = [element("text", y_name, x=0, y=12, class_="tick")]
    for tick in _ticks(low, high):
        y = at(0, tick)[1]
        parts += [
            element("line", x1=left, x2=left + width, y1=y, y2=y, class_="grid" if tick else "zero"),
            element("text", f"{tick:g}".replace("-", "−"), x=left - 6, y=y + 4, class_="tick end"),
        ]
    for tick in _ticks(0, most):
        if tick == int(tick):
            x = at(tick, low)[0]
            parts.append(element("text", f"{tick:g}", x=x, y=top + height + 16, class_="tick middle"))
    drawn = [at(x, y) for x, y in places]
    parts.append(
        element("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in drawn), class_="curve accent")
    )
    parts += [element("circle", cx=x, cy=y, r=4.0, class_="dot accent") for x, y in drawn]
    parts.append(element("text", x_name, x=left + width / 2, y=top + height + 32, class_="tick middle"))
    return _drawing(title, description, top + height + 40, parts)


def _drawing(title: str, description: str, height: float, parts: Sequence[Html]) -> Html:
    return element(
        "svg", element("title", title), element("desc", description), list(parts),
        viewBox=f"0 0 {WIDTH:g} {height:g}", role="img",
    )  # fmt: skip


def _label(text: str, x: float, y: float, room: float, **attributes: object) -> Html:
    """Return a name, cut in its middle to what fits; the whole name is its tool tip."""
    text = printable(text)
    letters = max(int(room / _LETTER), 4)
    if len(text) <= letters:
        return element("text", text, x=x, y=y, class_="label", **attributes)
    keep = letters - 1
    cut = f"{text[: keep // 2]}…{text[len(text) - (keep - keep // 2) :]}"
    return element("text", element("title", text), cut, x=x, y=y, class_="label", **attributes)


def _legend(entries: Sequence[tuple[str, str]]) -> Html:
    parts, x = [], 0.0
    for style, name in entries:
        if style == "ideal":
            parts.append(element("line", x1=x, x2=x + 16, y1=8, y2=8, class_="ideal"))
        elif style.startswith("bar"):
            parts.append(element("rect", x=x + 0.75, y=4.5, width=14.5, height=7.0, rx=2.0, class_=style))
        else:
            parts.append(element("circle", cx=x + 8, cy=8, r=6.0 if "ring" in style else 4.0, class_=style))
        parts.append(element("text", name, x=x + 22, y=12, class_="label"))
        x += 38 + _LETTER * len(name)
    return element("g", parts)


@dataclass(frozen=True)
class _Scale:
    """Values to pixels between the column of names and the right edge."""

    low: float
    high: float

    def __call__(self, value: float) -> float:
        return _LABELS + 8 + (_RIGHT - _LABELS - 8) * (value - self.low) / (self.high - self.low)


def _ticks(low: float, high: float) -> list[float]:
    """Return three to six round values between two."""
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * s for s in (1, 2, 5, 10) if power * s >= rough)
    return [round(i * step, 10) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _axis(
    ticks: Sequence[float], scale: _Scale, top: float, bottom: float, name: Callable[[float], str]
) -> list[Html]:
    return [
        part
        for tick in ticks
        for part in (
            element("line", x1=scale(tick), x2=scale(tick), y1=top, y2=bottom, class_="grid"),
            element("text", name(tick), x=scale(tick), y=bottom + 16, class_="tick middle"),
        )
    ]

"""HTML and SVG from Python values. What is not :class:`Html` is escaped, so no name can become markup."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

_VOID = ("meta", "rect", "circle", "line", "path", "polyline")


class Html(str):
    """Markup that may be put into the page as it is. Only :func:`element` and :func:`join` make it."""


def element(tag: str, *children: object, **attributes: object) -> Html:
    """Return an element; ``class_`` is ``class``, ``text_anchor`` is ``text-anchor``, ``None`` is left out."""
    names = ((name.rstrip("_").replace("_", "-"), value) for name, value in attributes.items())
    start = tag + "".join(f' {name}="{_attribute(value)}"' for name, value in names if value is not None)
    return Html(
        f"<{start}>"
        if tag == "meta"
        else f"<{start}/>"
        if tag in _VOID
        else f"<{start}>{join(children)}</{tag}>"
    )


def join(parts: Iterable[object], between: str = "") -> Html:
    """Return the parts as markup; lists are flattened, ``None`` is left out."""
    return Html(escape(between).join(_markup(part) for part in parts if part is not None))


def printable(value: object) -> str:
    """Return ``value`` as text in which what has no glyph, such as a change of direction, is U+FFFD."""
    return "".join(c if c.isprintable() else "\ufffd" for c in str(value))


def _markup(part: object) -> str:
    if isinstance(part, Html):
        return part
    if isinstance(part, Number):
        return part.in_html()
    if isinstance(part, (list, tuple)):
        return join(part)
    return escape(printable(part))


def _attribute(value: object) -> str:
    return escape(f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else printable(value))


@dataclass(frozen=True)
class Number:
    """A value of the report, and how it reads; the page carries both."""

    value: float | None
    text: Html

    def in_html(self) -> Html:
        """Return it for a paragraph or table."""
        return element("data", self.text, value=repr(self.value)) if self.value is not None else Html("–")

    def in_svg(self) -> Html:
        """Return it for a text of a plot."""
        known = self.value is not None
        return element("tspan", self.text, data_value=repr(self.value)) if known else Html("–")


def formatted(value: float | None, style: str, unit: str = "", factor: float = 1.0) -> Number:
    """Return ``value · factor`` in a ``format`` style, with its unit; a dash for ``None``."""
    if value is None:
        return Number(None, Html("–"))
    text = format(round(value * factor, 9) + 0.0, style).replace("-", "−")
    if not text.strip("+−0."):
        text = text.lstrip("+−")  # no sign on what is rounded to zero
    return Number(value, Html(f"{text}\u00a0{unit}" if unit else text))  # a space that does not break


def percent(share: float | None) -> Number:
    """Return a share in percent."""
    return formatted(share, ".2f", "%", 100)


def points(value: float | None) -> Number:
    """Return a difference in percentage points, with its sign."""
    return formatted(value, "+.2f", "pp")


def between(low: float, high: float) -> Html:
    """Return an interval in percentage points."""
    return join((formatted(low, "+.2f"), " to ", points(high)))


def milliseconds(value: float | None) -> Number:
    """Return a time."""
    return formatted(value, ".2f", "ms")


def megabytes(value: int | None) -> Number:
    """Return a size of bytes in units of 10⁶."""
    return formatted(value, ".2f", "MB", 1e-6)


def decibels(value: float | None) -> Number:
    """Return a ratio in decibels."""
    return formatted(value, ".1f", "dB")


def count(value: int | None) -> Number:
    """Return a whole number."""
    return formatted(value, ",.0f")


def plain(value: float | None) -> Number:
    """Return a number whose unit stands elsewhere, to four digits."""
    return formatted(value, ".4g")


def section(title: str, *children: object) -> Html:
    """Return a section that the table of contents can link to."""
    key = "-".join("".join(c if c.isalnum() else " " for c in title.lower()).split())
    return element(
        "section", element("h2", title, id=f"{key}-title"), *children, id=key, aria_labelledby=f"{key}-title"
    )


def note(*children: object) -> Html:
    """Return a paragraph that explains."""
    return element("p", *children, class_="note")


def facts(pairs: Mapping[str, object]) -> Html:
    """Return names with their values."""
    return element(
        "dl",
        [
            element(
                "div",
                element("dt", name),
                element("dd", value),
                class_="wide" if len(str(value)) > 60 else None,
            )
            for name, value in pairs.items()
        ],
        class_="facts",
    )


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[object]], class_: str = "") -> Html:
    """Return a table in a box that scrolls by itself; the first cell of a row names it."""
    head = element("tr", [element("th", name, scope="col") for name in header])
    body = [
        element("tr", element("th", first, scope="row"), [element("td", cell) for cell in rest])
        for first, *rest in rows
    ]
    content = element("table", element("caption", caption), element("thead", head), element("tbody", body))
    return element(
        "div", content, class_=f"scroll {class_}".strip(), role="region", tabindex="0", aria_label=caption
    )


def plot(drawing: Html, title: str, *reading: object) -> Html:
    """Return a drawing with its title and what to read from it."""
    caption = element("figcaption", element("strong", title), [note(text) for text in reading])
    return element("figure", drawing, caption)


def side_by_side(*children: object) -> Html:
    """Return parts that stand next to each other where the window is wide enough."""
    return element("div", *children, class_="pair")

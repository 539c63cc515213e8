"""Write the report of a build as a self-contained HTML file, without scripts, fonts or network access.

``page.html.jinja`` holds the text and the tables, ``plots.svg.jinja`` the plots; numbers are formatted here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from fer_edge._utils.files import whole_file

_KEYS = (
    "model", "record", "gate", "data", "warnings", "next_steps", "comparison", "candidates", "sensitivity",
    "mixed_precision", "placement", "calibration",
)  # fmt: skip


def write_report_page(path: Path, report: Mapping[str, Any]) -> None:
    """Write the human-readable page beside ``report.json``, atomically.

    Parameters
    ----------
    path : Path
        The HTML file.
    report : mapping
        JSON values. Every key is optional; the section of a missing or ``None`` key is left out:

        ``model``
            ``network``, ``precision``, and optional entries such as ``weights``, ``licence``, ``data``,
            ``accuracy_prior``.
        ``record``
            Result of :func:`fer_edge.system.provenance.measurement_record`.
        ``gate``
            ``passed``, and ``bounds``: each with ``name``, ``bound``, ``measured``, ``passed``. Optionally
            ``holds_for``: ``processor``, ``processor_features``, ``backend``, ``faces``; and ``reason`` if the
            build was refused.
        ``data``
            ``summary`` of :class:`fer_edge.builder.splits.Split`.
        ``warnings``
            Sentences.
        ``next_steps``
            Each with ``command`` and ``purpose``, if the build was refused.
        ``comparison``
            Result of :meth:`fer_edge.calibration.comparison.compare.Comparison.to_dict`.
        ``candidates``
            Each with ``name``, ``snr_db``, ``agreement``, ``logit_cosine``, ``chosen``.
        ``sensitivity``
            Each with ``layer``, ``op``, ``macs``, ``snr_db``, ``drop_pp``, ``precision``: int8 or float.
        ``mixed_precision``
            ``bound``, ``float_layers``, ``steps`` (each with ``float_layers``, ``drop_pp``, ``logit_cosine``),
            ``int8_p50_ms``, ``mixed_p50_ms``.
        ``placement``
            Each with ``rule``, ``reason``, ``layers``.
        ``calibration``
            ``method``, ``images``, ``data``, and more.

    Raises
    ------
    jinja2.UndefinedError, KeyError, TypeError
        If a section lacks a value or holds one of another type; nothing is written.
    """
    page = _TEMPLATES.get_template("page.html.jinja").render(dict.fromkeys(_KEYS) | _legible(report))
    with whole_file(path) as part:
        part.write_text(page, encoding="utf-8")


@dataclass(frozen=True)
class Number:
    """A figure of the report and its text; the page holds both."""

    value: float | None
    text: str

    def __html__(self) -> Markup:
        return self._in('<data value="{!r}">{}</data>')

    @property
    def tspan(self) -> Markup:
        """The figure as an SVG text span."""
        return self._in('<tspan data-value="{!r}">{}</tspan>')

    def _in(self, element: str) -> Markup:
        return Markup(self.text if self.value is None else Markup(element).format(self.value, self.text))


def format_number(value: float | None, style: str, unit: str = "", factor: float = 1.0) -> Number:
    """Return ``value · factor`` in a ``format`` style, with its unit; a dash for ``None``."""
    if value is None:
        return Number(None, "–")
    text = format(round(value * factor, 9) + 0.0, style).replace("-", "−")
    if not text.strip("+−0."):
        text = text.lstrip("+−")  # a rounded zero has no sign
    return Number(value, f"{text}\u00a0{unit}" if unit else text)  # a no-break space


#: Filters of the templates.
NUMBER_FILTERS = {
    "percent": partial(format_number, style=".2f", unit="%", factor=100),
    "points": partial(format_number, style="+.2f", unit="pp"),
    "signed": partial(format_number, style="+.2f"),
    "milliseconds": partial(format_number, style=".2f", unit="ms"),
    "megabytes": partial(format_number, style=".2f", unit="MB", factor=1e-6),
    "millions": partial(format_number, style=",.2f", unit="M", factor=1e-6),
    "decibels": partial(format_number, style=".1f", unit="dB"),
    "integer": partial(format_number, style=",.0f"),
    "four_digits": partial(format_number, style=".4g"),
    "decimals": lambda value, digits: format_number(value, f".{digits}f"),
}


def _legible(value: Any) -> Any:
    """Return ``value`` with U+FFFD in place of unprintable characters, such as bidirectional controls."""
    if isinstance(value, str):
        return "".join(c if c.isprintable() else "\ufffd" for c in value)
    if isinstance(value, Mapping):
        return {_legible(name): _legible(part) for name, part in value.items()}
    return [_legible(part) for part in value] if isinstance(value, (list, tuple)) else value


def _most_harmful_first(layers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the layers, each with ``noise``, relative to the size of the logits, in descending order."""
    noisy = [
        {**layer, "noise": 0.0 if layer["snr_db"] is None else 10 ** (-layer["snr_db"] / 20)}
        for layer in layers
    ]
    return sorted(noisy, key=lambda layer: (layer["noise"], layer["drop_pp"] or 0.0), reverse=True)


def _ticks(low: float, high: float) -> list[float]:
    """Return three to six round values between ``low`` and ``high``."""
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * s for s in (1, 2, 5, 10) if power * s >= rough)
    return [round(i * step, 10) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _coordinate(value: Any) -> Any:
    """Shorten floats, which are plot coordinates: figures of the report are a :class:`Number`."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value


_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    finalize=_coordinate,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters |= {**NUMBER_FILTERS, "most_harmful_first": _most_harmful_first}
_TEMPLATES.globals["ticks"] = _ticks

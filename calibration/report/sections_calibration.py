"""The sections that say what was tried, what stays in floating point, and on which faces ranges were taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fer_edge.calibration.report import svg
from fer_edge.calibration.report.markup import (
    Html,
    count,
    decibels,
    element,
    facts,
    formatted,
    join,
    milliseconds,
    note,
    percent,
    plain,
    plot,
    points,
    section,
    side_by_side,
    table,
)

#: A plot of more bars is not read; the table holds every layer.
_BARS = 20
_LEGEND = (("bar accent", "INT8"), ("bar kept", "kept in floating point"))


def gate_section(gate: Mapping[str, Any]) -> Html:
    """Show each bound with what was measured."""
    rows = [
        (bound["name"], plain(bound["bound"]), plain(bound["measured"]), _result(bound["passed"]))
        for bound in gate["bounds"]
    ]
    return section("Bounds", table("What was asked for", ("bound", "asked", "measured", "result"), rows))


def _result(passed: bool) -> Html:
    return element("span", "✓ held" if passed else "✕ missed", class_="passed" if passed else "missed")


def candidates_section(candidates: Sequence[Mapping[str, Any]]) -> Html:
    """Show every way to quantise that was tried."""
    rows = [
        (
            (c["name"], element("span", " ✓ chosen", class_="passed") if c["chosen"] else None),
            decibels(c["snr_db"]), percent(c["agreement"]), formatted(c["logit_cosine"], ".5f"),
        )
        for c in candidates
    ]  # fmt: skip
    bars = [
        svg.Bar(
            c["name"], max(c["snr_db"], 0), [decibels(c["snr_db"])], "accent" if c["chosen"] else "reference"
        )
        for c in candidates
        if c["snr_db"] is not None
    ]
    drawing = svg.bars(
        "Signal-to-noise ratio by candidate", "The logits' ratio of signal to noise in decibels.", bars
    )
    return section(
        "What was tried",
        side_by_side(
            plot(
                drawing,
                "Signal-to-noise ratio of the logits",
                "Longer is closer to FP32; 6 dB halve the noise. The one that was chosen is coloured.",
            ),
            table("Candidates", ("candidate", "SNR", "same class", "cosine"), rows),
        ),
    )


def sensitivity_section(layers: Sequence[Mapping[str, Any]]) -> Html:
    """Show what each layer costs, the most harmful first."""
    ordered = sorted(layers, key=_harm, reverse=True)
    bars = [
        svg.Bar(
            layer["layer"], _harm(layer)[0],
            [decibels(layer["snr_db"]), *((", ", points(-layer["drop_pp"])) if layer["drop_pp"] is not None else ())],
            "kept" if layer["precision"] == "float" else "accent",
        )
        for layer in ordered[:_BARS]
    ]  # fmt: skip
    rows = [
        (
            element("code", layer["layer"]), layer["op"], formatted(layer["macs"], ",.2f", "M", 1e-6), decibels(layer["snr_db"]),
            points(None if layer["drop_pp"] is None else -layer["drop_pp"]),
            element("strong", "floating point") if layer["precision"] == "float" else "INT8",
        )
        for layer in ordered
    ]  # fmt: skip
    drawing = svg.bars(
        "Harm by layer", "For each layer the noise that it adds to the logits in INT8.", bars, _LEGEND
    )
    return section(
        "Sensitive layers",
        plot(
            drawing,
            "What each layer alone does to the logits in INT8",
            "The bar is the size of the noise relative to the logits, so short is good; beside it the "
            "signal-to-noise ratio and, where it was measured, the change of accuracy. Long bars are worth "
            "floating point, above all where the layer does little work.",
            None
            if len(layers) <= _BARS
            else f"The {_BARS} most harmful layers are drawn; the table holds all.",
        ),
        table(
            "Every layer, the most harmful first",
            ("layer", "operator", "multiply-adds", "SNR", "accuracy", "runs in"),
            rows,
            "tall",
        ),
    )


def _harm(layer: Mapping[str, Any]) -> tuple[float, float]:
    """Return the noise's share of the logits' size, and the drop in points."""
    snr_db, drop_pp = layer["snr_db"], layer["drop_pp"]
    return (0.0 if snr_db is None else 10 ** (-snr_db / 20), drop_pp or 0.0)


def mixed_precision_section(mixed: Mapping[str, Any]) -> Html:
    """Show how many layers must stay in floating point, and what that costs."""
    steps, names = mixed["steps"], mixed["float_layers"]
    parts: list[object] = [
        facts(
            {
                "bound": mixed["bound"],
                "layers kept in floating point": _names(names),
            }
        )
    ]
    times = [
        svg.Bar(name, mixed[key], [milliseconds(mixed[key])], style)
        for name, key, style in (
            ("every layer in INT8", "int8_p50_ms", "reference"),
            ("mixed precision", "mixed_p50_ms", "accent"),
        )
        if mixed.get(key) is not None
    ]
    plots = []
    if steps:
        drawing = svg.curve(
            "Drop by layers in floating point", "Drop of accuracy in percentage points over the number of layers kept.",
            [(s["float_layers"], s["drop_pp"]) for s in steps], "layers in floating point", "drop of accuracy, pp",
        )  # fmt: skip
        plots.append(
            plot(
                drawing,
                "How many layers it takes",
                "From left to right the most harmful layers go back to floating point until the bound holds. A "
                "flat end means that more layers would cost speed and gain nothing.",
            )
        )
    if times:
        drawing = svg.bars(
            "Latency of mixed precision", "Median latency in INT8 and in mixed precision.", times
        )
        plots.append(plot(drawing, "What it costs", "Median latency of one face, p50."))
    rows = [
        (count(s["float_layers"]), points(-s["drop_pp"]), formatted(s["logit_cosine"], ".5f")) for s in steps
    ]
    parts += [side_by_side(*plots), table("Steps", ("layers in floating point", "accuracy", "cosine"), rows)]
    return section("Mixed precision", *parts)


def placement_section(rules: Sequence[Mapping[str, Any]]) -> Html:
    """Show what stays in floating point by rule, and why."""
    rows = [(rule["rule"], rule["reason"], _names(rule["layers"])) for rule in rules]
    return section(
        "Floating point by rule",
        table("Rules", ("rule", "why", "layers"), rows, "wrapped"),
        note("These layers are left out of INT8 whatever is measured."),
    )


def calibration_section(calibration: Mapping[str, Any]) -> Html:
    """Show where the activation ranges come from."""
    return section(
        "Calibration",
        facts({name.replace("_", " "): value_of(value) for name, value in calibration.items()}),
        note("Ranges of the activations are taken from these faces; they say how an INT8 step is sized."),
    )


def value_of(value: object) -> object:
    """Return any JSON value as something to read."""
    if isinstance(value, Mapping):
        return join((join((f"{name} ", value_of(part))) for name, part in value.items()), ", ")
    if isinstance(value, (list, tuple)):
        return join(map(value_of, value), ", ")
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return plain(value) if isinstance(value, float) else count(value)
    return "–" if value is None else str(value)


def _names(layers: Sequence[str]) -> Html:
    return (
        element("span", join((element("code", name) for name in layers), ", "), class_="names")
        if layers
        else Html("none")
    )

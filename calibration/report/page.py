"""The report of a build as one HTML file that needs nothing else: no script, no font, no network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from fer_edge._utils.files import whole_file
from fer_edge.calibration.report import sections_calibration, sections_faces
from fer_edge.calibration.report.markup import Html, element, facts, join, plain, printable
from fer_edge.calibration.report.sections_comparison import comparison_sections, tiles

_STYLE = Path(__file__).with_name("page.css")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
#: In the order of the page.
_SECTIONS: Mapping[str, Callable[[Any], Iterable[Html | None]]] = {
    "next_steps": lambda value: [sections_faces.next_steps_section(value)],
    "warnings": lambda value: [sections_faces.warnings_section(value)],
    "gate": lambda value: [sections_calibration.gate_section(value)],
    "data": lambda value: [sections_faces.faces_section(value)],
    "comparison": comparison_sections,
    "candidates": lambda value: [sections_calibration.candidates_section(value)],
    "sensitivity": lambda value: [sections_calibration.sensitivity_section(value)],
    "mixed_precision": lambda value: [sections_calibration.mixed_precision_section(value)],
    "placement": lambda value: [sections_calibration.placement_section(value)],
    "calibration": lambda value: [sections_calibration.calibration_section(value)],
}
_LIMITS = (
    "Figures hold for these faces, this device and these versions; measure on your own camera before you rely on "
    "them. The network names an apparent expression: how annotators would label a picture, not what a person feels."
)


def write_report_page(path: Path, report: Mapping[str, Any]) -> None:
    """Write the page for people beside ``report.json``, whole or not at all.

    Parameters
    ----------
    path : Path
        The HTML file.
    report : mapping
        JSON values. Every key is optional, and its section is left out where it is missing or ``None``:

        ``model``
            ``network``, ``precision``, and more to show beside them, such as ``weights``, ``licence``, ``data``.
        ``record``
            As :func:`fer_edge.system.provenance.measurement_record` gives it.
        ``gate``
            ``passed``, and ``bounds``: each with ``name``, ``bound``, ``measured``, ``passed``. Where it is known also
            ``holds_for``: ``processor``, ``processor_features``, ``backend``, ``faces``; and ``reason`` where the
            build was refused.
        ``data``
            ``summary`` of :class:`fer_edge.builder.splits.Split`.
        ``warnings``
            Sentences.
        ``next_steps``
            Each with ``command`` and ``purpose``, where the build was refused.
        ``comparison``
            As :meth:`fer_edge.calibration.comparison.compare.Comparison.to_dict` gives it.
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
    """
    page = _page(report)
    with whole_file(path) as part:
        part.write_text(page, encoding="utf-8")


def _page(report: Mapping[str, Any]) -> str:
    model = report.get("model") or {}
    name = f"{model.get('network', 'network')} {str(model.get('precision', '')).upper()}".strip()
    body = [
        part for key, make in _SECTIONS.items() if report.get(key) is not None for part in make(report[key])
    ]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="referrer", content="no-referrer"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{name}: build report"),
        element("style", Html(_STYLE.read_text(encoding="utf-8"))),
    )
    glance = tiles(report["comparison"]) if report.get("comparison") else None
    main = element("main", _header(name, report), glance, body, element("footer", _LIMITS))
    return "<!DOCTYPE html>\n" + element("html", head, element("body", main), lang="en") + "\n"


def _header(name: str, report: Mapping[str, Any]) -> Html:
    shown = {
        key.replace("_", " "): sections_calibration.value_of(value)
        for key, value in {**(report.get("model") or {}), **_record(report)}.items()
        if key not in ("network", "precision") and value is not None
    }
    return element(
        "header",
        element("p", "FER-Edge build report", class_="kicker"),
        element("h1", name),
        _verdict(report.get("gate")),
        facts(shown),
    )


def _record(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return date and device, and the long list of versions last."""
    record = dict(report.get("record") or {})
    return {**{k: v for k, v in record.items() if k != "versions"}, "versions": record.get("versions")}


def _verdict(gate: Mapping[str, Any] | None) -> Html:
    if gate is None:
        return element("p", "No bound was set: this page says what was measured.", class_="verdict")
    place = join((" ", sections_faces.holds_for(gate["holds_for"]))) if gate.get("holds_for") else None
    if gate["passed"]:
        return element(
            "p", element("strong", "✓ Passed"), " Every bound holds.", place, class_="verdict passed"
        )
    if gate.get("reason"):
        return element(
            "p", element("strong", "✕ Refused"), " ", f"{gate['reason']}.", place, class_="verdict missed"
        )
    missed = join(
        (
            join((printable(b["name"]), ": measured ", plain(b["measured"]), ", asked ", plain(b["bound"])))
            for b in gate["bounds"]
            if not b["passed"]
        ),
        "; ",
    )
    return element("p", element("strong", "✕ Missed"), " ", missed, ".", place, class_="verdict missed")

"""The sections on faces: where the figures hold, which faces were left out, and next commands of a refused build."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fer_edge.calibration.report.markup import Html, count, element, join, note, section, table

_PARTS = {
    "calibrating": "calibrate",
    "held_out": "choose the calibration",
    "comparing": "compare FP32 with INT8",
}
_REASONS = {
    "no_face": "no face is found",
    "flat": "hardly any contrast",
    "repeated": "copies of another face",
    "in_comparison": "copies of a face that is compared",
}


def faces_section(data: Mapping[str, Any]) -> Html:
    """Show the number of distinct faces of each part, the faces left out, and the overlap of the parts."""
    parts = [
        (purpose, data[key]["data"], count(data[key]["distinct"]), count(data[key]["generated"]))
        for key, purpose in _PARTS.items()
        if key in data
    ]
    left_out = [
        (name, count(pictures["read"]), *(count(pictures[key]) for key in _REASONS), _form(pictures))
        for name, pictures in data["pictures"].items()
    ]
    return section(
        "Faces",
        table("Faces by purpose", ("purpose", "data", "distinct faces", "of them generated"), parts),
        table("Pictures that were read", ("data", "read", *_REASONS.values(), "form"), left_out)
        if left_out
        else None,
        note(
            "The faces were split before anything was measured. Faces of one part that have a copy in another: ",
            count(data["overlap"]) if data["overlap"] is not None else "unknown",
            ". Copies are recognised re-encoded, resized or mirrored.",
        ),
    )


def _form(pictures: Mapping[str, Any]) -> str:
    return "photographs, the largest face of each" if pictures["photographs"] else "face crops"


def warnings_section(warnings: Sequence[str]) -> Html | None:
    """Show what weakens the figures; nothing where there is nothing."""
    if not warnings:
        return None
    return section("Warnings", element("ul", [element("li", text) for text in warnings]))


def next_steps_section(steps: Sequence[Mapping[str, Any]]) -> Html:
    """Show commands that may succeed where this build was refused."""
    rows = [(step["purpose"], element("code", step["command"])) for step in steps]
    return section("Next steps", table("Commands", ("purpose", "command"), rows, "wrapped"))


def holds_for(place: Mapping[str, Any]) -> Html:
    """Return where the bounds were checked, as a sentence."""
    features = ", ".join(place["processor_features"]) or "no extension that is known"
    return join(
        ("Checked on ", place["processor"], f" ({features}), backend ", place["backend"], ", with ", place["faces"], ".")
    )  # fmt: skip

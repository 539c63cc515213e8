"""Tables of figures from ``benchmarks/records``, for the pages that ``generate.py`` writes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RECORDS = Path(__file__).resolve().parents[1] / "benchmarks" / "records"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def read_record(name: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((RECORDS / f"{name}.json").read_text(encoding="utf-8"))
    return record


def origin_of(record: Mapping[str, Any], command: str) -> str:
    """Return where, when and how the figures were measured, as a sentence."""
    about = record["record"]
    versions = about["versions"]
    used = [f"{name} {versions[name]}" for name in ("python", "onnxruntime", "openvino") if name in versions]
    return (
        f"Measured {about['date']} on {about['device']}, {about['cores']} cores, "
        f"{', '.join(about['processor_features'])}; {', '.join(used)}; commit {about['commit']}. "
        f"Command: `{command}`."
    )


def percent(value: float) -> str:
    return f"{100 * value:.2f}"


def unbroken(text: str) -> str:
    """Keep a cell on one line on a phone, too, where the table scrolls."""
    return text.replace(" ", "&nbsp;")

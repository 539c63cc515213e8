"""Writes the parts of pages that follow from the code and from records: ``python docs/generate.py``.

Options come from the parsers, exit codes from the docstring of :mod:`fer_edge.cli`, figures from
``benchmarks/records``. A part stands between ``<!-- NAME -->`` and ``<!-- end of NAME -->``; a key of :data:`PARTS`.
``models/NAME.md`` is a copy of the model card that ships in ``fer_edge/models``, as GitHub includes no file in another.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fer_edge import cli
from fer_edge.models.catalogue import SHIPPED

PAGES = Path(__file__).resolve().parent
RECORDS = PAGES.parent / "benchmarks" / "records"
CARDS = PAGES.parent / "fer_edge" / "models"
#: Options of every command, described once.
_COMMON = {"help", "json", "verbose", "quiet"}
_PRIORS = ("training", "balanced", "uniform")


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def commands() -> str:
    """Return a section for each command, with its arguments."""
    return "\n\n".join(_section(name) for name in cli.COMMANDS)


def _section(name: str) -> str:
    parser = next(
        action
        for action in cli.make_parser([name])._actions
        if isinstance(action, argparse._SubParsersAction)
    ).choices[name]
    actions = [action for action in parser._actions if action.dest not in _COMMON]
    needed = [_signature(action) for action in actions if action.required or not action.option_strings]
    usage = " ".join([f"fer-edge {name}", *needed])
    items = [f"- `{_signature(a)}`{f': {_help(a)}' if a.help else ''}" for a in actions]
    return "\n\n".join(
        [f"## {name}", f"{parser.description}", f"`{usage}`", *(["\n".join(items)] if items else [])]
    )


def _signature(action: argparse.Action) -> str:
    """Return an argument as it is typed, optional positional ones in brackets."""
    metavar = action.metavar or ("|".join(action.choices) if action.choices else action.dest.upper())
    if not action.option_strings:
        return f"[{metavar}]" if action.nargs == "?" else str(metavar)
    values = " ".join(metavar) if isinstance(metavar, tuple) else str(metavar)
    if action.nargs == "+":
        values += " …"
    takes_value = action.nargs != 0
    return f"{' '.join(action.option_strings)}{f' {values}' if takes_value else ''}"


def _help(action: argparse.Action) -> str:
    text = (action.help or "") % {"default": action.default}
    shown = action.option_strings and action.nargs != 0 and action.default not in (None, [], ())
    return f"{text} (default: `{action.default}`)" if shown and str(action.default) not in text else text


def exit_codes() -> str:
    """Return the table of the docstring of :mod:`fer_edge.cli`."""
    return table(("code", "meaning"), re.findall(r"^(\d+) {2,}(.*)$", cli.__doc__ or "", re.M))


def _record(name: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((RECORDS / f"{name}.json").read_text(encoding="utf-8"))
    return record


def _origin(record: Mapping[str, Any], command: str) -> str:
    """Return where, when and how the figures were measured, as a sentence."""
    about = record["record"]
    versions = about["versions"]
    used = [f"{name} {versions[name]}" for name in ("python", "onnxruntime", "openvino") if name in versions]
    return (
        f"Measured {about['date']} on {about['device']}, {about['cores']} cores, "
        f"{', '.join(about['processor_features'])}; {', '.join(used)}; commit {about['commit']}. "
        f"Command: `{command}`."
    )


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def priors() -> str:
    """Return accuracy and balanced accuracy under each prior."""
    record = _record("priors")
    rows = [
        (f"`{name}`", figure["data"], figure["faces"], *_by_prior(figure["by_prior"]))
        for name, model in record["models"].items()
        for figure in model["figures"]
    ]
    header = ("weights", "data", "faces", *_PRIORS)
    return f"{table(header, rows)}\n\n{_origin(record, 'python benchmarks/priors.py fer2013.csv.gz --photographs DIR')}"


def _by_prior(figures: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    for prior in _PRIORS:
        yield _unbroken(
            " / ".join(_percent(figures[prior][key]) for key in ("accuracy", "balanced_accuracy"))
        )


def int8() -> str:
    """Return the accuracy of INT8 beside that of FP32."""
    record = _record("int8_on_processors")
    rows = [
        (
            f"`{one['network']}`",
            one["backend"],
            one["faces"],
            _percent(one["fp32_accuracy"]),
            _percent(one["int8_accuracy"]),
            _unbroken(f"{one['change_pp']:+.2f} ({one['low_pp']:+.2f} to {one['high_pp']:+.2f})"),
            _percent(one["same_class"]),
        )
        for one in record["accuracy"]
    ]
    header = ("weights", "backend", "faces", "FP32, %", "INT8, %", "change, points (95 %)", "same class, %")
    return f"{table(header, rows)}\n\n{_origin(record, 'python benchmarks/int8_on_processors.py fer2013.csv.gz')}"


def latency() -> str:
    """Return the latency of each precision and backend, with the backend's own threads and batch."""
    record = _record("tune")
    rows = [
        (
            f"`{name.split()[0]}`",
            one["candidate"],
            *(_percentiles(one[key]) for key in ("one_face", "four_faces")),
        )
        for name, bundle in record["bundles"].items()
        for one in bundle["candidates"]
        if "," not in one["candidate"]
    ]
    header = ("weights", "precision, backend", "1 face, ms", "4 faces, ms")
    return f"{table(header, rows)}\n\n{_origin(record, 'python benchmarks/tune.py')}"


def self_test() -> str:
    """Return the time of the self-test of a session."""
    record = _record("self_test")
    rows = [
        (one["precision"], one["backend"], one["faces"], _percentiles(one["self_test_ms"]))
        for one in record["cost"]
    ]
    header = ("precision", "backend", "faces", "self-test, ms")
    return f"{table(header, rows)}\n\n{_origin(record, 'python benchmarks/self_test.py')}"


def _percentiles(summary: Mapping[str, float]) -> str:
    return _unbroken(" / ".join(f"{summary[f'p{p}_ms']:.2f}" for p in (50, 90, 99)) + f" ({summary['n']})")


def _unbroken(text: str) -> str:
    """Keep a cell on one line on a phone, too, where the table scrolls."""
    return text.replace(" ", "&nbsp;")


def detectors() -> str:
    """Return latency, memory and faces found of each detector."""
    record, recall = _record("detectors"), _record("detector_recall")
    one_face = {row["name"]: row for row in record["latency"]["rows"]}
    start = {row["name"]: row for row in record["start"]["rows"]}
    rows = []
    for found in recall["recall"]["rows"]:
        name = found["name"]
        if name not in start:
            continue
        taken = one_face[f"{name}: one face"]
        rows.append(
            (
                f"`{name}`",
                _unbroken(
                    f"{taken['p50_ms']:.1f} / {taken['p90_ms']:.1f} / {taken['p99_ms']:.1f} ({taken['n']})"
                ),
                f"{taken['processor_p50_ms']:.1f}",
                f"{start[name]['p50_ms']:.0f}",
                f"{start[name]['peak_memory_mb']:.0f}",
                f"{found['with_a_face']} of {found['photographs']}",
                f"{found['false_boxes']} in {found['scenes']}",
            )
        )
    header = (
        "detector", "one face, ms", "processor time, ms", "start, ms", "memory, MB", "photographs with a face",
        "false boxes",
    )  # fmt: skip
    return f"{table(header, rows)}\n\n{_origin(record['latency'], 'python benchmarks/detectors.py --photographs DIR')}"


def turned_faces() -> str:
    """Return the upright faces that are found when they are turned, and the accuracy of their labels."""
    part = _record("detector_recall")["turned"]
    names = dict.fromkeys(row["name"] for row in part["rows"])
    rolls = sorted({abs(row["roll_deg"]) for row in part["rows"]})
    rows = []
    for name in names:
        cells = []
        for roll in rolls:
            both = [row for row in part["rows"] if row["name"] == name and abs(row["roll_deg"]) == roll]
            found, faces, labelled, right = (
                sum(row[key] for row in both) for key in ("found", "upright_faces", "labelled", "right")
            )
            cells.append(_unbroken(f"{_percent(found / faces)} / {_percent(right / max(labelled, 1))}"))
        rows.append((f"`{name}`", *cells))
    header = ("detector", *(f"{roll}°" for roll in rolls))
    return (
        f"{table(header, rows)}\n\n{_origin(part, 'python benchmarks/detector_recall.py --photographs DIR')}"
    )


def abstention() -> str:
    """Return wrong labels at each coverage by score, and the effect of the default limits on each kind of copy."""
    record = _record("abstention")
    risk_rows = [
        (data, part, score, *(f"{100 * value:.1f}" for value in risks.values()))
        for data, found in record["data"].items()
        if "held out" not in data
        for part, by_score in found["risk"].items()
        for score, risks in by_score.items()
    ]
    first = next(iter(record["data"].values()))["risk"]["mixed"]["combined"]
    risks = table(("data", "copies", "score", *(f"{float(c):.0%}" for c in first)), risk_rows)
    rows = [
        (
            data,
            kind,
            one["faces"],
            *(
                "–" if one[key] is None else f"{100 * one[key]:.1f}"
                for key in ("error", "refused", "error_of_labelled")
            ),
        )
        for data, found in record["data"].items()
        if "held out" not in data
        for kind, one in found["defaults"].items()
    ]
    header = ("data", "copies", "faces", "wrong, %", "refused, %", "wrong of the rest, %")
    origin = _origin(record, "python benchmarks/abstention.py fer2013.csv.gz --photographs DIR --cache DIR")
    return (
        f"Wrong labels in %, among the faces with a label, by the share of faces that get one:\n\n{risks}\n\n"
        f"The default limits:\n\n{table(header, rows)}\n\n{origin}"
    )


def near_infrared() -> str:
    """Return right labels with each map to 8 bits."""
    record = _record("near_infrared")
    rows = []
    for data, found in record["data"].items():
        by_condition: dict[tuple[Any, ...], dict[str, Any]] = {}
        for one in found:
            key = (data, one["faces"], one["gain"], one["noise_sigma_of_1023"])
            by_condition.setdefault(key, {})[one["stretch"]] = one
        for key, maps in by_condition.items():
            shares = [
                f"{100 * maps[m][f]:.1f}" for f in ("found", "right_of_all") for m in ("full", "percentile")
            ]
            rows.append((*key, *shares))
    header = ("data", "faces", "gain", "noise, of 1023")
    header += ("found, full", "found, percentile", "right, full", "right, percentile")
    origin = _origin(record, "python benchmarks/near_infrared.py fer2013.csv.gz --photographs DIR")
    return f"{table(header, rows)}\n\n{origin}"


PARTS: Mapping[str, Callable[[], str]] = {
    "commands": commands,
    "exit codes": exit_codes,
    "priors": priors,
    "int8": int8,
    "latency": latency,
    "detectors": detectors,
    "turned faces": turned_faces,
    "self-test": self_test,
    "abstention": abstention,
    "near-infrared": near_infrared,
}


def generated(page: str) -> str:
    """Return the text of a page with its parts as code and records are now."""
    for name, make in PARTS.items():
        marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)", re.S)
        if marked.search(page):
            text = make()
            page = marked.sub(lambda m, text=text: f"{m[1]}\n{text}\n\n{m[2]}", page)
    return page


def model_cards() -> dict[str, str]:
    """Return the page of each model that ships, by its path below ``docs``."""
    return {
        f"models/{name}.md": f"<!-- Copy of fer_edge/models/{name}.md: run python docs/generate.py -->\n\n"
        + (CARDS / f"{name}.md").read_text(encoding="utf-8").replace(" % |", "&nbsp;% |")
        for name in SHIPPED
    }


if __name__ == "__main__":
    for name, text in model_cards().items():
        (PAGES / name).write_text(text, encoding="utf-8")
    for path in PAGES.glob("*.md"):
        path.write_text(generated(path.read_text(encoding="utf-8")), encoding="utf-8")

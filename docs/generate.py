"""Writes the parts of pages that follow from the code and from records: ``python docs/generate.py``.

Options come from the parsers, exit codes from the docstring of :mod:`fer_edge.cli`, figures from
``benchmarks/records``. A part stands between ``<!-- NAME -->`` and ``<!-- end of NAME -->``; a key of :data:`PARTS`.
``models/NAME.md`` is a copy of the model card that ships in ``fer_edge/models``, as GitHub includes no file in another.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from stream_figures import (
    abstention,
    detectors,
    near_infrared,
    schedule_figures,
    smoothing,
    trackers,
    turned_faces,
)
from tables import origin_of, percent, read_record, table, unbroken

from fer_edge import cli
from fer_edge.models.catalogue import SHIPPED

PAGES = Path(__file__).resolve().parent
CARDS = PAGES.parent / "fer_edge" / "models"
#: Options of every command, described once.
_COMMON = {"help", "json", "verbose", "quiet"}
_PRIORS = ("training", "balanced", "uniform")


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


def priors() -> str:
    """Return accuracy and balanced accuracy under each prior."""
    record = read_record("priors")
    rows = [
        (f"`{name}`", figure["data"], figure["faces"], *_by_prior(figure["by_prior"]))
        for name, model in record["models"].items()
        for figure in model["figures"]
    ]
    header = ("weights", "data", "faces", *_PRIORS)
    return f"{table(header, rows)}\n\n{origin_of(record, 'python benchmarks/priors.py fer2013.csv.gz --photographs DIR')}"


def _by_prior(figures: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    for prior in _PRIORS:
        yield unbroken(" / ".join(percent(figures[prior][key]) for key in ("accuracy", "balanced_accuracy")))


def int8() -> str:
    """Return the accuracy of INT8 beside that of FP32."""
    record = read_record("int8_on_processors")
    rows = [
        (
            f"`{one['network']}`",
            one["backend"],
            one["faces"],
            percent(one["fp32_accuracy"]),
            percent(one["int8_accuracy"]),
            unbroken(f"{one['change_pp']:+.2f} ({one['low_pp']:+.2f} to {one['high_pp']:+.2f})"),
            percent(one["same_class"]),
        )
        for one in record["accuracy"]
    ]
    header = ("weights", "backend", "faces", "FP32, %", "INT8, %", "change, points (95 %)", "same class, %")
    return f"{table(header, rows)}\n\n{origin_of(record, 'python benchmarks/int8_on_processors.py fer2013.csv.gz')}"


def latency() -> str:
    """Return the latency of each precision and backend, with the backend's own threads and batch."""
    record = read_record("tune")
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
    return f"{table(header, rows)}\n\n{origin_of(record, 'python benchmarks/tune.py')}"


def self_test() -> str:
    """Return the time of the self-test of a session."""
    record = read_record("self_test")
    rows = [
        (one["precision"], one["backend"], one["faces"], _percentiles(one["self_test_ms"]))
        for one in record["cost"]
    ]
    header = ("precision", "backend", "faces", "self-test, ms")
    return f"{table(header, rows)}\n\n{origin_of(record, 'python benchmarks/self_test.py')}"


def _percentiles(summary: Mapping[str, float]) -> str:
    return unbroken(" / ".join(f"{summary[f'p{p}_ms']:.2f}" for p in (50, 90, 99)) + f" ({summary['n']})")


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
    "trackers": trackers,
    "schedule": schedule_figures,
    "smoothing": smoothing,
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

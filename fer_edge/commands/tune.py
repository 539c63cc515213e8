"""``fer-edge tune``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from fer_edge.commands.base import add_backend, add_bundle, add_precision, make_table, print_result
from fer_edge.commands.parser import whole
from fer_edge.commands.progress import show_progress

if TYPE_CHECKING:
    from fer_edge.runtime.choice import Candidate
    from fer_edge.runtime.timing import Timing

#: Longer than at the start of a runtime, since the user asked for the measurement.
_OPENING_S = 300.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Add arguments."""
    add_bundle(parser, nargs="?", default="default")
    parser.add_argument("--again", action="store_true", help="ignore the stored result and measure now")
    parser.add_argument(
        "--keep",
        action="store_true",
        help="store the result even if other processes disturbed the measurement, as on a machine that is always busy",
    )
    add_backend(parser, "measure this backend only")
    add_precision(parser, "measure this precision only")
    parser.add_argument(
        "--threads", type=whole(1), metavar="N", help="measure this number of CPU threads only"
    )
    parser.add_argument(
        "--max-batch", type=whole(1), metavar="N", help="measure this number of faces per batch only"
    )


def execute(args: argparse.Namespace) -> int:
    """Measure, or read the stored result, and print it."""
    from fer_edge.bundle import open_bundle
    from fer_edge.models.catalogue import find_bundle
    from fer_edge.runtime.choice import switched_off
    from fer_edge.runtime.options import make_options
    from fer_edge.runtime.timing import SEVERAL
    from fer_edge.runtime.tune import measure_candidates, tune

    options = make_options(
        backend=args.backend, precision=args.precision, threads=args.threads, max_batch=args.max_batch
    )
    bundle = open_bundle(find_bundle(args.bundle))
    with show_progress(args.quiet) as show:
        tuning = tune(
            bundle,
            options,
            again=args.again,
            keep=args.keep,
            measure=partial(measure_candidates, opening_s=_OPENING_S),
            on_progress=partial(show, "candidates"),
        )
    choice = tuning.choice
    value = {
        "bundle": str(bundle.path),
        "choice": choice.to_dict(),
        "timings": [timing.to_dict() for timing in tuning.timings],
        "date": tuning.date,
        "kept_in": None if tuning.path is None else str(tuning.path),
        "measured_now": tuning.measured_now,
        "disturbed_by": tuning.disturbed_by or None,
    }
    plain = tuning.timings[0]
    table = make_table(
        f"{bundle.spec.network}, ms a call",
        ("backend", "precision", "threads", "batch", "1 face", f"{SEVERAL} faces", "n", "state"),
        [_make_row(t, choice.candidate) for t in tuning.timings],
    )
    notes = [
        f"Chosen: {choice.candidate}: {choice.because}.",
        f"Default without a measurement: {plain.candidate}.",
        *_give_reasons(tuning.timings),
    ]
    if tuning.path is not None:
        when = "now" if tuning.measured_now else f"on {tuning.date[:10]}; --again measures now"
        notes.append(f"Measured {when}. Kept in {tuning.path}")
    elif tuning.disturbed_by:
        notes.append(
            f"Not kept: {tuning.disturbed_by}. --again measures again when the machine is idle; --keep stores it anyway."
        )
    if switched_off():
        notes.append("FER_EDGE_TUNE=0: runtimes use the default.")
    print_result(args, value, table, *notes)
    return 0


def _make_row(timing: Timing, chosen: Candidate) -> tuple[object, ...]:
    candidate = timing.candidate
    state = "slower" if timing.state == "measured" else timing.state
    return (
        candidate.backend,
        candidate.precision,
        candidate.threads or "default",
        candidate.max_batch,
        *("–" if ms is None else f"{ms:.2f}" for ms in (timing.one_face_ms, timing.four_faces_ms)),
        timing.n or "–",
        "chosen" if candidate == chosen else state,
    )


def _give_reasons(timings: Sequence[Timing]) -> list[str]:
    """Return the reasons for dropping candidates or leaving them out, each once."""
    groups: dict[tuple[str, str], list[str]] = {}
    for timing in timings:
        if timing.reason:
            groups.setdefault((timing.state, timing.reason), []).append(str(timing.candidate))
    return [
        f"{state.capitalize()}: {'; '.join(names)}: {reason}." for (state, reason), names in groups.items()
    ]

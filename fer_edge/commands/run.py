"""``fer-edge run``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from fer_edge.commands.base import print_result
from fer_edge.commands.progress import show_progress
from fer_edge.commands.run_arguments import configure, runtime_options
from fer_edge.commands.run_summary import Account, make_tables
from fer_edge.errors import UnreadableFilesError

if TYPE_CHECKING:
    from fer_edge.runtime import Runtime
    from fer_edge.sinks import Sink
    from fer_edge.sources.base import Source

__all__ = ["configure", "execute", "perform"]


def execute(args: argparse.Namespace) -> int:
    """Process the source; print the faces of the first frames and the latency of each stage.

    Returns
    -------
    int
        1 if pictures of a folder could not be read and ``--skip-bad`` is not set.

    Raises
    ------
    KeyboardInterrupt
        If the run was interrupted, after the summary until then is printed.
    """
    value, tables, account = _process(args)
    if args.jsonl == "-":
        summary = {key: item for key, item in value.items() if key != "results"}
        print(json.dumps(summary), file=sys.stderr)
    else:
        print_result(args, value, *tables)
    if account.interruption is not None:
        raise account.interruption
    return 1 if account.unreadable and not args.skip_bad else 0


def perform(args: argparse.Namespace) -> tuple[dict[str, Any], list[Table | str]]:
    """Run; return the result, and the tables and lines to print.

    Raises
    ------
    KeyboardInterrupt
        If the run was interrupted; all outputs are complete until then.
    """
    value, tables, account = _process(args)
    if account.interruption is not None:
        raise account.interruption
    return value, tables


def _process(args: argparse.Namespace) -> tuple[dict[str, Any], list[Table | str], Account]:
    options = runtime_options(args)
    from fer_edge.runtime import Runtime
    from fer_edge.sources.open import open_source

    with ExitStack() as opened:
        # Before the network is loaded or measured, which takes seconds that a wrong source would waste.
        source = opened.enter_context(closing(open_source(args.source)))
        pictures = None if args.output is None else _picture_sink(args, source)
        runtime = opened.enter_context(Runtime(args.bundle, options))
        with _sinks(args, pictures, runtime) as sinks:
            account = _consume(args, runtime, source, sinks)
        latency = {stage: summary.to_dict() for stage, summary in runtime.latency().items()}
        asked = [path for path in (args.output, args.jsonl) if path not in (None, "-")]
        written = [
            path for path in asked if Path(path).exists()
        ]  # none if interrupted before the first frame
        value = {
            "bundle": str(runtime.bundle.path),
            "backend": runtime.backend.name,
            "precision": runtime.precision,
            "detector": args.detector,
            "info": runtime.info,
            "frames": account.frames,
            "faces": account.faces,
            "interrupted": account.interruption is not None,
            "unreadable": list(account.unreadable),
            "latency_ms": latency,
            "written": [str(path) for path in written],
            "results": [result.to_dict() for result in account.shown],
        }
        tables = make_tables(account, runtime, source, latency, written)
    return value, tables, account


def _consume(args: argparse.Namespace, runtime: Runtime, source: Source, sinks: list[Sink]) -> Account:
    account, total = Account(), source.frame_count or 0
    with show_progress(args.quiet) as show:
        show("finding faces", 0, total)
        try:
            for frame, result in runtime.stream_frames(source):
                for sink in sinks:
                    sink.write(frame.image, result)
                account.add(result)
                show("finding faces", account.frames, total)
                if account.frames == args.max_frames:
                    break
        except UnreadableFilesError as error:  # raised after the last frame
            account.unreadable = error.problems
        except KeyboardInterrupt as error:  # the results until then are kept
            account.interruption = error
    return account


def _picture_sink(args: argparse.Namespace, source: Source) -> Sink:
    from fer_edge.sinks import picture_sink

    return picture_sink(args.output, source)


@contextmanager
def _sinks(args: argparse.Namespace, pictures: Sink | None, runtime: Runtime) -> Iterator[list[Sink]]:
    from fer_edge.sinks import JsonLinesSink

    sinks: list[Sink] = []
    try:
        if pictures is not None:
            sinks.append(pictures)
        if args.jsonl:
            sinks.append(JsonLinesSink(args.jsonl, runtime.info))
        yield sinks
    except (KeyboardInterrupt, BrokenPipeError):  # keep the results until then
        for sink in sinks:
            sink.close()
        raise
    except BaseException:
        for sink in sinks:
            sink.discard()
        raise
    for sink in sinks:
        sink.close()

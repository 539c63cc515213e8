"""The command line: ``fer-edge COMMAND``, also as ``python -m fer_edge``.

=========  =====================================================================================
exit code  meaning
=========  =====================================================================================
0          done
1          the work failed: bad data, a bound missed, a package, file or device missing
2          wrong usage: an unknown name, a value out of range, arguments that contradict each other
129        hung up (SIGHUP)
130        interrupted (SIGINT, Ctrl-C)
141        the reader of the output has closed the pipe (SIGPIPE)
143        terminated (SIGTERM)
=========  =====================================================================================

Only the module of the selected command is imported, so that ``--version`` and a mistyped name are answered at once.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from fer_edge._utils.version import __version__
from fer_edge.commands.parser import Parser
from fer_edge.errors import FerEdgeError, UsageError
from fer_edge.system.extras import explain_missing_module

if TYPE_CHECKING:
    from fer_edge.commands.base import Command


@dataclass(frozen=True)
class Entry:
    """One command: its module in :mod:`fer_edge.commands`, and a line of help."""

    module: str
    help: str


COMMANDS: Mapping[str, Entry] = {
    "demo": Entry("demo", "build the INT8 bundle of the default model and run it on one photograph"),
    "models": Entry("models", "list the networks, their papers and the sources of their weights"),
    "export": Entry("export", "write a network as ONNX, checked against PyTorch"),
    "build": Entry("build", "make a bundle from weights: export, calibrate, quantise, compare"),
    "run": Entry("run", "find faces in an image, folder, video or camera and classify their expressions"),
    "tune": Entry(
        "tune", "measure which backend, precision, thread count and batch size are fastest on this machine"
    ),
    "eval": Entry("evaluate", "accuracy, macro-F1, calibration error and confusion matrix on labelled faces"),
    "explain": Entry("explain", "draw heat maps of the evidence for a prediction: attention or Grad-CAM"),
    "emfacs": Entry(
        "emfacs", "overlap of attention or Grad-CAM maps with the action units of each expression"
    ),
    "inspect": Entry("inspect", "verify every file of a bundle and show its contents"),
    "train": Entry("train", "train a network by a recipe"),
    "doctor": Entry(
        "doctor", "check the capabilities of this machine, and name the command for each missing part"
    ),
}
_HUNG_UP, _INTERRUPTED, _CLOSED_PIPE, _TERMINATED = 129, 130, 141, 143
_SIGNALS = {signal.SIGTERM: _TERMINATED, signal.SIGHUP: _HUNG_UP}


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP, handled as Ctrl-C: open outputs are finished."""

    def __init__(self, code: int) -> None:
        super().__init__()
        self.code = code


def make_parser(arguments: Sequence[str] = ()) -> Parser:
    """Return the parser; only the command named in ``arguments`` gets its own arguments."""
    parser = Parser(
        prog="fer-edge",
        description="Facial expression recognition on edge devices.",
        epilog="Exit codes: 0 done, 1 the work failed, 2 wrong usage, 129 hung up, 130 interrupted, 141 output "
        "closed, 143 terminated.",
    )
    parser.add_argument("-V", "--version", action="version", version=f"fer-edge {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    for name, entry in COMMANDS.items():
        command = subparsers.add_parser(
            name, help=entry.help, description=entry.help[0].upper() + entry.help[1:] + "."
        )
        if name in arguments:
            _configure(command, entry)
    return parser


def _configure(command: Parser, entry: Entry) -> None:
    module: Command = importlib.import_module(f"fer_edge.commands.{entry.module}")
    command.add_argument("--json", action="store_true", help="print JSON instead of tables")
    loudness = command.add_mutually_exclusive_group()
    loudness.add_argument(
        "-v", "--verbose", action="count", default=0, help="log more to standard error; -vv for debugging"
    )
    loudness.add_argument("-q", "--quiet", action="store_true", help="suppress progress and warnings")
    module.configure(command)
    command.set_defaults(execute=module.execute)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    _prepare_streams()
    if "_ARGCOMPLETE" in os.environ:
        _complete()
    with _signals(), _log_settings():
        try:
            args = make_parser(arguments).parse_args(arguments)
            _set_loudness(args)
            try:
                code = int(args.execute(args))
                sys.stdout.flush()  # here, so that a closed pipe is still caught
                return code
            except ModuleNotFoundError as error:
                if (explained := explain_missing_module(error)) is None:
                    raise
                raise explained from error
        except FerEdgeError as error:
            print(f"fer-edge {args.command}: {error}", file=sys.stderr)
            return 2 if isinstance(error, UsageError) else 1
        except BrokenPipeError:
            # The interpreter flushes again at exit, and would report the closed pipe.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return _CLOSED_PIPE
        except OSError as error:
            print(f"fer-edge {args.command}: {error}", file=sys.stderr)
            return 1
        except Terminated as error:
            return error.code
        except KeyboardInterrupt:
            return _INTERRUPTED


def _prepare_streams() -> None:
    """Write characters that the output encoding lacks as ``\\x…``, instead of failing after the work."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller: >&-
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115  # for good
        stream = getattr(sys, name)
        with suppress(AttributeError):  # a host's own stream
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def _signals() -> Iterator[None]:
    """Handle SIGTERM and SIGHUP like Ctrl-C; signals that the caller ignores (``nohup``) stay ignored."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise Terminated(_SIGNALS[signal.Signals(number)])

    before = {}
    with suppress(ValueError):  # not the main thread of the process
        for number in _SIGNALS:
            if signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _log_settings() -> Iterator[None]:
    """Restore level and handlers of the package's log, for programs that call :func:`main`."""
    import logging

    log = logging.getLogger("fer_edge")
    level, handlers = log.level, list(log.handlers)
    try:
        yield
    finally:
        log.setLevel(level)
        log.handlers[:] = handlers


def _set_loudness(args: argparse.Namespace) -> None:
    """Set the log level of the package: warnings by default, more with ``-v``, errors only with ``-q``."""
    import logging

    levels = (logging.WARNING, logging.INFO, logging.DEBUG)
    level = logging.ERROR if args.quiet else levels[min(args.verbose, 2)]
    log = logging.getLogger("fer_edge")
    log.setLevel(level)
    if args.verbose and not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
        log.addHandler(handler)


def _complete() -> None:
    """Print the shell's completions and exit; return if argcomplete is not installed."""
    with suppress(ImportError):
        import argcomplete

        words = os.environ.get("COMP_LINE", "").split()
        argcomplete.autocomplete(make_parser(words))


if __name__ == "__main__":
    sys.exit(main())

"""The command line: ``fer-edge COMMAND``.

Exit codes: 0 done, 1 the work failed, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from fer_edge import __version__
from fer_edge.errors import FerEdgeError, UsageError

#: Command → module in fer_edge.commands.
COMMANDS = {
    "demo": "demo",
    "models": "models",
    "export": "export",
    "build": "build",
    "run": "run",
    "eval": "evaluate",
    "explain": "explain",
    "emfacs": "emfacs",
    "inspect": "inspect",
    "train": "train",
    "doctor": "doctor",
}


def make_parser() -> argparse.ArgumentParser:
    """Return the parser with every command."""
    parser = argparse.ArgumentParser(
        prog="fer-edge", description="Facial expression recognition on edge devices."
    )
    parser.add_argument("--version", action="version", version=f"fer-edge {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module_name in COMMANDS.items():
        module = importlib.import_module(f"fer_edge.commands.{module_name}")
        command = subparsers.add_parser(name, help=module.help, description=module.help.capitalize() + ".")
        command.add_argument("--json", action="store_true", help="print JSON instead of tables")
        module.configure(command)
        command.set_defaults(execute=module.execute)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    args = make_parser().parse_args(arguments)
    try:
        return int(args.execute(args))
    except FerEdgeError as error:
        print(f"fer-edge {args.command}: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except OSError as error:
        print(f"fer-edge {args.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())

"""``fer-edge demo``."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable
from pathlib import Path

from fer_edge._utils.images import read_image
from fer_edge.commands import build as build_command
from fer_edge.commands import run as run_command
from fer_edge.commands.base import print_result
from fer_edge.commands.parser import Parser
from fer_edge.outputs import FOLDER, Output, check_outputs
from fer_edge.system.extras import require_extra


def configure(parser: argparse.ArgumentParser) -> None:
    """Add arguments."""
    parser.add_argument(
        "--image", type=Path, metavar="FILE", help="a photograph; default: one from scikit-image"
    )
    parser.add_argument("--output", type=Path, default=Path("demo"), metavar="DIR")


def execute(args: argparse.Namespace) -> int:
    """Run ``build --int8`` and ``run`` on a photograph."""
    image = args.image or sample_photograph()
    read_image(image)  # fail before the build
    bundle, picture = args.output / "conv-attention-int8.fer", args.output / "annotated.png"
    building = _parse(args, build_command.configure, "--int8", "--overwrite", "--output", str(bundle))
    check_outputs([Output("--output", args.output, FOLDER), Output("--output", picture)], (image,))
    built, build_tables = build_command.perform(building)
    arguments = (str(bundle), "--source", str(image), "--output", str(picture))
    ran, run_tables = run_command.perform(_parse(args, run_command.configure, *arguments))
    print_result(args, {"build": built, "run": ran}, *build_tables, *run_tables)
    return 0


def _parse(
    args: argparse.Namespace, configure: Callable[[argparse.ArgumentParser], None], *arguments: str
) -> argparse.Namespace:
    """Parse the arguments of another command, including the shared options."""
    parser = Parser()
    parser.set_defaults(json=args.json, quiet=args.quiet, verbose=args.verbose)
    configure(parser)
    found: argparse.Namespace = parser.parse_args(arguments)
    return found


def sample_photograph() -> Path:
    """Return the astronaut of scikit-image (NASA, public domain), found without importing it.

    Raises
    ------
    MissingExtraError
        If scikit-image is not installed.
    """
    require_extra("demo", "without --image FILE the demo")
    found = importlib.util.find_spec("skimage")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "data" / "astronaut.png"

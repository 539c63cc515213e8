"""``fer-edge train``."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
from pathlib import Path

from fer_edge.commands.base import make_table, percent, print_result, progress_bars
from fer_edge.errors import UsageError, lookup

name = "train"
help = "train a network by a recipe"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add arguments."""
    parser.add_argument("--recipe", default="conv-attention-ferplus", metavar="NAME")
    parser.add_argument(
        "--data", type=Path, required=True, metavar="PATH", help="fer2013.csv[.gz] or an image folder"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--epochs", type=int, metavar="N", help="instead of the recipe's")
    parser.add_argument("--max-steps", type=int, metavar="N", help="stop early, for a trial")
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint in --output")


def execute(args: argparse.Namespace) -> int:
    """Train and show the last epochs."""
    if importlib.util.find_spec("torch") is None:
        raise UsageError("training needs PyTorch: run pip install 'fer-edge[export]'")
    from fer_edge.export.training.loop import EpochMetrics, train
    from fer_edge.export.training.recipes import RECIPES

    recipe = lookup(RECIPES, args.recipe, "recipe")
    if args.epochs is not None:
        recipe = dataclasses.replace(recipe, epochs=args.epochs)
    epochs: list[EpochMetrics] = []
    with progress_bars() as show:
        weights = train(
            recipe,
            args.data,
            args.output,
            resume=args.resume,
            max_steps=args.max_steps,
            on_step=lambda step, total, loss: show("training", step, total),
            on_epoch=epochs.append,
        )
    rows = [
        (
            m.epoch,
            f"{m.train_loss:.4f}",
            f"{m.validation_loss:.4f}",
            percent(m.validation_accuracy),
            percent(m.validation_macro_f1),
        )
        for m in epochs[-10:]
    ]
    columns = ("epoch", "training loss", "held-out loss", "accuracy", "macro-F1")
    value = {"weights": str(weights), "epochs": [dataclasses.asdict(m) for m in epochs]}
    print_result(args, value, make_table(args.recipe, columns, rows), f"Wrote {weights}")
    return 0

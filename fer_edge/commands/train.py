"""``fer-edge train``."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from fer_edge._utils.file_kinds import refuse_foreign
from fer_edge.commands.base import add_reading, make_table, percent, print_result
from fer_edge.commands.parser import offer, whole
from fer_edge.commands.progress import show_progress
from fer_edge.errors import UsageError, lookup
from fer_edge.outputs import FOLDER, Output, check_outputs
from fer_edge.system.extras import require_extra

if TYPE_CHECKING:
    from fer_edge.export.training.history import EpochMetrics
    from fer_edge.export.training.recipe import Recipe

#: Keys of :data:`fer_edge.export.training.recipes.RECIPES`, which needs PyTorch to import.
RECIPE_NAMES = (
    "conv-attention-ferplus",
    "conv-attention-fer2013",
    "visual-attention-fer2013",
    "resmasking",
    "resmasking-vemo",
    "feratt",
    "emotionaldan",
    "conv-attention",
    "visual-attention",
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add arguments."""
    text = f"one of {', '.join(RECIPE_NAMES)}"
    recipe = parser.add_argument("--recipe", default=RECIPE_NAMES[0], metavar="NAME", help=text)
    offer(recipe, lambda: RECIPE_NAMES)
    parser.add_argument("--data", type=Path, required=True, metavar="PATH", help="labelled faces")
    parser.add_argument(
        "--split", metavar="NAME", help="part of the data to train on; default: its training part"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint in --output")
    parser.add_argument(
        "--initial",
        type=Path,
        metavar="FILE",
        help="start from these weights: our .safetensors or a checkpoint",
    )
    parser.add_argument(
        "--epochs", type=whole(1), metavar="N", help="epochs of every phase; default: those of the recipe"
    )
    parser.add_argument(
        "--batch-size", type=whole(1), metavar="N", help="faces per batch; default: that of the recipe"
    )
    parser.add_argument(
        "--fold", type=whole(1), metavar="K", help="fold of subjects to hold out, counted from 1"
    )
    parser.add_argument(
        "--drop-classes", nargs="+", metavar="CLASS", help="classes to leave out, by their names in the data"
    )
    parser.add_argument("--images", type=whole(1), metavar="N", help="largest number of images, for a trial")
    parser.add_argument("--max-steps", type=whole(1), metavar="N", help="stop early, for a trial")
    parser.add_argument(
        "--checkpoint-steps", type=whole(1), metavar="N", help="save a checkpoint every N steps too"
    )
    parser.add_argument(
        "--backgrounds",
        type=Path,
        metavar="DIR",
        help="background images for rendered faces (feratt); default: generated ones",
    )
    parser.add_argument(
        "--landmarks", default="face-mesh", metavar="NAME",
        help="landmark predictor for data without landmarks (emotionaldan): face-mesh or mtcnn-mean-face",
    )  # fmt: skip
    parser.add_argument(
        "--landmark-model", type=Path, metavar="FILE", help="model file of the landmark predictor"
    )
    add_reading(parser)


def execute(args: argparse.Namespace) -> int:
    """Train, and print the last epochs."""
    lookup(dict.fromkeys(RECIPE_NAMES), args.recipe, "recipe")
    given = (args.data, args.initial, args.backgrounds, args.landmark_model)
    check_outputs([Output("--output", args.output, FOLDER)], given)
    if args.initial is not None:
        refuse_foreign(args.initial)
    require_extra("export", "training")
    from fer_edge.export.checkpoints import load_any
    from fer_edge.export.training.data.batches import DataOptions
    from fer_edge.export.training.loop import TrainOptions, train

    epochs: list[EpochMetrics] = []
    with show_progress(args.quiet) as show:
        weights = train(
            _recipe(args),
            DataOptions(
                path=args.data,
                cache=args.output,
                split=args.split,
                limit=args.images,
                skip_bad=args.skip_bad,
                class_order=args.class_order,
                backgrounds=args.backgrounds,
                landmark_predictor=args.landmarks,
                landmark_model=args.landmark_model,
                on_progress=show,
            ),
            args.output,
            TrainOptions(
                resume=args.resume,
                initial=None if args.initial is None else load_any(args.initial, None),
                max_steps=args.max_steps,
                checkpoint_steps=args.checkpoint_steps,
            ),
            on_step=lambda step, total, loss: show("training", step, total),
            on_epoch=epochs.append,
        )
    rows = [_row(m) for m in epochs[-10:]]
    columns = ("epoch", "training loss", "held-out loss", "accuracy", "macro-F1")
    value = {"weights": str(weights), "epochs": [m.to_row() for m in epochs]}
    print_result(args, value, make_table(args.recipe, columns, rows), f"Wrote {weights}")
    return 0


def _recipe(args: argparse.Namespace) -> Recipe:
    from fer_edge.export.training.recipes import RECIPES

    recipe = lookup(RECIPES, args.recipe, "recipe")
    if args.epochs is not None:
        recipe = recipe.with_epochs(args.epochs)
    if args.batch_size is not None:
        recipe = dataclasses.replace(recipe, batch_size=args.batch_size)
    if args.fold is not None:
        if not 0 < args.fold <= recipe.subject_folds:
            raise UsageError(
                f"expected a --fold from 1 to {recipe.subject_folds} for {args.recipe}, found {args.fold}. "
                "Fix: give a fold in that range"
            )
        recipe = dataclasses.replace(recipe, fold=args.fold - 1)
    if args.drop_classes:
        recipe = dataclasses.replace(recipe, dropped_classes=tuple(args.drop_classes))
    return recipe


def _row(metrics: EpochMetrics) -> tuple[object, ...]:
    shares = (metrics.validation_accuracy, metrics.validation_macro_f1)
    return (
        metrics.epoch,
        f"{metrics.train_loss:.4f}",
        f"{metrics.validation_loss:.4f}",
        *("" if share is None else percent(share) for share in shares),
    )

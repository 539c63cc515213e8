"""``fer-edge inspect``."""

from __future__ import annotations

import argparse

from fer_edge.bundle import Manifest, open_bundle
from fer_edge.commands.base import add_bundle, make_table, megabytes, percent, print_result, prior_text
from fer_edge.models.catalogue import find_bundle
from fer_edge.probabilities import make_rule


def configure(parser: argparse.ArgumentParser) -> None:
    """Add arguments."""
    add_bundle(parser, nargs="?", default="default")


def execute(args: argparse.Namespace) -> int:
    """Verify a bundle, and print its contents."""
    bundle = open_bundle(find_bundle(args.bundle))
    manifest, spec = bundle.manifest, bundle.spec
    facts = [
        ("network", spec.network),
        ("precision", manifest.precision),
        ("input", f"{spec.channels}×{spec.input_height}×{spec.input_width}, {spec.color}"),
        ("crop", f"{spec.crop.shape} × {spec.crop.scale}, edge {spec.crop.edge}"),
        ("classes", ", ".join(spec.class_names)),
        ("training labels", _frequencies(manifest)),
        ("default prior", prior_text(make_rule(manifest))),
        *(
            (key, manifest.provenance[key])
            for key in ("paper", "weights", "licence", "remark", "address", "data")
            if key in manifest.provenance
        ),
    ]
    files = [(name, megabytes(record.size), record.sha256[:16]) for name, record in manifest.files.items()]
    print_result(
        args,
        {"bundle": str(bundle.path), "verified": True, **manifest.to_dict()},
        make_table(str(bundle.path), ("", "value"), facts),
        make_table("Files, all verified", ("file", "size", "sha256"), files),
    )
    return 0


def _frequencies(manifest: Manifest) -> str:
    if manifest.class_frequencies is None:
        return "class frequencies unknown"
    return ", ".join(f"{name} {percent(share)}" for name, share in manifest.class_frequencies.items())

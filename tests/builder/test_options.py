"""``build_command`` returns a command that ``fer-edge build`` parses to the same options."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import fields
from pathlib import Path

import pytest

from fer_edge.builder.options import BuildOptions, build_command
from fer_edge.commands import build as command


def parsed(text: str) -> BuildOptions:
    program, name, *words = shlex.split(text)
    assert (program, name) == ("fer-edge", "build")
    parser = argparse.ArgumentParser()
    command.configure(parser)
    values = vars(parser.parse_args(words))
    options = {field.name: values[field.name] for field in fields(BuildOptions)}
    return BuildOptions(**{**options, "compute_capabilities": tuple(options["compute_capabilities"])})


EVERY_OPTION = BuildOptions(
    model="visual-attention",
    weights="my weights; rm -rf.safetensors",
    precision="fp16",
    backend="openvino",
    calibration_data=Path("faces of mine"),
    calibration_split="Training",
    calibration_images=7,
    comparison_images=8,
    generator="noise",
    method="mse",
    max_drop=0.5,
    min_cosine=0.99,
    min_agreement=0.9,
    sensitivity=True,
    sensitivity_images=9,
    eval_data=Path("it's.csv"),
    eval_split="PublicTest",
    eval_labels="ferplus",
    skip_bad=True,
    class_order="happy,sad",
    output=Path("out put.fer"),
    overwrite=True,
    attention=True,
    compute_capabilities=("8.6", "12.0"),
    plugin="required",
    canonical_shape=Path("shape.npy"),
    image_statistics=Path("statistics.npz"),
    weights_sha256="0123456789abcdef" * 4,
)


def test_every_option_has_another_value_here() -> None:
    default = BuildOptions()
    assert all(getattr(EVERY_OPTION, f.name) != getattr(default, f.name) for f in fields(BuildOptions))


@pytest.mark.parametrize(
    "options", [BuildOptions(), EVERY_OPTION, BuildOptions(plugin="none", precision="fp32")]
)
def test_the_command_asks_for_the_same(options: BuildOptions) -> None:
    assert parsed(build_command(options)) == options


def test_changes_are_made() -> None:
    assert build_command(BuildOptions(), min_cosine=0.99) == "fer-edge build --int8 --min-cosine 0.99"

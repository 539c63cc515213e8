"""Mistyped options and names and numbers out of range are errors before any work."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fer_edge.cli import COMMANDS, make_parser
from fer_edge.commands.parser import number, whole
from fer_edge.errors import closest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["biuld"], "unknown 'biuld'. Fix: .*did you mean 'build'"),
        (["RUN", "--source", "0"], "did you mean 'run'"),
        (["run", "--sorce", "0"], r"unknown option --sorce \(did you mean '--source'|required: --source"),
        (
            ["run", "--source", "0", "--ouput=x.png"],
            r"unknown option --ouput=x.png \(did you mean '--output'",
        ),
        (["run", "--source", "0", "--out", "x.png"], "unknown option --out"),
        (["run", "default", "photo.jpg", "--source", "0"], "'photo.jpg' is one argument too many"),
        (
            ["run", "default", "a photo.jpg"],
            r"required: --source. Fix: .*did you mean --source 'a photo.jpg'\?\)",
        ),
        (["run", "rtsp://camera/1"], r"required: --source. Fix: .*did you mean --source rtsp://camera/1\?\)"),
        (["run", __file__], r"did you mean --source \S+test_parser.py\?\)"),
        (["run", "default", "--backend", "openvino"], "required: --source$"),
        (["run", "default", "--sorce", "0"], r"required: --source. Fix: .*did you mean --source 0\?\)"),
        (["run", "--source", "0", "--precision", "INT8"], "unknown 'INT8'. Fix: .*did you mean 'int8'"),
        (["build", "--calibration-images", "many"], "a whole number of at least 1, found 'many'"),
        (["build", "--min-cosine", "1.5"], "a number from -1 to 1, found '1.5'"),
        (["explain", "default", "a.png", "--output", "b.png", "--stage", "9"], "from 1 to 4, found '9'"),
        (["models", "-v", "-q"], "not allowed with"),
    ],
)
def test_what_is_mistyped_is_named(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import re

    with pytest.raises(SystemExit) as stopped:
        make_parser(arguments).parse_args(arguments)
    captured = capsys.readouterr()
    assert stopped.value.code == 2
    assert re.search(message, captured.err.rstrip())
    assert captured.err.startswith("usage:")
    assert captured.out == ""


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e999", "", "0x10", "1_0e400"])
def test_no_number_is_out_of_range(text: str) -> None:
    import argparse

    for read in (number(0, 1), number(0), whole(0)):
        with pytest.raises(argparse.ArgumentTypeError):
            read(text)


def test_case_is_no_obstacle_to_a_suggestion() -> None:
    assert closest("RESMASKING", ["resmasking", "resnet18"]) == " (did you mean 'resmasking'?)"
    assert closest("Happines", ["Happiness"]) == " (did you mean 'Happiness'?)"
    assert closest("zzz", ["resmasking"]) == ""


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - {"doctor", "explain", "emfacs"}))
def test_typing_errors_show_before_anything_heavy_is_imported(command: str) -> None:
    program = (
        "import sys\n"
        "from fer_edge.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as stopped: assert stopped.code == 2\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'openvino', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, command, "--mistyped"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr

"""Tables and lines of the command line show what they are given, square brackets included."""

from __future__ import annotations

import argparse

import pytest

from fer_edge.commands.base import make_table, print_result


def test_square_brackets_are_shown_and_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    table = make_table("Fixes", ("", "command"), [("[red]layer[/red]", "pip install 'fer-edge[openvino]'")])
    print_result(argparse.Namespace(json=False), {}, table, "Bundle: [a]/b.fer")
    shown = capsys.readouterr().out
    assert "pip install 'fer-edge[openvino]'" in shown
    assert "[red]layer[/red]" in shown
    assert "Bundle: [a]/b.fer" in shown
